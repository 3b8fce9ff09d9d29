"""E2D2's decoding (arXiv 2510.22852): predict a whole block, then mask its least certain tokens again.

kuleshov-group/e2d2 025bbfc, `src/denoiser/diffusion.py`: `generate` with `predict_and_noise`, linear
noise and no draws. What differs: a prompt that ends inside a block (`align_inputs_to_blocks`) leaves
no masks at the end of the text, since all blocks up to the end of the hole are filled; theirs are
floor(L / B) from the block in which the prompt ends.

Shape letters: W = open positions of the block, B = length of a block.
"""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from dlm_eval.decoding.draw import Draw, Measure
from dlm_eval.decoding.schedules import reveal_grid
from dlm_eval.decoding.state import DecodeState
from dlm_eval.decoding.step import Bools, Edit, Query, StepState
from dlm_eval.decoding.strategies import highest
from dlm_eval.decoding.unmasking import Unmasking
from dlm_eval.engine import ForwardRow, Output
from dlm_eval.options import option


@dataclass(frozen=True, kw_only=True)
class PredictAndNoise(Unmasking, name="predict_and_noise"):
    """all but the n least certain, n falling evenly with the time, and all above a threshold (E2D2)

    After step k of T, t = 1 - (k + 1) (1 - min_t) / T: n is int(t B), which is less than the open
    positions. It is computed in float32, as in the authors' code, so that a step of B / T tokens
    may write one more or less.
    """

    num_steps: int | None = option(
        None, least=1, help="steps of a block (T), at most its length; None: its length", speed=True
    )
    min_t: float = option(1e-5, least=0, below=1, help="time at which decoding ends")
    confidence_margin_based_noising: bool = option(
        False, help="certainty is the lead over the runner-up, not the probability"
    )
    confidence_threshold: float = option(
        1e6, least=0, help="probability from which on a token is written at once", speed=True
    )
    takes_schedule: ClassVar[bool] = False
    takes_steps: ClassVar[bool] = False

    @property
    def reads(self) -> Measure:  # type: ignore[override]
        return "margin" if self.confidence_margin_based_noising else "probability"

    def most_steps(self, n: int, steps: int) -> int | None:
        return n

    def step(
        self, state: DecodeState, view: StepState, op: Draw
    ) -> Generator[list[ForwardRow], list[Output], Edit]:
        token, logprob, score = yield from state.read(view.position, Query(op))
        kept = min(self._noisy(state, view.step), len(token) - 1)
        sure: Bools = np.exp(logprob) >= self.confidence_threshold
        chosen = ~highest(-score, kept) | sure
        return Edit(view.position[chosen], token[chosen], logprob[chosen])

    def _noisy(self, state: DecodeState, step: int) -> int:
        """Returns the number of positions that are masked after a step."""
        size = state.blocks[state.block].size
        steps = min(self.num_steps or size, size)
        if step >= steps:
            return 0
        time = reveal_grid(self.min_t, steps)[step] - np.float32((1 - self.min_t) / steps)
        visible = np.float32(1) - time
        return int((np.float32(1) - visible) * np.float32(size))
