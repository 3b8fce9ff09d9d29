"""Cubature in rounds: the patterns of a rule are run in parts.

Each round adds patterns to those of earlier rounds and computes new weights for all of them. The
last round has all patterns and the weights of the full rule. A canvas that runs all rounds
therefore has exactly the score that it would have without rounds.

Systematic sampling keeps a part unbiased. The sizes are intervals on a line, the largest size
first. The length of an interval is the sum of the weights of its size in the full rule (1 on
average). Cells divide the line, and a point is drawn in each cell. The size at the point gets one
pattern, and the width of the cell is added to the sum of its weights. The expected sum of weights
is thus the length of the interval. The next round adds the mirror image of each point within its
cell; all points are then draws of cells half as wide. If there are at least as many forwards as
sizes, every size has the sum of weights of the full rule.

Shape letters: n = open tokens, R = mask patterns.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from dlm_eval.likelihood.cubature.design import allotted, narrow_cells
from dlm_eval.likelihood.cubature.kept import KEPT
from dlm_eval.likelihood.cubature.prior import kernel
from dlm_eval.likelihood.cubature.rule import Rule, drawn, rule, weighed
from dlm_eval.likelihood.patterns import Bools, Floats, Ints
from dlm_eval.rng import Noise

FIRST = 8  # forwards of the first round; the standard error is unreliable below this


def budgets(n: int, forwards: int) -> list[int]:
    """Returns the total forwards by the end of each round.

    They are `FIRST`, doubled while the full rule has at least 1.5 times as many, and at last those
    of the full rule.
    """
    full = min(forwards, 2 ** min(n, 30) - 1)
    found: list[int] = []
    while len(found) < 30 and 3 * FIRST * 2 ** len(found) <= 2 * full:
        found.append(FIRST * 2 ** len(found))
    return [*found, full]


def nested(n: int, forwards: int, noise: Noise) -> tuple[list[Rule], Ints]:
    """Returns the rules of a canvas after each round, and the order [n] of its tokens.

    Each rule contains the patterns of the one before. `relabelled` explains the order.
    """
    most = min(forwards, 2 ** min(n, 30) - 1)
    variant, order = drawn(n, most, noise)
    name = (n, most, variant)
    parts = KEPT.get(("parts", *name), lambda: Parts(rule(*name), name))
    return parts.rules(forwards, float(noise.uniforms("cubature rounds", 0, 1)[0])), order


@dataclass(eq=False)
class Parts:
    """The parts of one full rule.

    Attributes:
        full: the rule.
        name: its number of tokens, forwards and variant.
    """

    full: Rule
    name: tuple[int, int, int]

    def __post_init__(self) -> None:
        n = self.full.hidden.shape[1]
        sizes = self.full.hidden.sum(1)
        self.most = np.bincount(sizes - 1, minlength=n)
        self.totals: Floats = np.bincount(
            sizes - 1, weights=self.full.weight.sum(1), minlength=n
        ).astype(np.float64)
        self.order = in_order(self.full.hidden)

    def rules(self, forwards: int, offset: float) -> list[Rule]:
        """Returns the rule after each round, for points at `offset` (0 to 1) in their cells."""
        return [
            *(self._rule(counts, totals) for counts, totals in self.shares(forwards, offset)),
            self.full,
        ]

    def shares(self, forwards: int, offset: float) -> Iterator[tuple[Ints, Floats]]:
        """Yields, for each round but the last, [n] patterns and [n] sum of weights of each size."""
        n = len(self.most)
        ends = np.cumsum(self.totals[::-1])  # of the intervals, largest size first
        fewest = np.zeros(n, dtype=np.int64)
        for points, widths in cells(n, budgets(n, forwards)[:-1], offset):
            totals = self.totals
            if len(points) >= np.count_nonzero(self.most):
                counts = allotted(n, len(points), self.most, fewest)
            else:
                hit = n - 1 - np.minimum(np.searchsorted(ends, points, side="right"), n - 1)
                counts = np.minimum(np.bincount(hit, minlength=n), self.most)
                totals = np.bincount(hit, weights=widths, minlength=n).astype(np.float64)
            yield counts, totals
            fewest = counts

    def _rule(self, counts: Ints, totals: Floats) -> Rule:
        def make() -> Rule:
            rows = np.concatenate(
                [own[:count] for own, count in zip(self.order, counts.tolist(), strict=True)]
            )
            return weighed(self.full.hidden[np.sort(rows)], totals)

        return KEPT.get(("part", *self.name, counts.tobytes(), totals.tobytes()), make)


def cells(n: int, forwards: list[int], offset: float) -> Iterator[tuple[Floats, Floats]]:
    """Yields, for each number in `forwards`, that many points on [0, n] and their cells' widths.

    Each number in `forwards` is twice the one before. Points of neighbouring cells mirror each
    other, so that a trend along the line cancels. Cells at the end, which has the smallest sizes,
    are narrower (design.py).
    """
    if not forwards:
        return
    narrow = narrow_cells(n, forwards[0])
    wide = forwards[0] - len(narrow)
    widths = np.array([*[(n - sum(narrow)) / wide] * wide, *reversed(narrow)], dtype=np.float64)
    begins = np.cumsum(widths) - widths
    points = begins + widths * np.where(np.arange(len(widths)) % 2 == 0, offset, 1 - offset)
    for _ in forwards:
        yield points, widths
        mirrored = 2 * begins + widths - points
        begins = np.stack([begins, begins + widths / 2], 1).ravel()
        widths = np.repeat(widths / 2, 2)
        points = np.sort(np.stack([points, mirrored], 1), axis=1).ravel()


def in_order(hidden: Bools) -> list[Ints]:
    """Returns the patterns of each size, ordered so that the first ones of all sizes differ most.

    The kernel of prior.py measures their similarity.
    """
    n = hidden.shape[1]
    sizes = hidden.sum(1)
    apart = sizes[:, None] + sizes[None] - 2 * hidden.astype(np.float64) @ hidden.T
    near = kernel(n - sizes[:, None], n - sizes[None], apart, n)
    pressure = np.zeros(len(hidden))
    found: list[list[int]] = [[] for _ in range(n)]
    left = [np.flatnonzero(sizes == z + 1).tolist() for z in range(n)]
    while any(left):
        for z in reversed(range(n)):
            if left[z]:
                best = min(left[z], key=lambda row: (pressure[row], row))
                left[z].remove(best)
                found[z].append(best)
                pressure += near[best]
    return [np.array(one, dtype=np.int64) for one in found]
