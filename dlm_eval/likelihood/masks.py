"""Estimators that are a plan of mask patterns, with a weight for every token that is read.

For a model that masks tokens, with n open tokens and l(i, M) = log p(x_i | all but M), three
expressions equal the evidence lower bound (ELBO):

    integral over t of 1/t E_{M ~ Bernoulli(t)} sum_{i in M} l(i, M)
    = sum over k = 1..n of 1/k E_{|M| = k} sum_{i in M} l(i, M)
    = E over orders of sum_j l(j-th token, tokens from the j-th on)

They belong to `mask_rate` (MDLM, arXiv 2406.07524), `mask_count` (LLaDA, arXiv 2502.09992) and
`chain` (arXiv 2110.02037).

Shape letters: n = open tokens, R = mask patterns.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from dlm_eval.canvas import Score
from dlm_eval.likelihood.estimator import Budgeted, Estimator, Guided
from dlm_eval.likelihood.exact import enumerated
from dlm_eval.likelihood.mc_error import deviations, draws_error, echo, neighbours
from dlm_eval.likelihood.patterns import (
    Bools,
    Floats,
    Ints,
    Plan,
    enumerable,
    grid_sizes,
    smallest,
    uniforms,
)
from dlm_eval.uncertainty import EXACT, Error

if TYPE_CHECKING:
    from dlm_eval.engine.rows import Program
    from dlm_eval.likelihood.target import Target
    from dlm_eval.models.denoiser import Denoiser
    from dlm_eval.rng import Noise


@dataclass(frozen=True, kw_only=True)
class Planned(Estimator):
    """An estimator whose value is the mean of the replicates of a plan of mask patterns."""

    def plan(self, n: int, noise: Noise) -> Plan:
        """Returns the plan for n open tokens."""
        raise NotImplementedError

    def estimate(self, target: Target, noise: Noise) -> Program[Score]:
        plan = self.plan(target.n, noise)
        logs = yield from target.measure(plan.hidden, plan.weight != 0)
        values = plan.replicates(logs)
        error = plan_error(plan, logs)
        if target.n == 1 and np.ptp(values) == 0:  # the only pattern has been run
            error = EXACT
        return self.score(
            float(values.mean()), error, echo=echo(deviations(values, plan.stratum), error)
        )


@dataclass(frozen=True, kw_only=True)
class MaskSampling(Planned, Budgeted, Guided):
    """The ELBO from random patterns, or from all patterns if they fit the budget."""

    kind = "lower bound"
    cost = "max_forwards"

    def estimate(self, target: Target, noise: Noise) -> Program[Score]:
        if enumerable(target.n, self.max_forwards):
            return enumerated(self, target, noise)
        return super().estimate(target, noise)


@dataclass(frozen=True, kw_only=True)
class MaskCount(MaskSampling, name="mask_count"):
    """Number k of hidden tokens uniform over 1..n, stratified, weight n/k."""

    def plan(self, n: int, noise: Noise) -> Plan:
        sizes = grid_sizes(n, self.max_forwards, noise.uniforms("k", 0, 1)[0])
        return sized_plan(n, sizes, noise, "k hidden")


@dataclass(frozen=True, kw_only=True)
class MaskRate(MaskSampling, name="mask_rate"):
    """Each token hidden with probability t, t uniform and stratified over (0, 1].

    Only patterns that hide at least one token are drawn, with weight
    P(at least one token is hidden) / t. Without this, small t would make the variance infinite.
    """

    def plan(self, n: int, noise: Noise) -> Plan:
        count = self.max_forwards
        times = (np.arange(count) + 1 - noise.uniforms("t", 0, count)) / count
        first = noise.uniforms("t first", 0, count)
        hidden, chance = some_hidden(times, first, uniforms(noise, "t hidden", count, n))
        weight = hidden * (chance / times)[:, None]
        return Plan(hidden, weight, np.arange(count), neighbours(count))


@dataclass(frozen=True, kw_only=True)
class LeftToRight(Planned, Guided, name="left_to_right"):
    """Chain rule in reading order: token j is read while it and all later tokens are hidden."""

    kind = "exact"
    cost = "n"

    def budget(self, n: int) -> int:
        return n

    def plan(self, n: int, noise: Noise) -> Plan:
        return Plan.fixed(np.arange(n) >= np.arange(n)[:, None], np.eye(n))

    def for_process(self, model: Denoiser) -> Estimator:
        from dlm_eval.models.denoiser import is_autoregressive

        return in_one_forward(self) if is_autoregressive(model) else self


class CausalChain(LeftToRight):
    """The chain rule in one forward: no prediction of an autoregressive model sees its own token or
    a later one, so nothing has to be hidden.
    """

    cost = "1"

    def budget(self, n: int) -> int:
        return 1

    def plan(self, n: int, noise: Noise) -> Plan:
        return Plan.fixed(np.zeros((1, n), dtype=bool), np.ones((1, n)))

    def for_process(self, model: Denoiser) -> Estimator:
        return self


def in_one_forward(estimator: Guided) -> CausalChain:
    """Returns the chain rule in one forward, with the guidance of `estimator`."""
    return CausalChain(cfg_scale=estimator.cfg_scale)


@dataclass(frozen=True, kw_only=True)
class Pseudo(Planned, Guided, name="pseudo"):
    """Pseudo-log-likelihood: one token hidden at a time (arXiv 1910.14659)."""

    kind = "score"
    cost = "n"

    def budget(self, n: int) -> int:
        return n

    def plan(self, n: int, noise: Noise) -> Plan:
        return Plan.fixed(np.eye(n, dtype=bool), np.eye(n))


def plan_error(plan: Plan, logs: Floats) -> Error:
    """Returns the error (nats) of the mean of the replicates from log-probabilities [R, n]."""
    error = draws_error(plan.replicates(logs), plan.stratum)
    return replace(error, least=choice_deviation(plan, logs)) if error.best else error


def choice_deviation(plan: Plan, logs: Floats) -> float:
    """Returns the standard deviation (nats) due to the random choice of hidden tokens, given their
    number.

    It assumes that no token's log-probability depends on the context. A few patterns can all miss
    an improbable token, so their spread is too small. But together they show almost every token's
    log-probability, and so the variance between tokens. The weighted sum of k of n tokens, drawn
    without replacement and with weight w each, has w^2 k (n - k) / (n - 1) times this variance.

    Args:
        plan: the patterns; all hidden tokens of a pattern have the same weight.
        logs: [R, n] log-probabilities of hidden tokens, finite.
    """
    n, times = plan.hidden.shape[1], plan.hidden.sum(0)
    seen = times > 0
    if seen.sum() < 2:
        return 0.0
    levels = np.where(plan.hidden, logs, 0.0).sum(0)[seen] / times[seen]
    sizes = plan.hidden.sum(1)
    weights = plan.weight.max(1)
    variance = float((weights**2 * sizes * (n - sizes)).sum()) / (n - 1) * float(levels.var(ddof=1))
    return math.sqrt(variance) / len(plan.stratum)


def sized_plan(n: int, sizes: Ints, noise: Noise, stream: str) -> Plan:
    """Returns random patterns of the given sizes [R], weight n/k at size k."""
    hidden = smallest(uniforms(noise, stream, len(sizes), n), sizes)
    weight = hidden * (n / sizes)[:, None]
    return Plan(hidden, weight, np.arange(len(sizes)), neighbours(len(sizes)))


def some_hidden(times: Floats, first: Floats, later: Floats) -> tuple[Bools, Floats]:
    """Returns patterns that hide at least one token, and the probability of hiding any.

    Each token is hidden with probability t, conditional on at least one hidden token. The index of
    the first hidden token has a truncated geometric distribution. Later tokens are hidden
    independently.

    Args:
        times: [...] probabilities t.
        first: [...] uniforms for the first hidden token.
        later: [..., n] uniforms for the tokens after it.

    Returns:
        Patterns [..., n], and the probability [...] that at least one token is hidden.
    """
    places = np.arange(later.shape[-1])
    with np.errstate(divide="ignore"):  # times of 1: log 0 = -inf, and the first token is hidden
        log_shown = np.log1p(-times)
    chance = -np.expm1(len(places) * log_shown)
    leader = (
        (np.log1p(-chance * first) / log_shown).astype(np.int64).clip(0, len(places) - 1)[..., None]
    )
    return (places == leader) | ((later < times[..., None]) & (places > leader)), chance


def bernoulli_plan(n: int, chances: Floats, weights: Floats, noise: Noise, stream: str) -> Plan:
    """Returns patterns that hide each token with probability `chances` [R], with `weights` [R]."""
    hidden = uniforms(noise, stream, len(chances), n) < chances[:, None]
    return Plan(
        hidden, hidden * weights[:, None], np.arange(len(chances)), neighbours(len(chances))
    )
