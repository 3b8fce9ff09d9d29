"""Chains: random orders in which the tokens are revealed, each token scored as it appears.

A chain scores every token exactly once, which removes the largest noise of the other estimators
(tokens of very different loss that enter a varying number of times). An order and its reverse put
each token at context sizes j and n-1-j and put every other token before it exactly once: whatever
depends linearly on the context cancels. Orders come from one uniform per position, so that choices
of different length share them.

Shape letters: n = open tokens, P = orders.
"""

from __future__ import annotations

import math

import numpy as np

from dlm_eval.likelihood.mc_error import draws_error
from dlm_eval.likelihood.patterns import Bools, Floats, Ints
from dlm_eval.rng import Noise
from dlm_eval.uncertainty import EXACT, LEVEL, UNKNOWN, Error, half_width, student

# For an upper end: draws that tell how far they may be off, and the standard deviation (nats) up to
# which they differ little.
KNOWN, LITTLE = 8, 0.5
FEW = 6  # draws below which an interval does not rest on their spread alone


def pair_count(n: int, forwards: int) -> int:
    """Returns how many antithetic pairs `forwards` pay for (one at least).

    The fully masked forward is common to all chains.
    """
    return max(1, (forwards - 1) // (2 * max(1, n - 1)))


def population(n: int, antithetic: bool = True) -> int:
    """Returns how many draws there are: orders of n tokens, or pairs of one and its reverse."""
    return max(1, math.factorial(n) // 2) if antithetic else math.factorial(n)


def random_orders(noise: Noise, n: int, count: int, antithetic: bool = True) -> Ints:
    """Returns [count, n] orders (order[j] is revealed j-th), drawn without replacement.

    With `antithetic`, order 2p+1 is the reverse of order 2p.

    Args:
        noise: of the canvas.
        n: open tokens.
        count: orders, n! at most.
        antithetic: pair each with its reverse, and draw pairs without replacement.
    """
    draws = math.ceil(count / 2) if antithetic else count
    found: dict[bytes, Ints] = {}
    draw = 0
    while len(found) < draws:
        order = noise.uniforms("order", draw, n).argsort()
        names = [order.tobytes(), order[::-1].tobytes()] if antithetic else [order.tobytes()]
        found.setdefault(min(names), order)
        draw += 1
    orders = np.stack(list(found.values()))
    if antithetic:
        orders = np.stack([orders, orders[:, ::-1]], 1).reshape(2 * draws, n)
    return orders[:count]


def chain_patterns(orders: Ints) -> tuple[Bools, Bools]:
    """Returns hidden and read [P * n, n].

    Step j of an order hides what is not revealed yet and reads what comes next.
    """
    ranks = orders.argsort(1)
    steps = np.arange(orders.shape[1])[:, None]
    hidden = ranks[:, None, :] >= steps
    read = ranks[:, None, :] == steps
    return hidden.reshape(-1, orders.shape[1]), read.reshape(-1, orders.shape[1])


def log_mean_exp(values: Floats) -> float:
    """Returns log of the mean of exp(values), nats."""
    top = float(values.max())
    return top if math.isinf(top) else top + math.log(float(np.exp(values - top).mean()))


def log_mean_exp_error(values: Floats, group: Ints, draws: int) -> Error:
    """Returns the error (nats) of `log_mean_exp(values)`: the relative one of the mean.

    Args:
        values: [P] log-likelihoods of orders, nats.
        group: [P] which draw each belongs to.
        draws: how many different ones there are.
    """
    top = float(values.max())
    if math.isinf(top):
        return EXACT
    relative = np.exp(values - log_mean_exp(values))
    return mean_error(relative, group, draws)


def mean_error(values: Floats, group: Ints, draws: int) -> Error:
    """Returns the error of the mean of `values` [P], drawn without replacement from `draws` draws.

    Values are P orders in draws `group` [P].

    A last draw of one order alone counts half.
    """
    if not np.isfinite(values).all():
        return EXACT
    sizes = np.bincount(group)
    whole = sizes == sizes[0]
    means = (np.bincount(group, weights=values) / sizes)[whole]
    error = draws_error(means, np.zeros(len(means), dtype=np.int64))
    return error.scaled(
        math.sqrt(len(means) * sizes[0] / len(values) * max(0.0, 1 - len(sizes) / draws))
    )


def steps_deviation(steps: Floats, orders: Ints) -> float:
    """Returns the standard deviation (nats) of the mean log-likelihood of P orders, as it would be
    if steps were independent of each other.

    A few draws agree by chance if what one token gains from its context has two values, say. Each
    token's variance is that about its line over the places in the order.

    Args:
        steps: [P, n] log-likelihoods along each order, nats.
        orders: [P, n] which token is revealed at each step.
    """
    count = len(orders)
    if count < 3 or not np.isfinite(steps).all():
        return 0.0
    place = orders.argsort(1)
    logs = np.take_along_axis(steps, place, 1)
    apart, logs = place - place.mean(0), logs - logs.mean(0)
    slope = (apart * logs).sum(0) / np.maximum((apart**2).sum(0), 1e-300)
    return math.sqrt(float(((logs - slope * apart) ** 2).sum()) / (count - 2) / count)


def bracket(chains: Floats, group: Ints, draws: int, certain: float) -> tuple[float, float]:
    """Returns what holds log p at 95 % (docs/likelihood.md: simulated), nats.

    The low end is what an unbiased estimate of p exceeds in one draw of forty at most (Markov's
    inequality), for any model. From `KNOWN` draws on it is that of Student's interval for the mean
    of exp(chain) where this is higher. No sample excludes that rare orders carry most of p: the
    high end is what no text exceeds, unless `KNOWN` draws or more differ little; then thrice the
    margin of that interval, or of Cox's for a log-normal mean.

    Args:
        chains: [P] log-likelihoods of the orders, nats.
        group: [P] group numbers from 0.
        draws: how many different groups there are.
        certain: what log p does not exceed.
    """
    middle = log_mean_exp(chains)
    low, count = middle + math.log((1 - LEVEL) / 2), int(group.max()) + 1
    error = log_mean_exp_error(chains, group, draws)
    margin = half_width(error)
    if count < KNOWN or not margin:
        return low, certain
    logs = np.array([log_mean_exp(chains[group == g]) for g in range(count)])
    variance = float(logs.var(ddof=1)) if np.isfinite(logs).all() else math.inf
    low = max(low, middle - margin)
    if variance > LITTLE**2:
        return low, certain
    cox = logs.mean() + variance / 2 - middle
    cox += student(error.freedom) * math.sqrt(variance / count + variance**2 / (2 * (count - 1)))
    return low, min(certain, middle + 3 * max(margin, float(cox)))


def tangent_bound(
    chains: Floats, group: Ints, draws: int, certain: float
) -> tuple[float, Error] | None:
    """Returns TUBE, an unbiased estimate of an upper bound on log p, and its error.

    None with fewer than two groups.

    For any psi > 0, log p <= log psi - 1 + p / psi, and p is the mean of exp(chain) over orders
    (arXiv 2605.24292). Each group's own chains estimate p, against a psi from all the other groups'
    (which must not depend on it: an order and its reverse are one group). Groups are drawn without
    replacement, so p is estimated from both: what the others have of all groups, and this one for
    the rest. A psi that is too small costs exponentially, one that is too large linearly; so psi is
    the mean of a log-normal p with the others' mean and variance where that is larger, up to what
    is certain.

    Args:
        chains: [P] log-likelihoods of the orders, nats.
        group: [P] group numbers from 0.
        draws: how many different groups there are.
        certain: what log p does not exceed.
    """
    count = int(group.max()) + 1 if len(group) else 0
    if count < 2:
        return None
    if np.isneginf(chains).all():
        return -math.inf, EXACT
    values = np.empty(count)
    for g in range(count):
        own, others = log_mean_exp(chains[group == g]), chains[group != g]
        rest = log_mean_exp(others)
        psi = rest
        if np.isfinite(others).all() and len(others) > 1:
            psi = max(rest, min(certain, float(others.mean() + others.var(ddof=1) / 2)))
        part = (count - 1) / draws
        mean = math.exp(min(700.0, rest - psi)) * part + math.exp(min(700.0, own - psi)) * (
            1 - part
        )
        values[g] = math.inf if math.isinf(psi) else psi - 1 + mean
    if not np.isfinite(values).all():
        return float(values.mean()), UNKNOWN
    return float(values.mean()), draws_error(values, np.zeros(count, dtype=np.int64))


def upper_bound(chains: Floats, group: Ints, draws: int, certain: float) -> tuple[float, Error]:
    """Returns the tangent bound with its error.

    Where it is known to be off by more than a nat, or is no better, the certain one.

    The mean of the tangent bound of a long tail is made by draws of many nats that hardly any
    sample has.
    """
    tangent = tangent_bound(chains, group, draws, certain)
    if tangent is None or tangent[0] >= certain or (tangent[1].stderr or 0.0) > 1:
        return certain, EXACT
    return tangent
