"""The mask patterns of a cubature rule: how many of each size, and which sets.

Shape letters: n = open tokens, K = forwards, R = mask patterns, z = hidden tokens of a pattern
(1..n).
"""

from __future__ import annotations

import math
from itertools import combinations

import numpy as np

from dlm_eval.likelihood.cubature.prior import GAIN, kernel
from dlm_eval.likelihood.patterns import Bools, Floats, Ints

SWEEPS = 10  # maximum passes of exchanges over all patterns; more rarely improve a design
TOO_CLOSE = 1e9  # energy of two equal patterns
LONG, TRIED = 256, 128  # of more than LONG tokens, TRIED hidden and TRIED shown ones are exchanged


def narrow_cells(n: int, forwards: int) -> list[int]:
    """Returns the widths of the cells of the smallest sizes.

    They are a quarter, a half and three quarters of an equal share, rounded down, at least 1.

    The weights of a pattern add up to the width of its cell. In a cell of full width, a pattern
    that hides one or two tokens would get weights far above 1, which inflate the variance.
    """
    return [
        max(1, quarters * n // (4 * forwards)) for quarters in range(1, min(3, forwards // 4) + 1)
    ]


def variants(n: int, forwards: int) -> int:
    """Returns the number of equally likely choices of sizes (1 if every size fits)."""
    if forwards >= n:
        return 1
    narrow = narrow_cells(n, forwards)
    left, cells = n - sum(narrow), forwards - len(narrow)
    return math.lcm(left // math.gcd(left, cells), *narrow)


def size_counts(n: int, forwards: int, variant: int) -> Ints:
    """Returns [n] the number of patterns that hide z = 1..n tokens."""
    if forwards >= n:
        return allotted(
            n, forwards, np.array([min(math.comb(n, z), forwards) for z in range(1, n + 1)])
        )
    return np.bincount(_cells(n, forwards, variant)[0] - 1, minlength=n)


def size_totals(n: int, forwards: int, variant: int) -> Floats:
    """Returns [n] the sum of the weights of all patterns of each size.

    The mean over the variants is 1.
    """
    if forwards >= n:
        return np.ones(n)
    sizes, widths = _cells(n, forwards, variant)
    return np.asarray(np.bincount(sizes - 1, weights=widths, minlength=n), dtype=np.float64)


def _cells(n: int, forwards: int, variant: int) -> tuple[Ints, Floats]:
    """Returns [K] the size drawn in each cell of 1..n, largest first, and [K] the cells' widths.

    All cells draw at the same offset, mirrored in every other cell. Within a cell every size is
    equally likely, and a trend over two neighbouring cells of equal width cancels. All cells but
    the narrow ones are equally wide.
    """
    narrow = narrow_cells(n, forwards)
    cells = forwards - len(narrow)
    widths = np.array([*[(n - sum(narrow)) / cells] * cells, *reversed(narrow)])
    offset = (variant + 0.5) / variants(n, forwards)
    places = np.cumsum(widths) - widths * np.where(np.arange(forwards) % 2 == 0, 1 - offset, offset)
    return n - np.floor(places).astype(np.int64), widths


def allotted(n: int, forwards: int, most: Ints, least: Ints | None = None) -> Ints:
    """Returns [n] the number of patterns per size.

    Each size gets one. Every further pattern goes to the size at which it lowers the variance most.
    The variance of the mean of z log-probabilities is modelled as exp(GAIN z / n) / z.

    Args:
        n: open tokens.
        forwards: number of patterns, at least one per size.
        most: [n] maximum number of patterns of each size.
        least: [n] minimum number of patterns of each size.
    """
    z = np.arange(1, n + 1)
    variance = np.exp(GAIN * z / n) / z
    counts = np.maximum(np.minimum(1, most), 0 if least is None else least).astype(np.float64)
    for _ in range(min(forwards, int(most.sum())) - int(counts.sum())):
        counts[
            np.argmax(
                np.where(counts < most, variance / (np.maximum(1, counts) * (counts + 1)), -1.0)
            )
        ] += 1
    return counts.astype(np.int64)


def draw_sets(n: int, counts: Ints, rng: np.random.Generator) -> Bools:
    """Returns [sum of counts, n] distinct patterns.

    Within a size, all tokens are hidden equally often, as far as possible.
    """
    rows: list[Bools] = []
    for size, count in zip(range(1, n + 1), counts.tolist(), strict=True):
        total = math.comb(n, size)
        if count >= total:
            rows += [np.isin(np.arange(n), chosen) for chosen in combinations(range(n), size)]
        else:
            rows += _balanced(n, size, count, rng)
    return np.stack(rows)


def _balanced(n: int, size: int, count: int, rng: np.random.Generator) -> list[Bools]:
    """Returns `count` distinct random sets of `size` tokens; each prefers tokens used least."""
    used = np.zeros(n)
    found: dict[bytes, Bools] = {}
    restless = 0.0
    while len(found) < count:
        chosen = np.argsort(used + (1 + restless) * rng.random(n), kind="stable")[:size]
        pattern = np.isin(np.arange(n), chosen)
        if pattern.tobytes() in found:
            restless += 0.25  # more randomness, since the balanced sets are used up
            continue
        found[pattern.tobytes()] = pattern
        used[chosen] += 1
    return list(found.values())


def spread_out(hidden: Bools, weight: Floats) -> Bools:
    """Returns patterns of the same sizes that differ from each other as much as possible.

    It exchanges a hidden and a shown token of a pattern while this lowers the energy

        sum over pairs r, s of weight_r weight_s kernel(r, s)    (kernel: prior.py).

    The energy is the variance of the weighted mean of a function of the pattern that all tokens
    share.

    Args:
        hidden: [R, n] distinct patterns.
        weight: [R] weight of each pattern in the estimate.
    """
    hidden = hidden.copy()
    for _ in range(SWEEPS):
        if not any([_exchange(hidden, weight, r) for r in range(len(hidden))]):
            break
    return hidden


def _exchange(hidden: Bools, weight: Floats, r: int) -> bool:
    """Makes the best exchange in pattern r if it lowers the energy; returns whether it did.

    Of more than `LONG` tokens only some are tried, since time grows with the square of their number.
    """
    all_shown = np.flatnonzero(~hidden[r])
    if not len(all_shown):
        return False
    taken, shown = np.flatnonzero(hidden[r]), all_shown
    if hidden.shape[1] > LONG:
        taken, shown = _some(taken, r), _some(shown, r)
    inside = hidden.astype(np.float64)
    revealed = hidden.shape[1] - inside.sum(1)
    apart = (inside != inside[r]).sum(1)

    def energy(distance: Ints) -> Floats:
        return weight * kernel(revealed, len(all_shown), distance, hidden.shape[1]) + TOO_CLOSE * (
            distance <= 0
        )

    # The distance to another pattern changes, by +2 or -2, only if it hides just one of the two.
    away, nearer = energy(apart + 2) - energy(apart), energy(apart - 2) - energy(apart)
    away[r] = nearer[r] = 0.0
    out, into = inside[:, taken], inside[:, shown]
    change = (away @ out)[:, None] + nearer @ into - (out * (away + nearer)[:, None]).T @ into
    best = int(change.argmin())
    if change.flat[best] > -1e-12:
        return False
    hidden[r, taken[best // len(shown)]], hidden[r, shown[best % len(shown)]] = False, True
    return True


def _some(tokens: Ints, shift: int) -> Ints:
    """Returns at most `TRIED` of the tokens, evenly spaced; others for another `shift`."""
    if len(tokens) <= TRIED:
        return tokens
    return np.roll(tokens, shift)[np.arange(TRIED) * len(tokens) // TRIED]
