"""What the trace hook sees of a step, whichever program made it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class TraceStep:
    """One step as the trace hook sees it, after the step.

    Positions have identities: those of the canvas as it was asked are numbered from 0, and each
    position that a step inserts gets the next number. Only strategies that change the length of a
    canvas make the two differ.

    Attributes:
        step: number of the step, from 0 (steps that change nothing are not traced).
        tokens: [L] ids in reading order, the mask token where open.
        open: [L] bool.
        written: [K] identities of the positions written in this step.
        confidence: [K] probability of each token when it was written.
        erased: identities of the positions that became masks again in this step.
        positions: [L] identity of each position, in reading order; empty if they are 0 to L - 1.
    """

    step: int
    tokens: tuple[int, ...]
    open: tuple[bool, ...]
    written: tuple[int, ...]
    confidence: tuple[float, ...]
    erased: tuple[int, ...] = ()
    positions: tuple[int, ...] = ()


Trace = Callable[[TraceStep], None]
