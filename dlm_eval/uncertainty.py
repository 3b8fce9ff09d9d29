"""How far an estimate may be off: its standard error, and on how much evidence that rests.

Two things are told apart. The standard error is an (almost) unbiased estimate of the standard deviation of the estimate; squares of standard errors add
up. An interval also allows for the standard error being an estimate itself: it is Student's, with the degrees of freedom of that estimate.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache

LEVEL = 0.95  # of every interval
FEWEST = 4  # independent draws that are needed to know an error
ENOUGH = 2.0  # degrees of freedom from which on the error of a sum is known, though none of its parts is


@dataclass(frozen=True)
class Error:
    """The error of an estimate.

    Attributes:
        stderr: estimate of its standard deviation, nats; None where nothing tells it.
        freedom: degrees of freedom of `stderr` or `rough` (as those of a chi-square variance); infinite where it is known.
        rough: where `stderr` is None, the same from fewer than `FEWEST` draws: its square is unbiased, so that many of them add up to a known error.
    """

    stderr: float | None
    freedom: float = math.inf
    rough: float | None = None

    @property
    def best(self) -> float | None:
        """What sums add up: `stderr`, else `rough`."""
        return self.rough if self.stderr is None else self.stderr

    def scaled(self, factor: float) -> Error:
        """Returns the error of `factor` times the estimate."""
        known, rough = (None if one is None else abs(factor) * one for one in (self.stderr, self.rough))
        return Error(known, self.freedom, rough)


EXACT = Error(0.0)
UNKNOWN = Error(None)


def summed(errors: Iterable[Error]) -> Error:
    """Returns the error of the sum of independent estimates (Satterthwaite's degrees of freedom); unknown as soon as one is.

    Errors of few draws each are pooled: their sum is known if it rests on `ENOUGH` degrees of freedom.
    """
    variance = doubt = 0.0
    pooled = False
    for error in errors:
        if error.best is None:
            return UNKNOWN
        pooled |= error.stderr is None
        variance += error.best**2
        doubt += error.best**4 / error.freedom
    total, freedom = math.sqrt(variance), variance**2 / doubt if doubt > 0 else math.inf
    return Error(None, freedom, total) if pooled and freedom < ENOUGH else Error(total, freedom)


def half_width(error: Error, level: float = LEVEL) -> float | None:
    """Returns half the width of the two-sided interval of `level`, nats; None where the error is unknown."""
    if error.stderr is None:
        return None
    return 0.0 if error.stderr == 0 else student(error.freedom, level) * error.stderr


@lru_cache(maxsize=4096)
def student(freedom: float, level: float = LEVEL) -> float:
    """Returns the quantile of Student's distribution that a fraction `level` lies within, on both sides of 0."""
    from scipy.special import stdtrit  # here: the command line reads settings without waiting for scipy

    return float(stdtrit(min(freedom, 1e9), (1 + level) / 2))
