"""Checkpoints: the state of a half-filled canvas, from which another process continues with the
same result.

Random numbers depend only on (request, step, identity of a position) (`dlm_eval.rng`). The state of
a canvas is therefore its tokens, the step and log-probability of each, and a few counters.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Set
from dataclasses import dataclass
from typing import Any

# positions over all steps; random numbers are drawn up to the largest identity
MOST_INSERTED = 2**20


@dataclass(frozen=True)
class State:
    """A canvas between two steps, as plain data.

    Attributes:
        block: number of the block that is being filled.
        step: number of steps done in this block.
        global_step: number of steps done in all; it numbers the random draws.
        forwards: rows that the model ran (two per step under guidance).
        written_steps: number of steps that wrote a token.
        post_steps: number of steps on a block that was full before.
        last_change: global step of the last change, -1 before any.
        tokens: [n] tokens of the positions that were not given, the mask token where open.
        logprob: [n] log-probability of each token when it was written (nats).
        written: [n] global step at which each token was written, -1 where open.
        positions: [L] identities of all positions from left to right; empty if the canvas has those
            that it was asked with.
        inserted: number of the block of each inserted position, from left to right.
        next_id: identity that the next inserted position gets.
        step_texts: texts of the steps done, packed (`step_texts.StepTexts`); empty if they are not kept.
    """

    block: int
    step: int
    global_step: int
    forwards: int
    written_steps: int
    post_steps: int
    last_change: int
    tokens: tuple[int, ...]
    logprob: tuple[float, ...]
    written: tuple[int, ...]
    positions: tuple[int, ...] = ()
    inserted: tuple[int, ...] = ()
    next_id: int = 0
    step_texts: tuple[int, ...] = ()

    @classmethod
    def of(cls, data: Any) -> State:
        """Returns the state whose `vars` are `data`.

        Raises:
            TypeError, ValueError: `data` is no state.
        """
        plain: dict[str, Any] = {
            key: tuple(value) if isinstance(value, list) else value for key, value in data.items()
        }
        state = cls(**plain)
        lists = (state.tokens, state.logprob, state.written)
        numbers = (state.tokens, state.written, state.positions, state.inserted, state.step_texts)
        counts = [value for value in vars(state).values() if not isinstance(value, tuple)]
        if (
            not all(isinstance(values, tuple) for values in (*lists, *numbers))
            or len({len(v) for v in lists}) != 1
        ):
            raise ValueError("no state of a canvas")
        if not all(
            type(count) is int
            for count in (*counts, *(value for values in numbers for value in values))
        ):
            raise ValueError("no state of a canvas")
        if not all(type(value) is float for value in state.logprob):
            raise ValueError("no state of a canvas")
        return state

    def fits_canvas(
        self, given: Set[int], length: int, blocks: int, max_length: int, ids: Container[int]
    ) -> bool:
        """Returns whether this can be the state of a canvas; the file may come from another
        program.

        Args:
            given: positions that came with their token.
            length: number of positions of the canvas as it was asked.
            blocks: number of its blocks.
            max_length: positions that the model allows.
            ids: token ids that a position can have.
        """
        limits = (
            (self.block, blocks - 1),
            (self.step, self.global_step),
            (self.forwards, 4 * (self.global_step + 1)),  # more than any step runs
            (self.post_steps, self.global_step + 1),
            (self.written_steps, self.global_step),
            (self.last_change + 1, self.global_step),
        )
        return (
            self._has_layout(given, length, blocks, max_length)
            and all(0 <= value <= most for value, most in limits)
            and all(token in ids for token in self.tokens)
            and all(-1 <= step < max(1, self.global_step) for step in self.written)
            and all(value <= 1e-3 for value in self.logprob)
        )

    def _has_layout(self, given: Set[int], length: int, blocks: int, max_length: int) -> bool:
        """Returns whether the positions can have come from such a canvas."""
        if not self.positions:
            return (
                len(self.tokens) == length - len(given)
                and not self.inserted
                and self.next_id == length
            )
        old = [one for one in self.positions if one < length]
        new = [one for one in self.positions if one >= length]
        return (
            old == sorted(set(old))
            and min(old, default=0) >= 0
            and given <= set(old)
            and len(new) == len(set(new)) == len(self.inserted)
            and max(new, default=length - 1) < self.next_id <= length + MOST_INSERTED
            and len(self.positions) == len(self.tokens) + len(given) <= max_length
            and all(0 <= block < blocks for block in self.inserted)
        )


# Called between two steps with a function that returns the state.
Offer = Callable[[Callable[[], State]], None]


def no_offer(state: Callable[[], State]) -> None:
    """Ignores every state."""
