"""Which mask patterns a cubature rule runs: how many of each size, and which sets.

Shape letters: n = open tokens, K = forwards, R = mask patterns, z = hidden tokens of a pattern
(1..n).
"""

from __future__ import annotations

import math
from itertools import combinations

import numpy as np

from dlm_eval.likelihood.cubature.prior import GAIN, kernel
from dlm_eval.likelihood.patterns import Bools, Floats, Ints

SWEEPS = 10  # of exchanges over all patterns; hardly a design gets better after them
TOO_CLOSE = 1e9  # energy of two equal patterns


def narrow_cells(n: int, forwards: int) -> list[int]:
    """Returns the widths of the cells of the smallest sizes.

    They are a quarter, a half and three quarters of an equal share, rounded down, at least 1.

    The weights of a pattern add up to the width of its cell. One that hides a token or two would
    give them weights far above 1, for the other patterns to undo.
    """
    return [
        max(1, quarters * n // (4 * forwards)) for quarters in range(1, min(3, forwards // 4) + 1)
    ]


def variants(n: int, forwards: int) -> int:
    """Returns how many choices of sizes there are, each equally likely (one if every size fits)."""
    if forwards >= n:
        return 1
    narrow = narrow_cells(n, forwards)
    left, cells = n - sum(narrow), forwards - len(narrow)
    return math.lcm(left // math.gcd(left, cells), *narrow)


def size_counts(n: int, forwards: int, variant: int) -> Ints:
    """Returns [n] how many patterns hide z = 1..n tokens."""
    if forwards >= n:
        return allotted(
            n, forwards, np.array([min(math.comb(n, z), forwards) for z in range(1, n + 1)])
        )
    return np.bincount(_cells(n, forwards, variant)[0] - 1, minlength=n)


def size_totals(n: int, forwards: int, variant: int) -> Floats:
    """Returns [n] what the weights of the patterns of each size add up to.

    The mean over the variants is 1.
    """
    if forwards >= n:
        return np.ones(n)
    sizes, widths = _cells(n, forwards, variant)
    return np.asarray(np.bincount(sizes - 1, weights=widths, minlength=n), dtype=np.float64)


def _cells(n: int, forwards: int, variant: int) -> tuple[Ints, Floats]:
    """Returns [K] the size drawn in each cell of 1..n, largest first, and [K] the cells' widths.

    All draw at the same offset, mirrored in every other cell: within a cell every size is equally
    likely, and a trend within two neighbouring cells of one width cancels. All but the narrow ones
    are equally wide.
    """
    narrow = narrow_cells(n, forwards)
    cells = forwards - len(narrow)
    widths = np.array([*[(n - sum(narrow)) / cells] * cells, *reversed(narrow)])
    offset = (variant + 0.5) / variants(n, forwards)
    places = np.cumsum(widths) - widths * np.where(np.arange(forwards) % 2 == 0, 1 - offset, offset)
    return n - np.floor(places).astype(np.int64), widths


def allotted(n: int, forwards: int, most: Ints, least: Ints | None = None) -> Ints:
    """Returns [n] patterns per size: one each, every further one where it lowers the variance most.

    The mean of z log-probabilities has a variance in proportion to 1/z, and to how much is hidden.

    Args:
        n: open tokens.
        forwards: patterns in all, at least one a size.
        most: [n] patterns that there are of each size.
        least: [n] patterns that are taken anyway.
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

    Within a size, tokens are hidden equally often as far as can be.
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
    """Returns `count` distinct random sets of `size`, each of the tokens that were used least."""
    used = np.zeros(n)
    found: dict[bytes, Bools] = {}
    restless = 0.0
    while len(found) < count:
        chosen = np.argsort(used + (1 + restless) * rng.random(n), kind="stable")[:size]
        pattern = np.isin(np.arange(n), chosen)
        if pattern.tobytes() in found:
            restless += 0.25  # look further afield when the balanced sets are used up
            continue
        found[pattern.tobytes()] = pattern
        used[chosen] += 1
    return list(found.values())


def spread_out(hidden: Bools, weight: Floats) -> Bools:
    """Returns patterns of the same sizes that differ from each other as far as can be.

    Exchanges of a hidden and a shown token within a pattern lower the energy of charges that repel
    each other,

        sum over pairs r, s of weight_r weight_s kernel(r, s)    (kernel: prior.py),

    which is the variance of the weighted mean of a function of the pattern that all tokens share.

    Args:
        hidden: [R, n] distinct patterns.
        weight: [R] of a pattern in the estimate.
    """
    hidden = hidden.copy()
    for _ in range(SWEEPS):
        if not any([_exchange(hidden, weight, r) for r in range(len(hidden))]):
            break
    return hidden


def _exchange(hidden: Bools, weight: Floats, r: int) -> bool:
    """Makes the best exchange in pattern r, if any lowers the energy; returns whether one did."""
    taken, shown = np.flatnonzero(hidden[r]), np.flatnonzero(~hidden[r])
    if not len(shown):
        return False
    inside = hidden.astype(np.float64)
    revealed = hidden.shape[1] - inside.sum(1)
    apart = (inside != inside[r]).sum(1)

    def energy(distance: Ints) -> Floats:
        return weight * kernel(revealed, len(shown), distance, hidden.shape[1]) + TOO_CLOSE * (
            distance <= 0
        )

    # Only patterns that tell the two tokens apart notice: they move two places away, or two nearer.
    away, nearer = energy(apart + 2) - energy(apart), energy(apart - 2) - energy(apart)
    away[r] = nearer[r] = 0.0
    out, into = inside[:, taken], inside[:, shown]
    change = (away @ out)[:, None] + nearer @ into - (out * (away + nearer)[:, None]).T @ into
    best = int(change.argmin())
    if change.flat[best] > -1e-12:
        return False
    hidden[r, taken[best // len(shown)]], hidden[r, shown[best % len(shown)]] = False, True
    return True
