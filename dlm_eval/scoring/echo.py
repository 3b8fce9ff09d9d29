"""What an estimate's error has in common with that of another: choices of one question share their random numbers, and then err alike.

The deviations that the standard error comes from are projected on a few random directions, the same for all choices of one shape. Echoes multiply like the errors:
the cosine between two of them is an unbiased estimate of the correlation of the deviations, good to 1 / sqrt(DIRECTIONS). Choices of different shapes share
hardly anything (docs/likelihood-notes.md), and get directions of their own.

Shape letters: C = choices.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from functools import lru_cache

import numpy as np

from dlm_eval.scoring.target import Floats
from dlm_eval.uncertainty import Error

DIRECTIONS = 32


def echo(deviations: Floats, error: Error) -> tuple[float, ...]:
    """Returns the echo of an estimate, as long as its standard error; nothing where that is 0 or not known.

    Args:
        deviations: of the values that the estimate is made of, in an order that the choices of a question share.
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
    """Returns [C, C] correlations of the errors of choices; 0 beside one without an echo; None if fewer than two have one."""
    if sum(map(bool, echoes)) < 2:
        return None
    rows = np.zeros((len(echoes), DIRECTIONS))
    for row, one in zip(rows, echoes, strict=True):
        if one:
            row[:] = np.array(one) / max(float(np.linalg.norm(one)), 1e-300)
    found = rows @ rows.T
    np.fill_diagonal(found, 1.0)
    return [[round(float(x), 3) for x in row] for row in found]
