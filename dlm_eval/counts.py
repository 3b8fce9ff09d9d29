"""Sums of numbers some of which may not be known."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

Number = TypeVar("Number", int, float)


def total(values: Sequence[Number | None]) -> Number | None:
    """Returns the sum; None if there is no value, or one is not known."""
    known = [value for value in values if value is not None]
    return sum(known) if known and len(known) == len(values) else None
