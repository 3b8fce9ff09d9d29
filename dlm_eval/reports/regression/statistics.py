"""Paired statistics of two runs on the same documents.

Documents are the independent units: the values of several answers to one document are averaged
before. Scores of 0 and 1 get McNemar's exact test, which is binomial over the documents that
changed, and the interval of Bonett and Price (2012). Other scores get a sign-flip permutation test
and a percentile bootstrap. Scores that are no means are computed anew for resampled documents
(`resampled_change`), or compared by their reported errors. Random numbers have a fixed seed, so a report can be repeated.

The sign-flip test is written here, as one matrix product: scipy's `permutation_test` loops over
documents, which takes a minute for a benchmark of ten thousand.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

RESAMPLES = 9999  # of permutation tests and bootstraps
BATCH_NUMBERS = 2_000_000  # random numbers that are held at once
LEVEL = 0.95
POWER = 0.8

Values = NDArray[np.float64]


@dataclass(frozen=True)
class Paired:
    """The difference of two runs on the same documents, second minus first.

    Attributes:
        n: number of documents.
        first, second: means of the runs.
        difference: `second` - `first`.
        low, high: 95 % interval of the difference over documents.
        p: two-sided p-value of "the difference is zero".
        test: name of the test.
        gained, lost: documents with a higher, with a lower value in the second run.
    """

    n: int
    first: float
    second: float
    difference: float
    low: float
    high: float
    p: float
    test: str
    gained: int
    lost: int


def is_binary(*values: Values) -> bool:
    """Returns whether all values are 0 or 1."""
    return all(bool(np.isin(each, (0.0, 1.0)).all()) for each in values)


def paired(first: Values, second: Values) -> Paired:
    """Returns the paired difference of two runs; value i of both is of the same document.

    Args:
        first, second: [n] finite values, n > 0.
    """
    change, binary = second - first, is_binary(first, second)
    low, high = _interval(change, binary, LEVEL)
    return Paired(
        n=len(change),
        first=float(first.mean()),
        second=float(second.mean()),
        difference=float(change.mean()),
        low=low,
        high=high,
        p=p_value(change, binary),
        test="exact McNemar" if binary else "sign-flip",
        gained=int((change > 0).sum()),
        lost=int((change < 0).sum()),
    )


def p_value(change: Values, binary: bool, alternative: str = "two-sided") -> float:
    """Returns the p-value of "the mean change is zero".

    Args:
        change: [n] second minus first value of each document.
        binary: whether the values are 0 and 1, so that a change is -1, 0 or 1.
        alternative: "two-sided", or "less": the second run is worse.
    """
    from scipy.stats import binomtest

    moved = change[change != 0]
    if len(moved) == 0:
        return 1.0
    if binary:
        gained = int((moved > 0).sum())
        return float(binomtest(gained, len(moved), 0.5, alternative=alternative).pvalue)

    return _sign_flip(moved, alternative)


def _sign_flip(change: Values, alternative: str) -> float:
    """Returns the p-value of the sum of changes under random signs; all signs if they are few."""
    n, seen = len(change), float(change.sum())
    exact = 2**n <= RESAMPLES
    if exact:
        bits = (np.arange(2**n)[:, None] >> np.arange(n)) & 1
        sums = (1.0 - 2.0 * bits) @ change
    else:
        rng = np.random.default_rng(0)
        # Flipping a change subtracts it twice.
        sums = np.concatenate([seen - 2.0 * (_coins(rng, size, n) @ change) for size in _sizes(n)])
    near = 1e-9 * float(np.abs(change).sum())  # rounding does not separate equal sums
    extreme = sums <= seen + near if alternative == "less" else np.abs(sums) >= abs(seen) - near
    count = int(extreme.sum())
    if exact:
        return count / 2.0**n
    # Draws cannot show a p-value below 1e-4. Hoeffding's inequality bounds the smaller ones, so that
    # a loss of all documents is significant at every level and for any number of tasks.
    bound = math.exp(-seen * seen / (2 * float(change @ change)))
    bound = 2 * bound if alternative != "less" else bound if seen < 0 else 1.0
    return min((count + 1) / (RESAMPLES + 1), bound)


def _coins(rng: np.random.Generator, size: int, n: int) -> Values:
    """Returns [size, n] zeros and ones, one random bit each."""
    packed = rng.integers(0, 256, size=(size, -(-n // 8)), dtype=np.uint8)
    return np.unpackbits(packed, axis=1, count=n).astype(np.float64)


def lower_bound(change: Values, binary: bool, alpha: float) -> float:
    """Returns the one-sided lower bound of the mean change at level 1 - `alpha`."""
    return _interval(change, binary, 1 - 2 * alpha)[0]


def _interval(change: Values, binary: bool, level: float) -> tuple[float, float]:
    """Returns the two-sided interval of the mean change."""
    from scipy.stats import bootstrap
    from scipy.stats import norm as normal

    n = len(change)
    if binary:
        # Bonett and Price: the Wald interval of the changes with one gain and one loss added.
        gained = (float((change > 0).sum()) + 1) / (n + 2)
        lost = (float((change < 0).sum()) + 1) / (n + 2)
        half = float(normal.ppf((1 + level) / 2)) * math.sqrt(
            (gained + lost - (gained - lost) ** 2) / (n + 2)
        )
        return max(gained - lost - half, -1.0), min(gained - lost + half, 1.0)
    if n < 2 or not change.any():
        mean = float(change.mean())
        return (mean, mean) if n > 1 else (-math.inf, math.inf)
    found = bootstrap(
        (change,),
        np.mean,
        confidence_level=level,
        method="percentile",
        vectorized=True,
        n_resamples=RESAMPLES,
        batch=_batch(n),
        random_state=np.random.default_rng(0),
    ).confidence_interval
    return float(found.low), float(found.high)


def _batch(n: int) -> int:
    return max(1, min(RESAMPLES, BATCH_NUMBERS // n))


def _sizes(n: int) -> list[int]:
    """Returns the sizes of batches of resamples of n documents."""
    return [min(_batch(n), RESAMPLES - begun) for begun in range(0, RESAMPLES, _batch(n))]


@dataclass(frozen=True)
class Change:
    """The change of a score that is no mean over documents, positive if the second run is better.

    Attributes:
        value: the change.
        low: its one-sided lower bound.
        harm, rise: one-sided p-values of "it is no harm" and "it is no rise".
        stderr: its standard error.
    """

    value: float
    low: float
    harm: float
    rise: float
    stderr: float


def resampled_change(score: Callable[[Values], Values], n: int, moved: int, alpha: float) -> Change:
    """Returns the change of a score by a percentile bootstrap over documents, both runs together.

    Args:
        score: [B, n] counts of documents -> [B] changes of the score.
        n: number of documents.
        moved: documents whose part of the score changed. A p-value is at least 2^-moved, as that of
            a sign-flip test: so few changes prove no more.
        alpha: the level of the lower bound is 1 - `alpha`.
    """
    rng, even = np.random.default_rng(0), np.full(n, 1 / n)
    batches = (rng.multinomial(n, even, size=size).astype(np.float64) for size in _sizes(n))
    drawn = np.concatenate([score(counts) for counts in batches])

    def p(against: NDArray[np.bool_]) -> float:
        return max((int(against.sum()) + 1) / (RESAMPLES + 1), 0.5**moved)

    return Change(
        value=float(score(np.ones((1, n)))[0]),
        low=float(np.quantile(drawn, alpha)),
        harm=p(drawn >= 0),
        rise=p(drawn <= 0),
        stderr=float(drawn.std(ddof=1)),
    )


def reported_change(value: float, stderrs: Sequence[float | None], alpha: float) -> Change | None:
    """Returns a change by the standard errors that two runs report, as if they were independent;
    None if one reports none.
    """
    from scipy.stats import norm as normal

    error = _error_of_difference(stderrs)
    if error == 0:
        return None
    low = value - float(normal.isf(alpha)) * error
    harm, rise = float(normal.cdf(value / error)), float(normal.sf(value / error))
    return Change(value, low, harm, rise, error)


def _error_of_difference(stderrs: Sequence[float | None]) -> float:
    """Returns the standard error of a difference of independent scores; 0.0 if one is unknown."""
    known = [error for error in stderrs if error is not None and math.isfinite(error)]
    return math.hypot(*known) if len(known) == len(stderrs) else 0.0


def unpaired(difference: float, stderrs: Sequence[float | None]) -> tuple[float, float, float]:
    """Returns (low, high, p) of a difference of two independent scores; nan without errors."""
    from scipy.stats import norm as normal

    error = _error_of_difference(stderrs)
    if error == 0:
        return math.nan, math.nan, math.nan
    half = float(normal.ppf((1 + LEVEL) / 2)) * error
    p = 2 * float(normal.sf(abs(difference) / error))
    return difference - half, difference + half, p


def holm(p_values: Sequence[float]) -> list[float]:
    """Returns Holm's adjusted p-values, in the order given."""
    order = sorted(range(len(p_values)), key=p_values.__getitem__)
    adjusted, highest = [0.0] * len(p_values), 0.0
    for rank, index in enumerate(order):
        highest = max(highest, (len(p_values) - rank) * p_values[index])
        adjusted[index] = min(highest, 1.0)
    return adjusted


def smallest_drop(change: Values, binary: bool, alpha: float) -> float:
    """Returns the smallest drop of the mean that a test at `alpha` finds with 80 % power.

    It is planned from the spread of the changes that were seen. It is inf if the task has fewer
    documents than the exact test needs to call the loss of all of them significant. For scores of 0
    and 1 it is at least the drop of these fewest documents. For other scores it is nan if nothing
    changed: the spread is not known then.
    """
    n = len(change)
    if n < fewest_documents(alpha):
        return math.inf
    if not binary and not change.any():
        return math.nan
    planned = planned_drop(float(change.std(ddof=1)) / math.sqrt(n), alpha) if n > 1 else math.inf
    if not binary:
        return planned
    found = max(planned, fewest_documents(alpha) / n)
    return found if found <= 1 else math.inf


def fewest_documents(alpha: float) -> int:
    """Returns how many changed documents an exact test needs: 0.5 ** fewest <= alpha."""
    return math.ceil(math.log2(1 / alpha) - 1e-9)


def planned_drop(stderr: float, alpha: float) -> float:
    """Returns the drop that a test at `alpha` finds with 80 % power, given its standard error."""
    from scipy.stats import norm as normal

    return float(normal.isf(alpha) + normal.ppf(POWER)) * stderr


def more_often(count: int, n: int, floor: int, floor_n: int) -> float:
    """Returns the one-sided p-value (Fisher's exact test) of `count` of `n` being more frequent
    than `floor` of `floor_n`.
    """
    from scipy.stats import fisher_exact

    table = [[count, n - count], [floor, floor_n - floor]]
    return float(fisher_exact(table, alternative="greater").pvalue)
