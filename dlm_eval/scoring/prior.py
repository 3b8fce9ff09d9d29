"""How log p(x_i | x_S) is assumed to vary with the revealed set S, to weigh forwards against each other.

The prior is a Gaussian process that treats all tokens alike: l(S, i) and l(T, j) are independent for i != j, and for one token

    cov(l(S, i), l(T, i)) = LEVEL + SLOPE s t + SHARED |S and T| / (n-1) + exp(-DECAY |S xor T| / n) + NUGGET [S = T]

with s, t the sizes scaled to -1..1. In words: tokens differ in level and in how much context helps them; each revealed token helps a little; similar
contexts say similar things; the rest is noise. It steers variance only: a rule built on it is unbiased whatever the model does (cubature.py).

Shape letters: n = open tokens, R = mask patterns, Q = quadrature nodes.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from dlm_eval.scoring.target import Bools, Floats

LEVEL, SLOPE, SHARED, DECAY, NUGGET = 25.0, 1.0, 1.0, 3.0, 0.03
# Found by scan on enumerated canvases of a trained model; halving or doubling any of them moves the error by some percent.


@dataclass(frozen=True, eq=False)
class Covariances:
    """Prior covariances of one token's log-probabilities under R patterns that hide it, in nats squared.

    Attributes:
        among: [R, R] between patterns, without the nugget.
        mean: [R] with the token's mean over all contexts (the part of the ELBO that is its own).
        variance: of that mean.
    """

    among: Floats
    mean: Floats
    variance: float


def covariances(hidden: Bools) -> Covariances:
    """Returns the smooth part of the prior for the patterns `hidden` [R, n].

    A context drawn like the ELBO's (size uniform over 0..n-1, then the set) includes each other token with one common probability u, u uniform on
    [0, 1]: means over contexts are one-dimensional integrals.
    """
    revealed = (~hidden).astype(np.float64)
    n = hidden.shape[1]
    others = max(1, n - 1)
    sizes = revealed.sum(1)
    both = revealed @ revealed.T
    apart = sizes[:, None] + sizes[None] - 2 * both
    place = 2 * sizes / others - 1
    among = LEVEL + SLOPE * np.outer(place, place) + SHARED * both / others + np.exp(-DECAY * apart / n)

    nodes, weights = np.polynomial.legendre.leggauss(64)
    u, weights = (nodes + 1) / 2, weights / 2
    same = np.exp(-DECAY / n)
    if_shown, if_hidden = u + (1 - u) * same, (1 - u) + u * same
    decay = (if_shown ** sizes[:, None] * if_hidden ** (n - 1 - sizes[:, None])) @ weights
    agree = np.outer(u, u) + np.outer(1 - u, 1 - u)
    twice = float(weights @ (agree + (1 - agree) * same) ** (n - 1) @ weights)
    return Covariances(among, LEVEL + SHARED * sizes / others / 2 + decay, LEVEL + SHARED / 4 + twice)
