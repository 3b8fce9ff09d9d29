"""Spreads of estimators over repeats, and what they say at equal numbers of forwards (for estimators.py).

Shape letters: n = open tokens, D = draws, P = plans.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

REFERENCE, REFERENCE_FORWARDS = "llada", 128
BOOTSTRAP = 400

Key = tuple[str, int]  # estimator, forwards


@dataclass(frozen=True)
class Runs:
    """Estimates and reported standard errors (nats) of independent runs on one canvas."""

    values: list[float]
    stderr: list[float]

    def variance(self, rng: np.random.Generator | None = None) -> float:
        values = np.array(self.values)
        return float((values if rng is None else rng.choice(values, len(values))).var(ddof=1))


@dataclass(frozen=True)
class Draws:
    """Single draws [n][D] of every size, and how often [P][n] the sizes occur in P random plans."""

    draws: list[list[float]]
    counts: list[list[int]]

    def variance(self, rng: np.random.Generator | None = None) -> float:
        draws, counts = np.array(self.draws), np.array(self.counts)
        if rng is not None:
            draws = np.stack([rng.choice(own, len(own)) for own in draws])
        forwards = counts[0].sum()
        within = (counts.mean(0) * draws.var(1, ddof=1)).sum() / forwards**2
        return float(within + (counts @ draws.mean(1) / forwards).var())


@dataclass(frozen=True)
class Table:
    """All canvases of one n: what was measured, and the truth with its error."""

    n: int
    found: list[dict[Key, Runs | Draws]]
    truths: list[tuple[float, float]]

    def variance(self, key: Key, rng: np.random.Generator | None = None) -> float:
        """Returns the mean variance over the canvases (nats squared), of a bootstrap sample where `rng` is given."""
        return float(np.mean([one[key].variance(rng) for one in self.found]))

    def cell(self, key: Key) -> str:
        """Returns 'sd [bias] (reported/actual)'."""
        if key not in self.found[0]:
            return "-"
        spread = math.sqrt(self.variance(key))
        runs = [own for own in (one[key] for one in self.found) if isinstance(own, Runs)]
        if not runs or spread < 1e-6:
            return f"{spread:.3f}"
        off = [
            float(np.mean(own.values)) - value
            for own, (value, _) in zip(runs, self.truths, strict=True)
        ]
        doubt = [
            math.hypot(math.sqrt(own.variance() / len(own.values)), e)
            for own, (_, e) in zip(runs, self.truths, strict=True)
        ]
        bias, error = float(np.mean(off)), math.sqrt(float(np.sum(np.square(doubt)))) / len(runs)
        known = np.concatenate([np.square(own.stderr) for own in runs])
        # too few draws to know
        reported = math.sqrt(float(np.nanmean(known))) if np.isfinite(known).any() else math.nan
        return (
            f"{spread:.3f}"
            + (f" [{bias:+.2g}]" if abs(bias) > 3 * error + 1e-6 else "")
            + f" ({reported / spread:.1f})"
        )

    def needed(self, name: str, rng: np.random.Generator | None = None) -> float:
        """Returns the forwards at which `name` reaches the reference's variance, interpolated on logarithmic scales (0: at the fewest measured)."""
        goal = self.variance((REFERENCE, REFERENCE_FORWARDS), rng)
        points = sorted(
            (k, self.variance((own, k), rng)) for own, k in self.found[0] if own == name
        )
        for (less, before), (more, after) in zip(points, points[1:], strict=False):
            if after <= goal < before:
                return float(
                    less
                    * (more / less)
                    ** (math.log(before / goal) / math.log(before / max(after, 1e-300)))
                )
        return 0.0 if points and points[0][1] <= goal else math.inf

    def summary(self, name: str) -> str:
        """Returns 'forwards to match [interval] | variance ratio [interval]'."""
        key = (name, REFERENCE_FORWARDS)
        if not any(own == name for own, _ in self.found[0]):
            return "-"
        rng = np.random.default_rng(0)
        least = min(k for own, k in self.found[0] if own == name)
        needed = [
            self.needed(name),
            *np.quantile(
                [self.needed(name, rng) for _ in range(BOOTSTRAP)], [0.05, 0.95], method="nearest"
            ),
        ]
        most = max(k for own, k in self.found[0] if own == name)
        words = [
            f">{most}" if math.isinf(x) else f"<={least}" if x == 0 else f"{x:.0f}" for x in needed
        ]
        if key not in self.found[0]:
            return f"{words[0]} [{words[1]}, {words[2]}] | -"
        goal = (REFERENCE, REFERENCE_FORWARDS)
        spread = [self.variance(key, rng) / self.variance(goal, rng) for _ in range(BOOTSTRAP)]
        low, high = np.quantile(spread, [0.05, 0.95])
        return f"{words[0]} [{words[1]}, {words[2]}] | {self.variance(key) / self.variance(goal):.2g} [{low:.2g}, {high:.2g}]"
