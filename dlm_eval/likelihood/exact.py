"""Enumeration: all mask patterns of n tokens give the evidence lower bound (ELBO) without noise.

The same forwards give the exact likelihood of the sampler that reveals the open tokens one at a
time in a uniformly random order. With S the set of tokens revealed so far,

    f(S) = mean over i not in S of p(x_i | x_S) f(S + i),   f(all) = 1.

The likelihood of the text is f(nothing).

Shape letters: n = open tokens.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

import numpy as np

from dlm_eval.canvas import Score
from dlm_eval.errors import SampleError
from dlm_eval.likelihood.estimator import Bounds, Estimator, Guided
from dlm_eval.likelihood.patterns import MAX_EXACT, Floats, Plan, subsets
from dlm_eval.options import option
from dlm_eval.uncertainty import EXACT

if TYPE_CHECKING:
    from dlm_eval.engine.rows import Program
    from dlm_eval.likelihood.target import Target
    from dlm_eval.rng import Noise

Report = Literal["elbo", "likelihood"]


@dataclass(frozen=True, kw_only=True)
class Exact(Guided, name="exact"):
    """Every mask pattern: the noiseless ELBO, and the random-order sampler's likelihood."""

    kind = "lower bound"
    cost = "2^n-1"
    report: Report = option(
        "elbo", help="what logprob is: the ELBO, or the likelihood of the random-order sampler"
    )

    def budget(self, n: int) -> int:
        return (1 << min(n, MAX_EXACT)) - 1

    def estimate(self, target: Target, noise: Noise) -> Program[Score]:
        """Returns the ELBO (or the likelihood), with the likelihood as lower and upper bound."""
        plan = all_patterns(target.n)
        logs = yield from target.measure(plan.hidden, plan.hidden)
        likelihood = sampler_log_likelihood(logs)
        truth = Bounds(likelihood, EXACT, likelihood, EXACT, (likelihood, likelihood))
        if self.report == "likelihood" or target.n == 1:
            return self.score(likelihood, EXACT, kind="exact", bounds=truth)
        return self.score(float(plan.replicates(logs)[0]), EXACT, bounds=truth)


def all_patterns(n: int) -> Plan:
    """Returns the plan of all patterns, weight 1 / (k C(n, k)) at size k: the noiseless ELBO."""
    if n > MAX_EXACT:
        raise SampleError(
            f"exact needs 2^{n}-1 forwards for {n} open tokens; it is allowed up to {MAX_EXACT}: "
            "use auto"
        )
    hidden = subsets(n)[1:]
    weights = np.array([1.0 / (k * math.comb(n, k)) for k in range(1, n + 1)])
    return Plan.fixed(hidden, hidden * weights[hidden.sum(1) - 1, None])


def enumerated(estimator: Guided, target: Target, noise: Noise) -> Program[Score]:
    """Returns the score by enumeration, with the name and kind of `estimator`."""
    found = yield from Exact(cfg_scale=estimator.cfg_scale).estimate(target, noise)
    kind = "score" if estimator.cfg_scale else estimator.kind
    return replace(found, kind=kind, estimator=estimator.name)


def as_estimator(found: Program[Score], estimator: Estimator) -> Program[Score]:
    """Returns the score of another estimator's program, with the name of `estimator`."""
    return replace((yield from found), estimator=estimator.name)


def sampler_log_likelihood(logs: Floats) -> float:
    """Returns log f(nothing), nats.

    Args:
        logs: [2^n - 1, n] log p(x_i | tokens that the pattern shows), rows in the order of
            `subsets` without its first (empty) pattern; nan if not hidden.
    """
    n = logs.shape[1]
    hidden = subsets(n)
    sizes = hidden.sum(1)
    log_f = np.zeros(2**n)  # by the hidden set; f = 1 for the empty one
    for size in range(1, n + 1):
        rows = np.flatnonzero(sizes == size)
        after = rows[:, None] & ~(1 << np.arange(n))  # hidden once token i is revealed
        steps = np.where(hidden[rows], logs[rows - 1] + log_f[after], -np.inf)
        log_f[rows] = np.logaddexp.reduce(steps, axis=1) - np.log(size)
    return float(log_f[-1])
