"""Cubature over mask patterns: the ELBO from every log-probability that K forwards give, with weights fixed beforehand.

A forward with z hidden tokens gives z log-probabilities. A rule is a set of patterns with a weight for each of them. Its tokens are relabelled at
random for every canvas, so that each log-probability of a given size is met with equal probability: the estimate is unbiased for every model as
soon as the weights of each size z add up to 1 on average (ELBO = sum over z of the mean log-probability at z hidden tokens). Among all such weights a
rule takes those of the smallest variance under a prior (prior.py): best linear unbiased prediction, which is Bayesian cubature with the size profile
as unknown fixed effects. The patterns do not depend on the data, so neither do the weights; they are computed once per (n, K).

Shape letters: n = open tokens, R = mask patterns, K = forwards.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from dlm_eval.engine import Ints
from dlm_eval.noise import Noise
from dlm_eval.scoring.design import draw_sets, size_counts, variants
from dlm_eval.scoring.prior import NUGGET, Covariances, covariances
from dlm_eval.scoring.target import Bools, Floats

KEPT = 2**14  # tokens times forwards of a rule that is worth keeping (at most about 0.2 MB)


@dataclass(frozen=True, eq=False)
class Rule:
    """A weighted set of mask patterns.

    Attributes:
        hidden: [R, n] patterns.
        weight: [R, n] of each log-probability; 0 where the token is shown.
        near: [R, R] bool, pairs of patterns that are alike, for the standard error.
        expected: [2, 2] expected spread, over all pairs and over near pairs (rows), of a unit of smooth and of rough variation (columns).
        variance: [2] of the estimate, for a unit of smooth and of rough variation.
    """

    hidden: Bools
    weight: Floats
    near: Bools
    expected: Floats
    variance: Floats

    def estimate(self, logs: Floats) -> float:
        """Returns the ELBO (nats) from log-probabilities [R, n]. One that is -inf has a positive share of the ELBO, which is then -inf."""
        logs = np.where(self.hidden, logs, 0.0)
        return -math.inf if np.isneginf(logs).any() else float((self.weight * logs).sum())

    def standard_error(self, logs: Floats) -> float:
        """Returns the standard error (nats) of `estimate` from the spread of the log-probabilities themselves; nan with a single pattern.

        The spread between all patterns and between similar ones tells how much of the variation is smooth and how much rough (a variogram); the
        rule's variance is known for each.
        """
        if np.isneginf(np.where(self.hidden, logs, 0.0)).any():
            return 0.0
        if len(self.hidden) < 2:
            return math.nan
        far = ~np.eye(len(self.near), dtype=bool)
        found = np.array([_spread(self.hidden, logs, far), _spread(self.hidden, logs, self.near)])
        smooth, rough = _split(self.expected, found)
        return math.sqrt(max(0.0, smooth * self.variance[0] + rough * self.variance[1]))


def _spread(hidden: Bools, logs: Floats, pairs: Bools) -> float:
    """Returns the sum, over tokens and over the pairs of patterns that hide them, of their squared difference (nats squared)."""
    either, read = pairs.astype(np.float64), hidden.astype(np.float64)
    centre = np.where(hidden, logs, 0.0).sum(0) / np.maximum(1, hidden.sum(0))
    values = np.where(hidden, logs - centre, 0.0)
    return float((values**2 * (either @ read)).sum() - (values * (either @ values)).sum())


def _split(expected: Floats, found: Floats) -> tuple[float, float]:
    """Returns the amounts (not below 0) of smooth and rough variation that explain the two spreads found."""
    try:
        smooth, rough = np.linalg.solve(expected, found)
    except np.linalg.LinAlgError:
        smooth, rough = 0.0, -1.0
    if rough < 0:
        return float(found[0] / max(expected[0, 0], 1e-300)), 0.0
    return (float(smooth), float(rough)) if smooth >= 0 else (0.0, float(found[0] / max(expected[0, 1], 1e-300)))


def rule(n: int, samples: int, variant: int = 0) -> Rule:
    """Returns the rule of `samples` forwards for n open tokens. Rules of usual size are kept: the choices of a task need them again and again."""
    return (_kept if n * samples <= KEPT else _build)(n, samples, variant)


@lru_cache(maxsize=512)
def _kept(n: int, samples: int, variant: int) -> Rule:
    return _build(n, samples, variant)


def _build(n: int, samples: int, variant: int) -> Rule:
    """Returns the best of several random designs: the one with the least prior variance."""
    counts = size_counts(n, samples, variant)
    totals: Floats = np.asarray(counts * (n / samples) if samples < n else np.ones(n), dtype=np.float64)
    tries = 8 if n * samples <= KEPT // 4 else 2
    rng = np.random.default_rng([n, samples, variant])
    rules = [_weigh(draw_sets(n, counts, rng), totals) for _ in range(tries)]
    return min(rules, key=lambda r: float(r.variance[0]))


def _weigh(hidden: Bools, totals: Floats) -> Rule:
    """Returns the rule with the best weights for the patterns `hidden`, those of size z adding up to totals[z - 1].

    Per token i with covariances C_i and c_i, and A the membership of patterns in sizes: minimise sum_i w_i C_i w_i - 2 w_i c_i subject to
    sum_i A w_i = totals; the multipliers couple the tokens, whose systems are otherwise their own.
    """
    n = hidden.shape[1]
    prior = covariances(hidden)
    noisy = prior.among + NUGGET * np.eye(len(hidden))
    sizes = hidden.sum(1)
    present = np.unique(sizes)
    member = (sizes[:, None] == present).astype(np.float64)
    solved: list[tuple[Ints, Floats, Floats]] = []
    coupling, excess = np.zeros((len(present), len(present))), -totals[present - 1]
    for token in range(n):
        rows = np.flatnonzero(hidden[:, token])
        right = np.concatenate([prior.mean[rows, None], member[rows]], 1)
        solution = np.linalg.solve(noisy[np.ix_(rows, rows)], right)
        solved.append((rows, solution[:, 0], solution[:, 1:]))
        coupling += member[rows].T @ solution[:, 1:]
        excess = excess + member[rows].T @ solution[:, 0]
    multipliers = np.linalg.lstsq(coupling, excess, rcond=1e-12)[0]
    weight = np.zeros(hidden.shape)
    for token, (rows, free, bound) in enumerate(solved):
        weight[rows, token] = free - bound @ multipliers
    return _with_errors(hidden, weight, prior)


def _with_errors(hidden: Bools, weight: Floats, prior: Covariances) -> Rule:
    """Returns the rule with what its standard error needs. `smooth` is the prior without the levels, `rough` is noise."""
    n = hidden.shape[1]
    shown = (~hidden).astype(np.float64)
    shared = n - shown.sum(1)[:, None] - shown.sum(1)[None] + shown @ shown.T  # tokens that both patterns hide
    apart = hidden.sum(1)[:, None] + hidden.sum(1)[None] - 2 * shared
    closest = np.min(np.where(apart == 0, n + 1, apart), axis=1)
    near = (apart > 0) & (apart <= np.maximum(closest[:, None], closest[None]) + 1)
    far = ~np.eye(len(near), dtype=bool)
    diagonal = np.diag(prior.among)
    difference = (diagonal[:, None] + diagonal[None] - 2 * prior.among) / 2
    expected = np.array([[(p * shared * difference).sum(), (p * shared).sum()] for p in (far, near)])
    smooth = float((weight * (prior.among @ weight)).sum() - 2 * (weight.T @ prior.mean).sum() + n * prior.variance)
    return Rule(hidden, weight, near, expected, np.array([max(0.0, smooth), _rough_variance(hidden, weight)]))


def _rough_variance(hidden: Bools, weight: Floats) -> float:
    """Returns the variance of the estimate where every log-probability has its own noise of variance 1 (the ELBO holds its share of it)."""
    n = hidden.shape[1]
    share = np.array([1 / (n * math.comb(n - 1, k)) for k in range(n)])  # of a context of k tokens in a token's mean
    own = share[n - hidden.sum(1)]
    return float((weight**2).sum() - 2 * (weight.sum(1) * own).sum() + share.sum())


def relabelled(n: int, samples: int, noise: Noise) -> tuple[Rule, Ints]:
    """Returns the rule for a canvas and the random order [n] of its tokens: column j of the rule is token order[j].

    The order comes from one uniform per position, which the choices of a question share.
    """
    count = variants(n, samples)
    variant = int(noise.uniforms("cubature sizes", 0, 1)[0] * count)
    return rule(n, samples, variant), noise.uniforms("cubature", 0, n).argsort()


def precision(n: int, samples: int) -> float:
    """Returns the inverse of the variance that the rule of `samples` forwards has under the prior, per nat squared."""
    if n == 1:
        return 1.0
    variance = float(rule(n, samples).variance @ (1.0, NUGGET))
    return 1.0 / max(variance, 1e-30)  # 0 for a rule of all patterns: its round outweighs every other
