"""Cubature over mask patterns: the ELBO from every log-probability that K forwards give.

A forward with z hidden tokens gives z log-probabilities. A rule is a set of patterns with a weight
for each log-probability. Its tokens are relabelled at random for every canvas, so all
log-probabilities of one size are equally likely to be read. The ELBO is the sum over z of the mean
log-probability at z hidden tokens. The estimate is therefore unbiased for every model if the
expected sum of the weights of each size z is 1. Among all such weights a rule has those of the
smallest variance under a prior (prior.py). This is best linear unbiased prediction, or Bayesian
cubature with the mean of each size as an unknown fixed effect. Patterns and weights do not depend
on the data. They are computed once per n, K and variant (the choice of sizes).

Shape letters: n = open tokens, R = mask patterns, K = forwards.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from dlm_eval.errors import SampleError
from dlm_eval.likelihood.cubature.design import (
    draw_sets,
    size_counts,
    size_totals,
    spread_out,
    variants,
)
from dlm_eval.likelihood.cubature.kept import KEPT
from dlm_eval.likelihood.cubature.prior import NUGGET, covariances
from dlm_eval.likelihood.cubature.spread import Spread, spread
from dlm_eval.likelihood.patterns import Bools, Floats, Ints
from dlm_eval.rng import Noise
from dlm_eval.uncertainty import EXACT, Error

LARGEST = 2048  # maximum forwards of a rule: time grows with their cube, memory with the square


@dataclass(frozen=True, eq=False)
class Rule:
    """A weighted set of mask patterns.

    Attributes:
        hidden: [R, n] patterns.
        weight: [R, n] weight of each log-probability; 0 if the token is shown.
        spread: estimates the standard error.
    """

    hidden: Bools
    weight: Floats
    spread: Spread

    def estimate(self, logs: Floats) -> float:
        """Returns the ELBO (nats) from log-probabilities [R, n].

        If one is -inf, the ELBO is -inf too.
        """
        logs = np.where(self.hidden, logs, 0.0)
        return -math.inf if np.isneginf(logs).any() else float((self.weight * logs).sum())

    def error(self, logs: Floats) -> Error:
        """Returns the error (nats) of `estimate`; 0 if the estimate is -inf."""
        if np.isneginf(np.where(self.hidden, logs, 0.0)).any():
            return EXACT
        return self.spread.error(logs)

    def deviations(self, logs: Floats) -> Floats:
        """Returns the residuals [R, n] of log-probabilities from each token's line over sizes.

        They are 0 if a log-probability is infinite.
        """
        logs = np.where(self.hidden, logs, 0.0)
        return (
            self.spread.lines.residuals(logs[None])[0]
            if np.isfinite(logs).all()
            else np.zeros(logs.shape)
        )


def rule(n: int, forwards: int, variant: int = 0) -> Rule:
    """Returns the rule of `forwards` for n open tokens, and caches it.

    Raises SampleError if `forwards` is more than `LARGEST`.
    """
    if forwards > LARGEST:
        raise SampleError(
            f"cubature of {n} open tokens takes {LARGEST} forwards at most, not {forwards}: "
            "lower max_forwards, or use mask_count"
        )
    return KEPT.get(("rule", n, forwards, variant), lambda: _build(n, forwards, variant))


def _build(n: int, forwards: int, variant: int) -> Rule:
    """Returns the rule of random balanced sets of the sizes of `variant`, spread out."""
    counts = size_counts(n, forwards, variant)
    totals = size_totals(n, forwards, variant)
    hidden = draw_sets(n, counts, np.random.default_rng([n, forwards, variant]))
    sizes = hidden.sum(1)
    return weighed(spread_out(hidden, (totals / np.maximum(1, counts))[sizes - 1]), totals)


def weighed(hidden: Bools, totals: Floats) -> Rule:
    """Returns the rule with the best weights for the patterns `hidden`.

    The weights of size z add up to totals[z - 1].

    With covariances C_i and c_i of token i, and A the membership of patterns in sizes, the weights
    minimise sum_i w_i C_i w_i - 2 w_i c_i subject to sum_i A w_i = totals. The linear systems of
    the tokens are coupled only by the Lagrange multipliers.
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
    return Rule(hidden, weight, spread(hidden, weight))


def relabelled(n: int, forwards: int, noise: Noise) -> tuple[Rule, Ints]:
    """Returns the rule for a canvas and the random order [n] of its tokens.

    Column j of the rule is token order[j].
    """
    variant, order = drawn(n, forwards, noise)
    return rule(n, forwards, variant), order


def drawn(n: int, forwards: int, noise: Noise) -> tuple[int, Ints]:
    """Returns the random variant of a canvas' rule, and the random order [n] of its tokens.

    The order comes from one uniform per position. The choices of a question share them.
    """
    count = variants(n, forwards)
    return int(noise.uniforms("cubature sizes", 0, 1)[0] * count), noise.uniforms(
        "cubature", 0, n
    ).argsort()
