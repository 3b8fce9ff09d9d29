"""Prophet: the whole answer is written as soon as the model is sure of its part that counts."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from torch import Tensor

from dlm_eval.decoding.draw import Draw, Measure
from dlm_eval.decoding.schedules import even
from dlm_eval.decoding.state import DecodeState
from dlm_eval.decoding.step import NONE, Edit, Ints, Query, StepState
from dlm_eval.decoding.strategies import highest
from dlm_eval.decoding.unmasking import Ends, Unmasking
from dlm_eval.engine import ForwardRow, Output
from dlm_eval.errors import SampleError
from dlm_eval.options import option, value_error

ANSWER_LENGTH = 5  # positions; a constant in the authors' code
BEHIND = 2  # positions from the last constraint to the answer in the authors' evaluation
EARLY, MID = 0.33, 0.67  # shares of the steps where the phases end


@dataclass(frozen=True)
class WithGap:
    """Reads candidates, and the lead of the largest logit over the second [N] (float64)."""

    draw: Draw

    def __call__(self, logits: Tensor, payload: Tensor) -> tuple[Tensor, ...]:
        two = self.draw.prepared(logits).topk(2).values
        return *self.draw(logits, payload), (two[:, 0] - two[:, 1]).double()


@dataclass(frozen=True, kw_only=True)
class Prophet(Unmasking, name="prophet"):
    """the most probable first; everything at once when the answer's logits lead clearly (Prophet)

    Li et al. 2025, arXiv 2508.19982; github.com/pixeli99/Prophet 460afe4, generate_earlyexit.py.
    LLaDA's decoder, until the mean lead of the best logit over the second, at the five positions
    from `answer_start` on, reaches the threshold of the phase: before 0.33 of all steps, before
    0.67, and after. All open positions of the canvas then get their candidates.

    Steps that change nothing (quota 0) are steps here too, as the phase depends on them, but run no
    forward at temperature 0. The authors' constraints are `constraints_text`, or given tokens of the
    canvas; blocks count both, as in their code. A constraint behind the hole is ignored.
    """

    answer_start: int | None = option(
        None,
        least=0,
        help="position of the answer, counted from the first open one; None: two behind the last "
        "constraint, and without constraints decoding never ends early",
    )
    constraints_text: str = option(
        "",
        help="texts that are written at positions of the hole before the first step, as "
        "'200:The|201:answer|202:is'; each is encoded with a space before it, and where two overlap the "
        "later one counts",
    )
    early_exit_thresholds: tuple[float, ...] = option(
        (7.5, 5.0, 2.5), help="mean lead of the best logit that ends decoding early, mid and late"
    )
    reads: ClassVar[Measure | None] = "probability"
    takes_schedule: ClassVar[bool] = False
    ends: ClassVar[Ends] = "steps"
    keeps_tokens: ClassVar[bool | None] = True
    writes_ahead: ClassVar[bool] = True
    blocks_count_given: ClassVar[bool] = True
    shows_whole: ClassVar[str] = "reads the answer from the first step on"
    full_attention: ClassVar[bool] = True

    def check(self) -> None:
        if len(self.early_exit_thresholds) != 3:
            shown = list(self.early_exit_thresholds)
            raise value_error("decode early_exit_thresholds", shown, "three numbers")
        self._constraints()

    def most_steps(self, n: int, steps: int) -> int | None:
        never = self.answer_start is None and not self.constraints_text
        return min(steps, n) if never else steps

    def memory(self, state: DecodeState) -> dict[int, int]:
        """Returns the tokens of the constraints by position. They follow from the canvas alone."""
        hole = np.nonzero(state.in_hole)[0]
        found: dict[int, int] = {}
        for place, text in self._constraints():
            for position, token in enumerate(state.model.encode(f" {text}"), int(hole[0]) + place):
                if position > hole[-1]:
                    break  # as in the authors' code
                if state.given[position]:
                    raise SampleError(
                        f"decode constraints_text: '{text}' does not fit at position {place} of the "
                        "hole, where a token is given"
                    )
                found[position] = token
        return found

    def step(
        self, state: DecodeState, view: StepState, op: Draw
    ) -> Generator[list[ForwardRow], list[Output], Edit]:
        fixed = np.array([*state.memory], dtype=np.int64)
        first = Edit()  # the constraints, which the first row shows already
        if len(fixed) and state.open[fixed].any():
            first = Edit(fixed, np.array([*state.memory.values()]), np.zeros(len(fixed)))
        block, mine = (np.setdiff1d(part, fixed) for part in (state.block_positions, view.position))
        quota = even(len(block), len(mine), view.step, view.steps)
        answer, open_ = self._answer(state), np.setdiff1d(np.nonzero(state.open)[0], fixed)
        if not len(open_) or not (quota or len(answer)):
            return first
        at = np.union1d(open_, answer) if len(answer) else mine
        token, logprob, score, gap = yield from self._read(state, at, Query(WithGap(op)), first)
        if len(answer) and gap[np.isin(at, answer)].mean() >= self._threshold(state):
            state.exit = "answer_gap"
            written = np.isin(at, open_)
        else:
            written = np.isin(at, mine)
            written[written] = highest(score[written], quota)
        return Edit(
            np.concatenate([first.commit, at[written]]),
            np.concatenate([first.token, token[written]]),
            np.concatenate([first.logprob, logprob[written]]),
        )

    def _read(
        self, state: DecodeState, at: Ints, query: Query, first: Edit
    ) -> Generator[list[ForwardRow], list[Output], Output]:
        """Returns what is read at `at` when the tokens of `first` are shown."""
        if first.changes_nothing:
            return (yield from state.read(at, query))
        shown = state.tokens.copy()
        shown[first.commit] = first.token
        return (yield from state.run([state.row(at, query, tokens=shown)]))[0]

    def _answer(self, state: DecodeState) -> Ints:
        """Returns the positions whose logits decide; the canvas may end before the fifth."""
        hole = np.nonzero(state.in_hole)[0]
        if self.answer_start is not None:
            begin = int(hole[0]) + self.answer_start
        elif state.memory:
            begin = max(state.memory) + BEHIND
        else:
            return NONE
        return np.arange(begin, max(begin, min(begin + ANSWER_LENGTH, int(hole[-1]) + 1)))

    def _constraints(self) -> list[tuple[int, str]]:
        """Returns position in the hole and text of each constraint.

        Raises:
            UserError: one has another form.
        """
        found = []
        for part in filter(None, self.constraints_text.split("|")):
            place, colon, text = part.partition(":")
            if not (colon and place.strip().isdecimal() and text.strip()):
                allowed = "POSITION:TEXT, several separated by |"
                raise value_error("decode constraints_text", part, allowed)
            found.append((int(place), text.strip()))
        return found

    def _threshold(self, state: DecodeState) -> float:
        """Returns the threshold of the phase that this step belongs to."""
        done = (state.global_step + 1) / sum(block.steps for block in state.blocks)
        early, mid, late = self.early_exit_thresholds
        return early if done < EARLY else mid if done < MID else late
