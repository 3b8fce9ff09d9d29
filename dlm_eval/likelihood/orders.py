"""Random orders for chains, and the estimates, errors and bounds that chains give.

A chain reveals the tokens in a random order and scores each one as it appears. It scores every
token exactly once. This removes the largest noise of other estimators, in which tokens of very
different loss enter a varying number of times. In an order and its reverse, a token has contexts of
j and n-1-j tokens, and every other token is in exactly one of the two contexts. Effects that are
linear in the context therefore cancel. Orders come from one uniform per position, so that choices
of different lengths share them.

Shape letters: n = open tokens, P = orders.
"""

from __future__ import annotations

import math

import numpy as np

from dlm_eval.likelihood.mc_error import draws_error
from dlm_eval.likelihood.patterns import Bools, Floats, Ints
from dlm_eval.rng import Noise
from dlm_eval.uncertainty import EXACT, LEVEL, UNKNOWN, Error, half_width, student

# An upper end needs at least KNOWN draws, with a standard deviation of at most LITTLE nats.
KNOWN, LITTLE = 8, 0.5
FEW = 6  # with fewer draws, an interval does not depend on their spread alone


def pair_count(n: int, forwards: int) -> int:
    """Returns how many antithetic pairs fit into `forwards`, at least one.

    All chains share the fully masked forward.
    """
    return max(1, (forwards - 1) // (2 * max(1, n - 1)))


def population(n: int, antithetic: bool = True) -> int:
    """Returns the number of possible draws: orders of n tokens, or pairs of an order and its
    reverse.
    """
    return max(1, math.factorial(n) // 2) if antithetic else math.factorial(n)


def random_orders(noise: Noise, n: int, count: int, antithetic: bool = True) -> Ints:
    """Returns [count, n] orders (order[j] is revealed j-th), drawn without replacement.

    With `antithetic`, order 2p+1 is the reverse of order 2p.

    Args:
        noise: random numbers of the canvas.
        n: open tokens.
        count: number of orders, at most n!.
        antithetic: pair each order with its reverse, and draw pairs without replacement.
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
    """Returns which tokens each step hides and which it reads, both [P * n, n].

    Step j of an order hides the tokens not revealed yet and reads the next one.
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
    """Returns the error (nats) of `log_mean_exp(values)`: the relative error of the mean.

    Args:
        values: [P] log-likelihoods of orders, nats.
        group: [P] the draw that each order belongs to.
        draws: number of different draws that exist.
    """
    top = float(values.max())
    if math.isinf(top):
        return EXACT
    relative = np.exp(values - log_mean_exp(values))
    return mean_error(relative, group, draws)


def mean_error(values: Floats, group: Ints, draws: int) -> Error:
    """Returns the error of the mean of `values` [P], from draws without replacement.

    Args:
        values: [P] a value of each order.
        group: [P] the draw that each order belongs to. A last draw may have one order without its
            reverse; it counts half.
        draws: number of different draws that exist.
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
    """Returns the standard deviation (nats) of the mean log-likelihood of P orders if steps were
    independent.

    A few draws can agree by chance, for example if a token's gain from its context has only two
    values. A token's variance is that of its residuals from a line over its places in the orders.

    Args:
        steps: [P, n] log-likelihoods along each order, nats.
        orders: [P, n] the token that each step reveals.
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
    """Returns the 95 % interval of log p, nats (simulated in docs/design/likelihood-coverage.md).

    The low end holds for any model: by Markov's inequality, an unbiased estimate of p exceeds 40 p
    with a probability of at most 1/40. With `KNOWN` draws or more, it is the low end of Student's
    interval for the mean of exp(chain) if this is higher.

    The high end is `certain`, since rare orders may carry most of p in any sample. If there are
    `KNOWN` draws or more and they differ little (`LITTLE`), it is the estimate plus three times the
    margin of Student's interval, or of Cox's for a log-normal mean if this is larger.

    Args:
        chains: [P] log-likelihoods of the orders, nats.
        group: [P] group numbers from 0.
        draws: number of different groups that exist.
        certain: upper bound on log p, nats.
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

    None if there are fewer than two groups.

    For any psi > 0, log p <= log psi - 1 + p / psi, and p is the mean of exp(chain) over orders
    (arXiv 2605.24292). For each group, psi comes from the chains of all other groups, so it does
    not depend on the group's own chains (an order and its reverse are one group). Groups are drawn
    without replacement, so the estimate of p is a weighted mean: the other groups have their share
    of all groups as weight, and the group itself has the rest. A psi that is too small costs
    exponentially, one that is too large only linearly. So psi is the larger of the others' mean of
    exp(chain) and the mean of a log-normal with the others' mean and variance (at most `certain`).

    Args:
        chains: [P] log-likelihoods of the orders, nats.
        group: [P] group numbers from 0.
        draws: number of different groups that exist.
        certain: upper bound on log p, nats.
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
    """Returns the tangent bound with its error, or `certain` if that is the better choice.

    It returns `certain` if the tangent bound is not below it, or has a standard error above 1 nat.
    If the distribution has a long tail, rare draws of many nats dominate the mean of the tangent
    bound, and hardly any sample has one.
    """
    tangent = tangent_bound(chains, group, draws, certain)
    if tangent is None or tangent[0] >= certain or (tangent[1].stderr or 0.0) > 1:
        return certain, EXACT
    return tangent
