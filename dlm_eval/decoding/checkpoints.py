"""Checkpoints: what a half-written canvas needs to go on in another process as if nothing had happened.

Random numbers belong to (request, step, position) (`dlm_eval.noise`), so that the state of a canvas is what stands in it, when and how surely each
token was written, and a few counters. Only canvases that the absorbing loop writes one by one have checkpoints (`why_not`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from dlm_eval.decoding.settings import DecodeSettings


@dataclass(frozen=True)
class State:
    """A canvas between two steps, as plain data.

    Attributes:
        block: number of the block (window) that is being filled.
        step: steps done in it.
        clock: steps done in all; it numbers the random draws.
        forwards: rows that the model ran (two per step under guidance).
        written_steps, post_steps, last_change: the loop's counters (`loop.Page`).
        tokens, logprob, written: [n] of the open positions, those that fill up the last block among them: what stands there, its log-probability when
            it was written (nats), and in which step that was, -1 if it is open.
    """

    block: int
    step: int
    clock: int
    forwards: int
    written_steps: int
    post_steps: int
    last_change: int
    tokens: tuple[int, ...]
    logprob: tuple[float, ...]
    written: tuple[int, ...]

    @classmethod
    def of(cls, data: Any) -> State:
        """Returns the state that `vars` made `data` from.

        Raises:
            TypeError, ValueError: `data` is no state.
        """
        plain: dict[str, Any] = {key: tuple(value) if isinstance(value, list) else value for key, value in data.items()}
        state = cls(**plain)
        lists = (state.tokens, state.logprob, state.written)
        counts = [value for value in vars(state).values() if not isinstance(value, tuple)]
        if len({len(values) for values in lists}) != 1 or not all(type(count) is int for count in counts):
            raise ValueError("no state of a canvas")
        if not all(type(value) is int for values in (state.tokens, state.written) for value in values):
            raise ValueError("no state of a canvas")
        if not all(type(value) is float for value in state.logprob):
            raise ValueError("no state of a canvas")
        return state


Offer = Callable[[Callable[[], State]], None]  # gets a way to the state between two steps; it may take it or leave it


def no_offer(state: Callable[[], State]) -> None:
    """Leaves every state."""


def why_not(process: str, settings: DecodeSettings) -> str | None:
    """Returns why canvases under these settings have no checkpoints, so that an interrupted one is begun anew, or None."""
    if process != "absorbing":
        return f"process '{process}'"
    if settings.length_beam:
        return "length_beam"
    return "several samples" if settings.samples > 1 and settings.draws(process) else None
