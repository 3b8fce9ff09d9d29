"""The prior: how log p(x_i | x_S) is assumed to vary with the revealed set S.

The prior is a Gaussian process that treats all tokens alike. With l(S, i) = log p(x_i | x_S),
l(S, i) and l(T, j) are independent for i != j. For one token

    cov(l(S, i), l(T, i)) = LEVEL + SLOPE s t + SHARED |S and T| / (n-1)
                            + kernel(S, T) + NUGGET [S = T]
    kernel(S, T) = exp(-DECAY |S xor T| / n - GAIN (|S| + |T|) / 2n)

with s, t the sizes scaled to -1..1. The terms model, in order: the level of a token; how much
context helps it; a small effect of each revealed token; similar log-probabilities in similar
contexts, with variations that shrink as more is revealed; and noise. The prior affects only the
variance of a rule. A rule is unbiased for every model (rule.py).

Shape letters: n = open tokens, R = mask patterns, Q = quadrature nodes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from dlm_eval.likelihood.patterns import Bools, Floats

LEVEL, SLOPE, SHARED, DECAY, GAIN, NUGGET = 3.0, 0.3, 0.3, 6.0, 2.0, 0.1
# Found by a scan on enumerated canvases of a trained model. docs/design/likelihood-notes.md shows that they
# matter little.


@dataclass(frozen=True, eq=False)
class Covariances:
    """Prior covariances of one token's log-probabilities under R patterns that hide it (nats^2).

    Attributes:
        among: [R, R] between patterns, without the nugget.
        mean: [R] between patterns and the token's mean over all contexts (its part of the ELBO).
        variance: variance of that mean.
    """

    among: Floats
    mean: Floats
    variance: float


def kernel(
    shown: Any, other_shown: Any, apart: Any, n: int, decay: float = DECAY, gain: float = GAIN
) -> Floats:
    """Returns kernel(S, T) from the sizes of S and T, and the size `apart` of S xor T."""
    return np.asarray(np.exp(-(decay * apart + gain / 2 * (shown + other_shown)) / n))


def similarity(hidden: Bools, decay: float = DECAY, gain: float = GAIN) -> Covariances:
    """Returns the covariances of a process with the kernel alone, for the patterns `hidden` [R, n].

    In the ELBO, a context has a size uniform over 0..n-1, and then a uniform set. Equivalently, it
    includes each other token with probability u, and u is uniform on [0, 1]. Means over contexts
    are therefore one-dimensional integrals of products over the other tokens.
    """
    revealed = (~hidden).astype(np.float64)
    n = hidden.shape[1]
    sizes = revealed.sum(1)
    apart = sizes[:, None] + sizes[None] - 2 * revealed @ revealed.T
    among = kernel(sizes[:, None], sizes[None], apart, n, decay, gain)

    nodes, weights = np.polynomial.legendre.leggauss(64)
    u, weights = (nodes + 1) / 2, weights / 2
    # Factors of the kernel for one more token: `differs` if only one context shows it, and `shows`
    # for each context that shows it.
    differs, shows = math.exp(-decay / n), math.exp(-gain / 2 / n)
    if_shown, if_hidden = u * shows + (1 - u) * differs, 1 - u + u * shows * differs
    mean = shows**sizes * (
        (if_shown ** sizes[:, None] * if_hidden ** (n - 1 - sizes[:, None])) @ weights
    )
    one = shows * differs * np.outer(u, 1 - u)
    twice = (shows**2 * np.outer(u, u) + one + one.T + np.outer(1 - u, 1 - u)) ** (n - 1)
    return Covariances(among, mean, float(weights @ twice @ weights))


def covariances(hidden: Bools) -> Covariances:
    """Returns the prior without its nugget for the patterns `hidden` [R, n]."""
    revealed = (~hidden).astype(np.float64)
    others = max(1, hidden.shape[1] - 1)
    sizes = revealed.sum(1)
    place = 2 * sizes / others - 1
    similar = similarity(hidden)
    among = (
        LEVEL
        + SLOPE * np.outer(place, place)
        + SHARED * (revealed @ revealed.T) / others
        + similar.among
    )
    return Covariances(
        among,
        LEVEL + SHARED * sizes / others / 2 + similar.mean,
        LEVEL + SHARED / 4 + similar.variance,
    )
