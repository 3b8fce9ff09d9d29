"""Linear estimators: a plan of mask patterns with a weight for every token that is read.

For a model that masks tokens, with n open tokens and l(i, M) = log p(x_i | all but M), these are one number, the evidence lower bound (ELBO):

    integral over t of 1/t E_{M ~ Bernoulli(t)} sum_{i in M} l(i, M)         `t`  (MDLM, arXiv 2406.07524)
    = sum over k = 1..n of 1/k E_{|M| = k} sum_{i in M} l(i, M)              `k`  (LLaDA, arXiv 2502.09992)
    = E over orders of sum_j l(j-th token, tokens from the j-th on)          `chain`  (any-order models, arXiv 2110.02037)

Shape letters: n = open tokens, R = mask patterns, P = replicates.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from dlm_eval.engine import Ints
from dlm_eval.errors import SampleError
from dlm_eval.noise import Noise
from dlm_eval.scoring.registry import MAX_EXACT, EstimatorSettings
from dlm_eval.scoring.target import Bools, Floats
from dlm_eval.uncertainty import EXACT, FEWEST, UNKNOWN, Error

TINY = 1e-9  # of a value's size: smaller spreads are rounding
EPSILON = 1e-3  # smallest t of MDLM's, Dream's and SEDD's losses


@dataclass(frozen=True, eq=False)
class Plan:
    """Mask patterns whose weighted log-probabilities estimate a score: the mean over P replicates of each one's weighted sum.

    Attributes:
        hidden: [R, n] which tokens each pattern hides.
        weight: [R, n] weight of each log-probability (0.0 where it is not read).
        replicate: [R] which replicate a pattern belongs to.
        stratum: [P] replicates with one number are drawn alike; the standard error comes from their spread. Empty where nothing is drawn.
    """

    hidden: Bools
    weight: Floats
    replicate: Ints
    stratum: Ints

    def replicates(self, logs: Floats) -> Floats:
        """Returns the [P] values of the replicates from log-probabilities [R, n]. A token that is not read never turns 0 * -inf into nan."""
        terms = np.where(self.weight != 0, self.weight * np.where(self.weight != 0, logs, 0.0), 0.0).sum(1)
        count = max(1, len(self.stratum))
        return np.asarray(np.bincount(self.replicate, weights=terms, minlength=count)[:count], dtype=np.float64)


Builder = Callable[[int, EstimatorSettings, Noise], Plan]


def neighbours(count: int) -> Ints:
    """Returns strata of two neighbours each (the last of three where `count` is odd).

    Draws on a grid are one to a stratum, which has no spread; merging neighbours overstates the error a little ("collapsed strata").
    """
    return np.minimum(np.arange(count) // 2, max(0, count // 2 - 1)).astype(np.int64)


def draws_error(values: Floats, stratum: Ints) -> Error:
    """Returns the Monte Carlo error (nats) of the mean of `values` [P].

    Unknown where a stratum of one tells nothing of it; and where all draws agree: that does not prove that others would. Of fewer than `FEWEST` draws
    it is rough: known only in sums.
    An infinite value makes the mean infinite whatever else is drawn: its error is 0. The degrees of freedom are half of Satterthwaite's (with squares of
    variances that are unbiased for normal draws): draws have longer tails than normal ones, so that their variance is known half as well (docs/likelihood.md).
    """
    if len(stratum) == 0 or not np.isfinite(values).all():
        return EXACT
    sizes = np.bincount(stratum)
    if sizes.min() < 2:
        return UNKNOWN
    means = np.bincount(stratum, weights=values) / sizes
    own = sizes - 1
    spread = np.bincount(stratum, weights=(values - means[stratum]) ** 2) / own * sizes
    total = float(spread.sum())
    stderr = math.sqrt(total) / len(values)
    if stderr <= TINY * (1 + float(np.abs(values).max())):
        return UNKNOWN
    if len(values) < FEWEST:
        return Error(None, float(own.sum()) / 2, stderr)
    return Error(stderr, max(2.0, min(float(own.sum()), total**2 / float((spread**2 / (own + 2)).sum())) / 2))


def deviations(values: Floats, stratum: Ints) -> Floats:
    """Returns [P] values less the mean of their stratum; zeros where the error is 0 or nothing is drawn."""
    if len(stratum) == 0 or not np.isfinite(values).all():
        return np.zeros(len(values))
    return np.asarray(values - (np.bincount(stratum, weights=values) / np.bincount(stratum))[stratum])


def subsets(n: int) -> Bools:
    """Returns all 2^n mask patterns [2^n, n]; bit i of a row's number says whether it hides token i."""
    return (np.arange(2**n)[:, None] >> np.arange(n) & 1).astype(bool)


def enumerable(n: int, forwards: int) -> bool:
    """Returns whether all mask patterns of n tokens fit into `forwards`."""
    return n <= MAX_EXACT and 2**n - 1 <= forwards


def exact(n: int, settings: EstimatorSettings, noise: Noise) -> Plan:
    """Returns every pattern once, weight 1 / (k C(n, k)) at size k: the ELBO without noise."""
    if n > MAX_EXACT:
        raise SampleError(
            f"exact needs 2^{n}-1 forwards for {n} open tokens; it is allowed up to {MAX_EXACT}: use auto"
        )
    hidden = subsets(n)[1:]
    sizes = hidden.sum(1)
    weights = np.array([1.0 / (k * math.comb(n, k)) for k in range(1, n + 1)])
    return Plan(
        hidden, hidden * weights[sizes - 1, None], np.zeros(len(hidden), dtype=np.int64), np.zeros(0, dtype=np.int64)
    )


def smallest(uniforms: Floats, sizes: Ints) -> Bools:
    """Returns [R, n] true at the `sizes` [R] smallest of each row of `uniforms` [R, n]: random sets of given sizes.

    Rows of different n but equal noise choose alike among the positions they share, which couples the choices of a question.
    """
    ranks = uniforms.argsort(1).argsort(1)
    return np.asarray(ranks < sizes[:, None])


def _draws(noise: Noise, stream: str, count: int, n: int) -> Floats:
    return np.stack([noise.uniforms(stream, draw, n) for draw in range(count)])


def grid_sizes(n: int, count: int, shift: float) -> Ints:
    """Returns [count] sizes in 1..n on a systematic grid: each one uniform, all together as even as can be."""
    return np.floor(n * (np.arange(count) + shift) / count).astype(np.int64).clip(0, n - 1) + 1


def _sized(n: int, sizes: Ints, noise: Noise, stream: str) -> Plan:
    hidden = smallest(_draws(noise, stream, len(sizes), n), sizes)
    weight = hidden * (n / sizes)[:, None]
    return Plan(hidden, weight, np.arange(len(sizes)), neighbours(len(sizes)))


def k_stratified(n: int, settings: EstimatorSettings, noise: Noise) -> Plan:
    """Returns `samples` patterns of sizes stratified over 1..n, weight n/k."""
    return _sized(n, grid_sizes(n, settings.samples, noise.uniforms("k", 0, 1)[0]), noise, "k hidden")


def llada(n: int, settings: EstimatorSettings, noise: Noise) -> Plan:
    """Returns the draws of LLaDA's get_log_likelihood: in each batch, sizes from a random first one on, n/batch apart, rounded, modulo n."""
    sizes: list[Ints] = []
    for number in range(math.ceil(settings.samples / settings.batch)):
        first = 1 + int(n * noise.uniforms("llada", number, 1)[0])
        last = first + (settings.batch - 1) * (n / settings.batch)
        steps = (
            torch.linspace(first, last, settings.batch).round().long().numpy()
        )  # in float32, where a half may be none
        sizes.append((steps - 1) % n + 1)
    return _sized(n, np.concatenate(sizes)[: settings.samples], noise, "llada hidden")


def _bernoulli(n: int, chances: Floats, weights: Floats, noise: Noise, stream: str) -> Plan:
    hidden = _draws(noise, stream, len(chances), n) < chances[:, None]
    return Plan(hidden, hidden * weights[:, None], np.arange(len(chances)), neighbours(len(chances)))


def t_stratified(n: int, settings: EstimatorSettings, noise: Noise) -> Plan:
    """Returns `samples` Bernoulli(t) patterns, t stratified over (0, 1], weight 1/t."""
    times = (np.arange(settings.samples) + 1 - noise.uniforms("t", 0, settings.samples)) / settings.samples
    return _bernoulli(n, times, 1 / times, noise, "t hidden")


def mdlm(n: int, settings: EstimatorSettings, noise: Noise) -> Plan:
    """Returns MDLM's loss: t stratified over [0.001, 1], hidden with probability (1 - 0.001) t (its log-linear schedule), weight 1/t."""
    times = (
        EPSILON
        + (1 - EPSILON) * (np.arange(settings.samples) + noise.uniforms("mdlm", 0, settings.samples)) / settings.samples
    )
    return _bernoulli(n, (1 - EPSILON) * times, 1 / times, noise, "mdlm hidden")


def dream(n: int, settings: EstimatorSettings, noise: Noise) -> Plan:
    """Returns Dream's _eval_target_nll_mc: in each batch p on a randomly shifted grid over [0.001, 1], weight 1/p."""
    count, batch = settings.samples, settings.batch
    shifts = np.array([noise.uniforms("dream", number, 1)[0] for number in range(math.ceil(count / batch))])
    times = (shifts[:, None] + np.arange(batch) / batch).ravel()[:count] % 1
    chances = EPSILON + (1 - EPSILON) * times
    return _bernoulli(n, chances, 1 / chances, noise, "dream hidden")


def diffullama(n: int, settings: EstimatorSettings, noise: Noise) -> Plan:
    """Returns DiffuLLaMA's eval_forward: one Bernoulli(t) pattern for t = T/T..1/T, mean loss per hidden token (0 where none is).

    With weighting '1/t' (Eq. 6 of arXiv 2410.17891): the summed loss over t, divided by n ("averaged by token").
    """
    times = np.arange(settings.steps, 0, -1) / settings.steps
    hidden = _draws(noise, "diffullama hidden", len(times), n) < times[:, None]
    mean = 1 / np.maximum(1, hidden.sum(1))
    weights = mean if settings.weighting == "mean" else 1 / (times * n)
    return Plan(hidden, hidden * weights[:, None], np.arange(len(times)), neighbours(len(times)))


def pseudo(n: int, settings: EstimatorSettings, noise: Noise) -> Plan:
    """Returns each token hidden alone, weight 1 (Salazar et al., arXiv 1910.14659)."""
    alone = np.eye(n, dtype=bool)
    return Plan(alone, alone.astype(np.float64), np.zeros(n, dtype=np.int64), np.zeros(0, dtype=np.int64))


def left_to_right(n: int, settings: EstimatorSettings, noise: Noise) -> Plan:
    """Returns the chain rule in reading order: token j read while j.. are hidden."""
    hidden = np.arange(n) >= np.arange(n)[:, None]
    return Plan(hidden, np.eye(n), np.zeros(n, dtype=np.int64), np.zeros(0, dtype=np.int64))


BUILDERS: dict[str, Builder] = {
    "k": k_stratified,
    "t": t_stratified,
    "left_to_right": left_to_right,
    "pseudo": pseudo,
    "llada": llada,
    "dream": dream,
    "diffullama": diffullama,
    "mdlm": mdlm,
}
