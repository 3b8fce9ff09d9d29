"""DreamReasoner's block decoding (arXiv 2606.19257): four ways to choose what a step writes.

Semantics of a port of the hub's generation_utils.py (Yanzhen-CN/Benchmark-dllm cfd8cd4,
src/dllm_bench/models/dreamreasoner.py: _select_transfer_index); the authors' own file was not to be
had. What differs: a step that writes nothing runs no forward, and text after an end token is not
written (`early_exit=false` writes it, as the port does).

Shape letter: W = positions that a step considers.
"""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass, replace
from typing import ClassVar, Literal

import numpy as np

from dlm_eval.decoding.draw import Draw, Measure
from dlm_eval.decoding.state import DecodeState
from dlm_eval.decoding.step import Bools, Edit, StepState
from dlm_eval.decoding.strategies import highest
from dlm_eval.decoding.unmasking import Unmasking
from dlm_eval.engine import ForwardRow, Output
from dlm_eval.options import option

LEAST = 1e-12  # smallest probability whose logarithm is taken


@dataclass(frozen=True, kw_only=True)
class DreamReasoner(Unmasking, name="dream_reasoner"):
    """the surest, the first or the lowest -p log p; a block's last step writes all (DreamReasoner)

    A block has `steps_per_block` steps (None: one for each of its positions). The quota of a step is
    an even share of the whole block, even if a part of it is given, and at least 1.
    """

    remasking_strategy: Literal[
        "low_confidence_dynamic", "low_confidence_static", "sequential", "entropy_bounded"
    ] = option(
        "low_confidence_dynamic",
        help="'low_confidence_dynamic': all above confidence_threshold if they are as many as the "
        "quota, else the quota's most probable ones, as 'low_confidence_static' does; 'sequential': "
        "from left to right; 'entropy_bounded': the most certain ones whose -p log p sum to less "
        "than eb_threshold, at least one",
    )
    confidence_threshold: float = option(
        0.9,
        least=0,
        most=1,
        help="probability above which 'low_confidence_dynamic' writes",
        speed=True,
    )
    eb_threshold: float = option(
        0.35, least=0, help="bound on the sum of -p log p of the chosen tokens (nats)", speed=True
    )
    default_schedule: ClassVar[str | None] = "even"
    takes_schedule: ClassVar[bool] = False
    reads: ClassVar[Measure | None] = "probability"

    def most_steps(self, n: int, steps: int) -> int | None:
        return min(steps, n)

    def step(
        self, state: DecodeState, view: StepState, op: Draw
    ) -> Generator[list[ForwardRow], list[Output], Edit]:
        if view.quota == 0 and self.remasking_strategy != "sequential":
            view = replace(view, quota=1)  # of more steps than positions
        return (yield from super().step(state, view, op))

    def commit(self, view: StepState) -> Bools:
        if view.step == view.steps - 1:
            return ~view.nowhere
        if self.remasking_strategy == "entropy_bounded":
            chance = np.maximum(np.exp(view.score), LEAST)
            doubt = -chance * np.log(chance)
            total = np.cumsum(np.sort(doubt))
            return highest(-doubt, max(1, int(np.searchsorted(total, self.eb_threshold))))
        if self.remasking_strategy == "sequential":
            return np.asarray(view.position < view.position[0] + view.quota)
        sure: Bools = np.exp(view.score) > self.confidence_threshold
        dynamic = self.remasking_strategy == "low_confidence_dynamic"
        return sure if dynamic and sure.sum() >= view.quota else highest(view.score, view.quota)
