"""Chains: random orders in which the tokens are revealed, each token scored as it appears.

A chain scores every token exactly once, which removes the largest noise of the other estimators (tokens of very different loss that enter a varying
number of times). An order and its reverse put each token at context sizes j and n-1-j and put every other token before it exactly once: whatever
depends linearly on the context cancels. Orders come from one uniform per position, so that choices of different length share them.

Shape letters: n = open tokens, P = orders.
"""

from __future__ import annotations

import math

import numpy as np

from dlm_eval.engine import Ints
from dlm_eval.noise import Noise
from dlm_eval.scoring.target import Bools, Floats


def pair_count(n: int, samples: int) -> int:
    """Returns how many antithetic pairs `samples` forwards pay for (one at least). The fully masked forward is common to all chains."""
    return max(1, (samples - 1) // (2 * max(1, n - 1)))


def random_orders(noise: Noise, n: int, count: int, antithetic: bool = True) -> Ints:
    """Returns [count, n] orders (order[j] is revealed j-th); with `antithetic`, order 2p+1 is the reverse of order 2p.

    Args:
        noise: of the canvas.
        n: open tokens.
        count: orders.
        antithetic: pair each with its reverse.
    """
    draws = math.ceil(count / 2) if antithetic else count
    orders = np.stack([noise.uniforms("order", draw, n).argsort() for draw in range(draws)])
    if antithetic:
        orders = np.stack([orders, orders[:, ::-1]], 1).reshape(2 * draws, n)
    return orders[:count]


def chain_patterns(orders: Ints) -> tuple[Bools, Bools]:
    """Returns hidden and read [P * n, n]: step j of an order hides what is not revealed yet and reads what comes next."""
    ranks = orders.argsort(1)
    steps = np.arange(orders.shape[1])[:, None]
    hidden = ranks[:, None, :] >= steps
    read = ranks[:, None, :] == steps
    return hidden.reshape(-1, orders.shape[1]), read.reshape(-1, orders.shape[1])


def log_mean_exp(values: Floats) -> float:
    """Returns log of the mean of exp(values), nats."""
    top = float(values.max())
    return top if math.isinf(top) else top + math.log(float(np.exp(values - top).mean()))


def tangent_bound(chains: Floats, group: Ints) -> tuple[float, float] | None:
    """Returns TUBE, an unbiased estimate of an upper bound on log p, and its standard error; None with fewer than two groups.

    For any psi > 0, log p <= log psi - 1 + p / psi, and p is the mean of exp(chain) over orders (arXiv 2605.24292). Each group's
    own chains estimate p, against a psi from all the other groups' (which must not depend on it: an order and its reverse are one group).

    Args:
        chains: [P] log-likelihoods of the orders, nats.
        group: [P] group numbers from 0.
    """
    count = int(group.max()) + 1 if len(group) else 0
    if count < 2:
        return None
    if np.isneginf(chains).all():
        return -math.inf, 0.0
    values = np.empty(count)
    for g in range(count):
        own, psi = chains[group == g], log_mean_exp(chains[group != g])
        values[g] = math.inf if math.isinf(psi) else psi - 1 + math.exp(min(700.0, log_mean_exp(own) - psi))
    spread = float(values.std(ddof=1) / math.sqrt(count)) if np.isfinite(values).all() else math.inf
    return float(values.mean()), spread
