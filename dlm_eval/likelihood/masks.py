"""Estimators that are a plan of mask patterns with a weight for every token that is read.

For a model that masks tokens, with n open tokens and l(i, M) = log p(x_i | all but M), these are
one number, the evidence lower bound (ELBO):

    integral over t of 1/t E_{M ~ Bernoulli(t)} sum_{i in M} l(i, M)         `mask_rate`   (MDLM, arXiv 2406.07524)
    = sum over k = 1..n of 1/k E_{|M| = k} sum_{i in M} l(i, M)              `mask_count`  (LLaDA, arXiv 2502.09992)
    = E over orders of sum_j l(j-th token, tokens from the j-th on)          `chain`       (arXiv 2110.02037)

Shape letters: n = open tokens, R = mask patterns.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from dlm_eval.canvas import Score
from dlm_eval.likelihood.estimator import Budgeted, Estimator, Guided
from dlm_eval.likelihood.exact import single_token
from dlm_eval.likelihood.mc_error import deviations, draws_error, echo, neighbours
from dlm_eval.likelihood.patterns import Floats, Ints, Plan, grid_sizes, smallest, uniforms
from dlm_eval.uncertainty import EXACT

if TYPE_CHECKING:
    from dlm_eval.engine.rows import Program
    from dlm_eval.likelihood.target import Target
    from dlm_eval.rng import Noise


@dataclass(frozen=True, kw_only=True)
class Planned(Estimator):
    """An estimator that is a plan of weighted mask patterns: the mean of its replicates."""

    def plan(self, n: int, noise: Noise) -> Plan:
        """Returns the plan for n open tokens."""
        raise NotImplementedError

    def estimate(self, target: Target, noise: Noise) -> Program[Score]:
        plan = self.plan(target.n, noise)
        logs = yield from target.measure(plan.hidden, plan.weight != 0)
        values = plan.replicates(logs)
        error = draws_error(values, plan.stratum)
        if target.n == 1 and np.ptp(values) == 0:  # there is one pattern, and it was run
            error = EXACT
        return self.score(float(values.mean()), error, echo=echo(deviations(values, plan.stratum), error))


@dataclass(frozen=True, kw_only=True)
class MaskSampling(Planned, Budgeted, Guided):
    """The ELBO from random patterns. A single token needs none."""

    kind = "lower bound"
    cost = "max_forwards"

    def estimate(self, target: Target, noise: Noise) -> Program[Score]:
        return single_token(self, target, noise) if target.n == 1 else super().estimate(target, noise)


@dataclass(frozen=True, kw_only=True)
class MaskCount(MaskSampling, name="mask_count"):
    """Number k of hidden tokens uniform over 1..n, stratified, weight n/k."""

    def plan(self, n: int, noise: Noise) -> Plan:
        sizes = grid_sizes(n, self.max_forwards, noise.uniforms("k", 0, 1)[0])
        return sized_plan(n, sizes, noise, "k hidden")


@dataclass(frozen=True, kw_only=True)
class MaskRate(MaskSampling, name="mask_rate"):
    """Each token hidden with probability t, t uniform and stratified over (0, 1], weight 1/t."""

    def plan(self, n: int, noise: Noise) -> Plan:
        count = self.max_forwards
        times = (np.arange(count) + 1 - noise.uniforms("t", 0, count)) / count
        return bernoulli_plan(n, times, 1 / times, noise, "t hidden")


@dataclass(frozen=True, kw_only=True)
class LeftToRight(Planned, Guided, name="left_to_right"):
    """Chain rule in reading order: token j read while all from j on are hidden."""

    kind = "exact"
    cost = "n"

    def plan(self, n: int, noise: Noise) -> Plan:
        return Plan.fixed(np.arange(n) >= np.arange(n)[:, None], np.eye(n))


@dataclass(frozen=True, kw_only=True)
class Pseudo(Planned, Guided, name="pseudo"):
    """Pseudo-log-likelihood: one token hidden at a time (arXiv 1910.14659)."""

    kind = "score"
    cost = "n"

    def plan(self, n: int, noise: Noise) -> Plan:
        return Plan.fixed(np.eye(n, dtype=bool), np.eye(n))


def sized_plan(n: int, sizes: Ints, noise: Noise, stream: str) -> Plan:
    """Returns random patterns of the given sizes [R], weight n/k at size k."""
    hidden = smallest(uniforms(noise, stream, len(sizes), n), sizes)
    weight = hidden * (n / sizes)[:, None]
    return Plan(hidden, weight, np.arange(len(sizes)), neighbours(len(sizes)))


def bernoulli_plan(n: int, chances: Floats, weights: Floats, noise: Noise, stream: str) -> Plan:
    """Returns patterns that hide each token with probability `chances` [R], with `weights` [R]."""
    hidden = uniforms(noise, stream, len(chances), n) < chances[:, None]
    return Plan(hidden, hidden * weights[:, None], np.arange(len(chances)), neighbours(len(chances)))
