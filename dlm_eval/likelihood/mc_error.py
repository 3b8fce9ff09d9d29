"""Monte Carlo errors of estimates, and the correlations between them.

The choices of a question share their random numbers, so their errors are correlated. The *echo* of
an estimate is a random projection of the deviations from which its standard error is computed. All
choices of one shape share the directions. The inner product of two echoes estimates the covariance
of their errors. Their cosine is an unbiased estimate of the correlation of the deviations, with a
standard error of about 1 / sqrt(DIRECTIONS). Choices of different shapes are hardly correlated
(docs/design/likelihood-notes.md); their directions differ.

Shape letters: P = draws, C = choices.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Sequence
from functools import lru_cache

import numpy as np

from dlm_eval.likelihood.patterns import Floats, Ints
from dlm_eval.uncertainty import EXACT, FEWEST, UNKNOWN, Error

TINY = 1e-9  # relative to the values: smaller spreads are rounding errors
DIRECTIONS = 32


def neighbours(count: int) -> Ints:
    """Returns strata of two neighbours each (the last of three if `count` is odd).

    A grid has one draw per stratum, from which no variance can be estimated. Merging neighbours
    ("collapsed strata") overstates the error a little.
    """
    return np.minimum(np.arange(count) // 2, max(0, count // 2 - 1)).astype(np.int64)


def draws_error(values: Floats, stratum: Ints) -> Error:
    """Returns the Monte Carlo error (nats) of the mean of `values` [P].

    Values of one `stratum` [P] have the same distribution. The error is

    * unknown if a stratum has one draw, or if all draws are equal, since others may differ;
    * rough (useful only in sums) if there are fewer than `FEWEST` draws;
    * 0 if a value is infinite, since the mean is then infinite whatever the other values are.

    The degrees of freedom are half of Satterthwaite's, because the draws have longer tails than
    normal ones (docs/reference/likelihood-errors.md). The squared variances in them are unbiased for normal draws.
    """
    if len(stratum) == 0 or not np.isfinite(values).all():
        return EXACT
    sizes = np.bincount(stratum)
    if sizes.min() < 2:
        return UNKNOWN
    means = np.bincount(stratum, weights=values) / sizes
    own = sizes - 1
    spread = np.bincount(stratum, weights=(values - means[stratum]) ** 2) / own * sizes
    total = float(spread.sum())
    stderr = math.sqrt(total) / len(values)
    if stderr <= TINY * (1 + float(np.abs(values).max())):
        return UNKNOWN
    if len(values) < FEWEST:
        return Error(None, float(own.sum()) / 2, stderr)
    return Error(
        stderr, max(2.0, min(float(own.sum()), total**2 / float((spread**2 / (own + 2)).sum())) / 2)
    )


def deviations(values: Floats, stratum: Ints) -> Floats:
    """Returns [P] values minus the mean of their stratum; zeros if nothing is drawn or a value is
    infinite.
    """
    if len(stratum) == 0 or not np.isfinite(values).all():
        return np.zeros(len(values))
    return np.asarray(
        values - (np.bincount(stratum, weights=values) / np.bincount(stratum))[stratum]
    )


def echo(deviations: Floats, error: Error) -> tuple[float, ...]:
    """Returns the echo of an estimate; its norm is the standard error.

    It is empty if the standard error is 0 or unknown.

    Args:
        deviations: deviations of the values in the estimate, in an order that the choices of a
            question share.
        error: error of the estimate.
    """
    if not error.best:
        return ()
    found = _directions(deviations.shape) @ deviations.ravel()
    length = float(np.linalg.norm(found))
    return tuple(float(f"{x:.4g}") for x in found * (error.best / length)) if length > 0 else ()


@lru_cache(maxsize=64)
def _directions(shape: tuple[int, ...]) -> Floats:
    rng = np.random.default_rng(zlib.crc32(repr(shape).encode()))
    return rng.choice([-1.0, 1.0], (DIRECTIONS, int(np.prod(shape))))


def added(echoes: Sequence[tuple[float, ...]]) -> tuple[float, ...]:
    """Returns the echo of a sum; empty if no part has one."""
    known = [one for one in echoes if one]
    return tuple(float(x) for x in np.sum(known, 0)) if known else ()


def correlations(echoes: Sequence[tuple[float, ...]]) -> list[list[float]] | None:
    """Returns the correlations [C, C] of the errors of choices, or None if fewer than two have an
    echo.

    A choice without an echo has correlation 0 with the others.
    """
    if sum(map(bool, echoes)) < 2:
        return None
    rows = np.zeros((len(echoes), DIRECTIONS))
    for row, one in zip(rows, echoes, strict=True):
        if one:
            row[:] = np.array(one) / max(float(np.linalg.norm(one)), 1e-300)
    found = rows @ rows.T
    np.fill_diagonal(found, 1.0)
    return [[round(float(x), 3) for x in row] for row in found]
