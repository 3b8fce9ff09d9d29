"""Steps as the trace hook sees them, for all decoding programs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class TraceStep:
    """The canvas after one step.

    Positions have identities: the positions of the original canvas are numbered from 0, and each
    inserted position gets the next number. Identities equal positions unless a strategy changes the
    length of the canvas.

    Attributes:
        step: number of the step, from 0 (steps that change nothing are not traced).
        tokens: [L] ids from left to right, the mask token if open.
        open: [L] bool.
        written: [K] identities of the positions written in this step.
        confidence: [K] probability of each token when it was written.
        erased: identities of the positions that became masks again in this step.
        positions: [L] identity of each position, from left to right; empty if they are 0 to L - 1.
    """

    step: int
    tokens: tuple[int, ...]
    open: tuple[bool, ...]
    written: tuple[int, ...]
    confidence: tuple[float, ...]
    erased: tuple[int, ...] = ()
    positions: tuple[int, ...] = ()


Trace = Callable[[TraceStep], None]
