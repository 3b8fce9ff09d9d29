"""Which mask patterns a cubature rule runs: how many of each size, and which sets.

Shape letters: n = open tokens, K = forwards, z = hidden tokens of a pattern (1..n).
"""

from __future__ import annotations

import math
from itertools import combinations

import numpy as np

from dlm_eval.engine import Ints
from dlm_eval.scoring.target import Bools, Floats

TILT = 0.3  # how much more forwards small hidden sets get: they read fewer tokens each (best between 0.2 and 0.5 for n = 8 to 64)


def variants(n: int, samples: int) -> int:
    """Returns how many different choices of sizes there are, each equally likely (one where every size fits)."""
    return 1 if samples >= n else n // math.gcd(n, samples)


def size_counts(n: int, samples: int, variant: int) -> Ints:
    """Returns [n] how many patterns hide z = 1..n tokens.

    Where not every size fits, one is drawn in each of K equal cells of 1..n, at the same offset, mirrored in every other cell: every size is equally
    likely, the sum over sizes is kept, and a trend within two neighbouring cells cancels.
    """
    if samples < n:
        offset = (variant + 0.5) / variants(n, samples)
        cells = np.arange(samples)
        places = (cells + np.where(cells % 2 == 0, offset, 1 - offset)) * n / samples
        return np.bincount(
            n - 1 - np.floor(places).astype(np.int64), minlength=n
        )  # cells pair up from the fully masked end
    return np.diff(np.floor(np.concatenate([[0.0], np.cumsum(_shares(n, samples))]) + 0.5)).astype(np.int64)


def _shares(n: int, samples: int) -> Floats:
    """Returns [n] forwards per size: at least one, at most as many as there are sets, else in proportion to z^-TILT."""
    z = np.arange(1, n + 1)
    most = np.array([float(min(math.comb(n, int(k)), samples)) for k in z])
    wish = z**-TILT
    low, high = 0.0, samples / wish.min() * n
    for _ in range(100):  # bisect the scale at which the clipped shares add up
        scale = (low + high) / 2
        low, high = (scale, high) if np.clip(scale * wish, 1.0, most).sum() < samples else (low, scale)
    return np.asarray(np.clip(high * wish, 1.0, most))


def draw_sets(n: int, counts: Ints, rng: np.random.Generator) -> Bools:
    """Returns [sum of counts, n] distinct patterns; within a size, tokens are hidden equally often as far as can be."""
    rows: list[Bools] = []
    for size, count in zip(range(1, n + 1), counts.tolist(), strict=True):
        total = math.comb(n, size)
        if count >= total:
            rows += [np.isin(np.arange(n), chosen) for chosen in combinations(range(n), size)]
        else:
            rows += _balanced(n, size, count, rng)
    return np.stack(rows)


def _balanced(n: int, size: int, count: int, rng: np.random.Generator) -> list[Bools]:
    """Returns `count` distinct random sets of `size`, each taking the tokens that were used least so far."""
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
