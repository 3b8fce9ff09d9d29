"""Quality against speed: the Pareto front, and the area under a curve of it."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Sequence

from dlm_eval.errors import UserError

AUP_ALPHA = 3.0
AUP_DROP = 5.0  # percent points; points further below the slowest point do not count


def pareto(points: Sequence[tuple[float, float]]) -> list[bool]:
    """Returns [n] bool, true at points that no other point dominates.

    Args:
        points: [n] (tokens per forward, quality), higher is better in both.
    """
    return [
        not any(r >= rho and q >= y and (r, q) != (rho, y) for r, q in points) for rho, y in points
    ]


def aup(points: Iterable[tuple[float, float]], y_max: float) -> float:
    """Returns AUP, accuracy under parallelism (arXiv 2601.07568).

    AUP is the area under accuracy against tokens per forward, with low accuracies weighted down:

        AUP = rho_1 y_1 + 1/2 sum_i (rho_i - rho_{i-1}) (y_i W(y_i) + y_{i-1} W(y_{i-1}))
        W(y) = min(exp(-3 (1 - y / y_max)), 1)

    Points are ordered by ascending rho. Points more than 5 percent points below y_1 are excluded.
    If several points have the same rho, only the best counts.

    Args:
        points: (tokens per forward rho, accuracy y in percent).
        y_max: best known accuracy on the task, in percent.

    Raises:
        UserError: y_max is not above 0 although an accuracy is.
    """
    best: dict[float, float] = {}
    for rho, y in points:
        best[rho] = max(y, best.get(rho, y))
    if not best or not any(best.values()):
        return 0.0
    if y_max <= 0:
        raise UserError(f"--y_max '{y_max:g}' is not allowed; it must be above 0 (percent)")
    ordered = sorted(best.items())
    first_rho, first_y = ordered[0]
    kept = [
        (rho, y * min(math.exp(-AUP_ALPHA * (1 - y / y_max)), 1.0))
        for rho, y in ordered
        if y >= first_y - AUP_DROP
    ]
    areas = [(rho - r) * (weighed + w) / 2 for (r, w), (rho, weighed) in itertools.pairwise(kept)]
    return first_rho * first_y + math.fsum(areas)
