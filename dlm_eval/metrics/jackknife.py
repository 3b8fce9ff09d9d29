"""Standard errors of metrics of a whole set of samples: entropy, distinct n-grams, self-BLEU.

The bootstrap draws samples more than once, and equal samples change exactly what these metrics
measure. The jackknife leaves samples out (Efron and Stein 1981): with G groups of samples and the
metric t_g without group g, the variance is (G - 1) / G times the sum of (t_g - mean)^2. It is
conservative: its expectation is not below the variance for the samples of all groups but one.

Leaving few samples out is wrong for a metric that is not smooth in them: if each set of samples is
clustered anew, the clustering's own noise would be multiplied by the number of groups. Leaving half
of them out is right for such metrics (Shao and Wu 1989: the delete-d jackknife). With r of n samples
kept and d left out, the variance is r / d times that of the metric over random subsets.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from statistics import variance
from typing import Any

FEWEST = 16  # samples of which half still tell something


def jackknife(
    items: Sequence[Any], aggregate: Callable[[Sequence[Any]], float], groups: int
) -> float | None:
    """Returns the standard error of `aggregate(items)`; None if it is unknown.

    That is so for one item, for a metric that is not finite, and if the metric is the same whatever
    is left out, which proves nothing.

    Args:
        items: independent samples' parts.
        aggregate: the metric of a set of them.
        groups: number of groups that are left out in turn, at most; those of the items if fewer.
    """
    count = min(groups, len(items))
    if count < 2:
        return None
    left = [
        aggregate([item for place, item in enumerate(items) if place % count != group])
        for group in range(count)
    ]
    if len(set(left)) == 1:
        return None
    mean = math.fsum(left) / count
    error = math.sqrt((count - 1) / count * math.fsum((value - mean) ** 2 for value in left))
    return error if math.isfinite(error) else None


def half_samples(
    items: Sequence[Any], aggregate: Callable[[Sequence[Any]], float], subsets: int, seed: int = 0
) -> float | None:
    """Returns the standard error of `aggregate(items)` from random halves; None if it is unknown.

    That is so for fewer than `FEWEST` items, for a metric that is not finite, and if the metric is
    the same in all halves.

    Args:
        items: independent samples' parts.
        aggregate: the metric of a set of them.
        subsets: number of halves.
        seed: of the choice of halves.
    """
    kept = len(items) // 2
    if len(items) < FEWEST:
        return None
    draw = random.Random(seed)
    values = [
        aggregate([items[place] for place in sorted(draw.sample(range(len(items)), kept))])
        for _ in range(subsets)
    ]
    if len(set(values)) == 1 or not all(map(math.isfinite, values)):
        return None
    return math.sqrt(kept / (len(items) - kept) * variance(values))
