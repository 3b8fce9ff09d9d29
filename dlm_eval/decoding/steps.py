"""What the trace hook sees of a step, whichever loop made it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class TraceStep:
    """One step as the trace hook sees it, after writing.

    Attributes:
        step: number of the step, from 0 (steps that wrote nothing are not traced).
        tokens: [L] ids, the mask token where open.
        open: [L] bool.
        written: [K] positions written in this step.
        confidence: [K] probability of each token when it was written.
        erased: positions that became masks again in this step.
    """

    step: int
    tokens: tuple[int, ...]
    open: tuple[bool, ...]
    written: tuple[int, ...]
    confidence: tuple[float, ...]
    erased: tuple[int, ...] = ()


Trace = Callable[[TraceStep], None]
