"""Cubature in rounds that extend each other: the patterns of a rule, run a part at a time.

A round adds patterns to those of the rounds before, and all of them are weighed anew as one rule.
The last round has all patterns and the weights of the full rule, so a canvas that runs to the end
has the very score that it would have without rounds.

A part stays unbiased by systematic sampling. The sizes lie on a line, the largest first, each as
long as its weights add up to in the full rule (1 on average). Cells divide the line, a point is
drawn in each, and the size that it hits gets one pattern, and the width of the cell as the sum of
its weights: on average, over the draws, just its own length. The next round has these points and
their mirror images within their cells, which are draws of cells half as wide. As soon as there are
as many forwards as sizes, every size has its own total.

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

FIRST = 8  # forwards of the first round: fewer hardly know their own error


def budgets(n: int, forwards: int) -> list[int]:
    """Returns the forwards run by the end of each round.

    8, doubled as long as the full rule has at least half as many again, then the full rule's.
    """
    full = min(forwards, 2 ** min(n, 30) - 1)
    found: list[int] = []
    while len(found) < 30 and 3 * FIRST * 2 ** len(found) <= 2 * full:
        found.append(FIRST * 2 ** len(found))
    return [*found, full]


def nested(n: int, forwards: int, noise: Noise) -> tuple[list[Rule], Ints]:
    """Returns the rules of a canvas after each round, and the order [n] of its tokens.

    Each rule has the patterns of the one before. For the order see `relabelled`.
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
        name: its tokens, forwards and variant.
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
        """Returns the rules after each round.

        `offset` in [0, 1) says where in their cells the points lie.
        """
        return [
            *(self._rule(counts, totals) for counts, totals in self.shares(forwards, offset)),
            self.full,
        ]

    def shares(self, forwards: int, offset: float) -> Iterator[tuple[Ints, Floats]]:
        """Yields for each round but the last, by size [n], the patterns and their summed weights."""
        n = len(self.most)
        ends = np.cumsum(self.totals[::-1])  # of the pieces of the line, largest size first
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
    """Yields for each of `forwards` that many points on the line [0, n], and their cells' widths.

    Each of `forwards` is twice the one before.

    Points of neighbouring cells mirror each other, so that a trend along the line cancels. Cells at
    the end, the smallest sizes, are narrower (design.py).
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
    """Returns the patterns of each size, so ordered that the first few of all sizes are far apart.

    The distance is the kernel of prior.py.
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
