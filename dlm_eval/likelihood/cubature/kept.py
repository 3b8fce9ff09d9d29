"""A cache of cubature rules, limited in bytes. A task needs few different rules, but often."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import is_dataclass
from typing import Any, TypeVar

import numpy as np

T = TypeVar("T")
MOST = 2**29  # maximum bytes in a process; a rule of 128 forwards takes about 3 MB


class Kept:
    """A cache of objects by key that evicts the least recently used ones first.

    Attributes:
        most: maximum bytes of the arrays in all objects (a single object may be larger).
        bytes: their bytes now.
    """

    def __init__(self, most: int) -> None:
        self.most = most
        self.bytes = 0
        self._found: dict[Hashable, tuple[Any, int]] = {}

    def get(self, key: Hashable, make: Callable[[], T]) -> T:
        """Returns the object of `key`; calls `make` if it is not in the cache."""
        entry = self._found.pop(key, None)
        if entry is None:
            made = make()
            entry = (made, array_bytes(made))
            self.bytes += entry[1]
        self._found[key] = entry
        while self.bytes > self.most and len(self._found) > 1:
            self.bytes -= self._found.pop(next(iter(self._found)))[1]
        found: T = entry[0]
        return found


def array_bytes(thing: Any) -> int:
    """Returns the bytes of all arrays in a dataclass, its lists and the dataclasses in it."""
    if isinstance(thing, np.ndarray):
        return thing.nbytes
    if isinstance(thing, list):
        return sum(map(array_bytes, thing))
    return sum(map(array_bytes, vars(thing).values())) if is_dataclass(thing) else 0


KEPT = Kept(MOST)
