"""Monte Carlo errors of estimates, and what the errors of two estimates have in common.

The choices of a question share their random numbers, so that they err alike. The deviations that a
standard error comes from are projected on a few random directions, the same for all choices of one
shape: the *echo* of an estimate. Echoes multiply like the errors. The cosine between two of them is
an unbiased estimate of the correlation of the deviations, good to 1 / sqrt(DIRECTIONS). Choices of
different shapes share hardly anything (docs/likelihood-notes.md); their directions differ.

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

TINY = 1e-9  # of a value's size: smaller spreads are rounding
DIRECTIONS = 32


def neighbours(count: int) -> Ints:
    """Returns strata of two neighbours each (the last of three if `count` is odd).

    Draws on a grid are one to a stratum, which has no spread; merging neighbours overstates the
    error a little ("collapsed strata").
    """
    return np.minimum(np.arange(count) // 2, max(0, count // 2 - 1)).astype(np.int64)


def draws_error(values: Floats, stratum: Ints) -> Error:
    """Returns the Monte Carlo error (nats) of the mean of `values` [P].

    Values of one `stratum` [P] are drawn alike.

    It is unknown if a stratum has one draw, and if all draws agree: that does not prove that others
    would. Of fewer than `FEWEST` draws it is rough: known only in sums. An infinite value makes the
    mean infinite whatever else is drawn: its error is 0. The degrees of freedom are half of
    Satterthwaite's (with squares of variances that are unbiased for normal draws): draws have
    longer tails than normal ones, so that their variance is known half as well
    (docs/likelihood.md).
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
    """Returns [P] values less the mean of their stratum.

    Zeros if the error is 0 or nothing is drawn.
    """
    if len(stratum) == 0 or not np.isfinite(values).all():
        return np.zeros(len(values))
    return np.asarray(
        values - (np.bincount(stratum, weights=values) / np.bincount(stratum))[stratum]
    )


def echo(deviations: Floats, error: Error) -> tuple[float, ...]:
    """Returns the echo of an estimate, as long as its standard error.

    Nothing if that is 0 or unknown.

    Args:
        deviations: of the values that the estimate is made of, in an order that the choices of a
            question share.
        error: of the estimate.
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
    """Returns the echo of a sum; nothing if no part has one."""
    known = [one for one in echoes if one]
    return tuple(float(x) for x in np.sum(known, 0)) if known else ()


def correlations(echoes: Sequence[tuple[float, ...]]) -> list[list[float]] | None:
    """Returns [C, C] correlations of the errors of choices.

    0 beside one without an echo; None if fewer than two have one.
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
