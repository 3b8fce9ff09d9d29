"""Standard errors with their degrees of freedom, and intervals.

A standard error is an almost unbiased estimate of the standard deviation of an estimate; squares of
standard errors add up. An interval also accounts for the uncertainty of the standard error: it is
Student's, with the degrees of freedom of the standard error. A few draws can agree by chance, so
that their standard error is too small. `Error.least` is a lower limit from another source.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache

LEVEL = 0.95  # confidence level of every interval
FEWEST = 4  # minimum number of independent draws for a standard error
# Minimum degrees of freedom for the error of a sum of parts with few draws each.
ENOUGH = 2.0


@dataclass(frozen=True)
class Error:
    """The error of an estimate.

    Attributes:
        stderr: estimate of its standard deviation, nats; None if unknown.
        freedom: degrees of freedom of `stderr` or `rough` (as of a chi-square variance); infinite
            if it is exact.
        rough: standard error from fewer than `FEWEST` draws if `stderr` is None. Its square is
            unbiased, so that many of them add up to a known error.
        least: the smallest standard deviation that an interval assumes, nats.
    """

    stderr: float | None
    freedom: float = math.inf
    rough: float | None = None
    least: float = 0.0

    @property
    def best(self) -> float | None:
        """`stderr` if known, else `rough`; sums add up its squares."""
        return self.rough if self.stderr is None else self.stderr

    def scaled(self, factor: float) -> Error:
        """Returns the error of `factor` times the estimate."""
        known, rough = (
            None if one is None else abs(factor) * one for one in (self.stderr, self.rough)
        )
        return Error(known, self.freedom, rough, abs(factor) * self.least)


EXACT = Error(0.0)
UNKNOWN = Error(None)


def summed(errors: Iterable[Error]) -> Error:
    """Returns the error of a sum of independent estimates, with Satterthwaite's degrees of freedom.

    It is unknown if one error is unknown. Errors of few draws each are pooled: the error of their
    sum is known if it has `ENOUGH` degrees of freedom.
    """
    variance = doubt = least = 0.0
    pooled = False
    for error in errors:
        if error.best is None:
            return UNKNOWN
        pooled |= error.stderr is None
        variance += error.best**2
        doubt += error.best**4 / error.freedom
        least += max(error.best, error.least) ** 2
    total, freedom = math.sqrt(variance), variance**2 / doubt if doubt > 0 else math.inf
    least = math.sqrt(least) if least > variance else 0.0
    return (
        Error(None, freedom, total, least)
        if pooled and freedom < ENOUGH
        else Error(total, freedom, least=least)
    )


def half_width(error: Error, level: float = LEVEL) -> float | None:
    """Returns half the width of the two-sided interval of `level`, nats; None if the error is
    unknown.
    """
    if error.stderr is None:
        return None
    own = 0.0 if error.stderr == 0 else student(error.freedom, level) * error.stderr
    return max(own, student(math.inf, level) * error.least)


@lru_cache(maxsize=4096)
def student(freedom: float, level: float = LEVEL) -> float:
    """Returns the number x with a fraction `level` of Student's distribution between -x and x."""
    from scipy.special import stdtrit  # imported here, since importing scipy is slow

    return float(stdtrit(min(freedom, 1e9), (1 + level) / 2))
