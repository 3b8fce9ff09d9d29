"""What is read from a file once, and again if the file was changed meanwhile (as in a notebook)."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")
P = TypeVar("P", str, Path)
MOST = 4096  # results that are kept
State = tuple[int, int, int, int] | None


def file_state(file: str | Path) -> State:
    """Returns what changes if a file is edited, or entries of a folder are added or removed; None if it is
    not there.
    """
    try:
        about = os.stat(file)
    except OSError:
        return None
    return about.st_ino, about.st_size, about.st_mtime_ns, about.st_ctime_ns


def once_per_state(function: Callable[[P], T]) -> Callable[[P], T]:
    """Makes a function of a file keep its results, until the file or the names in its folder change."""

    @functools.lru_cache(maxsize=MOST)
    def known(file: P, state: State, folder: State) -> T:
        return function(file)

    @functools.wraps(function)
    def of(file: P) -> T:
        return known(file, file_state(file), file_state(os.path.dirname(file) or os.curdir))

    return of
