"""Prophet: the whole answer is written as soon as the model is sure of its part that counts."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from torch import Tensor

from dlm_eval.decoding.draw import Draw, Measure
from dlm_eval.decoding.schedules import even
from dlm_eval.decoding.settings import DecodeSettings
from dlm_eval.decoding.state import DecodeState
from dlm_eval.decoding.step import NONE, Edit, Ints, Query, StepState
from dlm_eval.decoding.strategies import highest
from dlm_eval.decoding.unmasking import Ends, Unmasking
from dlm_eval.engine import ForwardRow, Output
from dlm_eval.models.denoiser import Denoiser
from dlm_eval.options import option, value_error

ANSWER_LENGTH = 5  # positions; a constant in the authors' code
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
    forward at temperature 0. The authors' `constraints` are given tokens of the canvas: blocks count
    them, as in the authors' code.
    """

    answer_start: int | None = option(
        None,
        least=0,
        help="position of the answer, counted from the first open one; None: decoding never ends "
        "early",
    )
    early_exit_thresholds: tuple[float, ...] = option(
        (7.5, 5.0, 2.5), help="mean lead of the best logit that ends decoding early, mid and late"
    )
    reads: ClassVar[Measure | None] = "probability"
    takes_schedule: ClassVar[bool] = False
    ends: ClassVar[Ends] = "steps"
    writes_ahead: ClassVar[bool] = True
    blocks_count_given: ClassVar[bool] = True

    def check(self) -> None:
        if len(self.early_exit_thresholds) != 3:
            shown = list(self.early_exit_thresholds)
            raise value_error("decode early_exit_thresholds", shown, "three numbers")

    def refuse_model(self, model: Denoiser, settings: DecodeSettings) -> None:
        super().refuse_model(model, settings)
        self.refuse_part_rows("reads the answer from the first step on", model, settings)

    @property
    def revisits(self) -> bool:
        return False

    @property
    def tokens_are_final(self) -> bool:
        return True

    def most_steps(self, n: int, steps: int) -> int | None:
        return steps if self.answer_start is not None else min(steps, n)

    def step(
        self, state: DecodeState, view: StepState, op: Draw
    ) -> Generator[list[ForwardRow], list[Output], Edit]:
        quota = even(len(state.block_positions), len(view.position), view.step, view.steps)
        answer, open_ = self._answer(state), np.nonzero(state.open)[0]
        if not len(open_) or not (quota or len(answer)):
            return Edit()
        at = np.union1d(open_, answer) if len(answer) else view.position
        token, logprob, score, gap = yield from state.read(at, Query(WithGap(op)))
        if len(answer) and gap[np.isin(at, answer)].mean() >= self._threshold(state):
            state.exit = "answer_gap"
            written = np.isin(at, open_)
        else:
            written = np.isin(at, view.position)
            written[written] = highest(score[written], quota)
        return Edit(at[written], token[written], logprob[written])

    def _answer(self, state: DecodeState) -> Ints:
        """Returns the positions whose logits decide; the canvas may end before the fifth."""
        if self.answer_start is None:
            return NONE
        hole = np.nonzero(state.in_hole)[0]
        begin = int(hole[0]) + self.answer_start
        return np.arange(begin, max(begin, min(begin + ANSWER_LENGTH, int(hole[-1]) + 1)))

    def _threshold(self, state: DecodeState) -> float:
        """Returns the threshold of the phase that this step belongs to."""
        done = (state.global_step + 1) / sum(block.steps for block in state.blocks)
        early, mid, late = self.early_exit_thresholds
        return early if done < EARLY else mid if done < MID else late
