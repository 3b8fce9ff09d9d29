"""LocalLeap: near a sure token less sure ones are written too."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from dlm_eval.decoding.draw import Measure
from dlm_eval.decoding.step import Bools, StepState
from dlm_eval.decoding.strategies import highest
from dlm_eval.decoding.unmasking import Unmasking
from dlm_eval.options import option


@dataclass(frozen=True, kw_only=True)
class LocalLeap(Unmasking, name="localleap"):
    """all of at least a threshold's probability; near one of these a lower threshold does (LocalLeap)

    Kong et al. 2025, arXiv 2510.07081; its LLaDA code (get_transfer_index of generate) was read in
    two public copies, since github.com/friedrichor/LocalLeap could not be. Candidates of the block
    with at least `threshold` are anchors. Candidates at most `radius` positions from an anchor need
    `relaxed_threshold`, others `threshold`; the best candidate is always written.

    Differs from the authors' code: its early stop fills all after a block with an end token, ours
    is the exact early exit.
    """

    threshold: float = option(
        0.9, least=0, most=1, help="minimum probability of an anchor", speed=True
    )
    relaxed_threshold: float = option(
        0.75, least=0, most=1, help="minimum probability of a candidate near an anchor", speed=True
    )
    radius: int = option(4, least=0, help="positions from an anchor that count as near")
    takes_schedule: ClassVar[bool] = False
    ignores_steps: ClassVar[bool] = True
    reads: ClassVar[Measure | None] = "probability"

    def most_steps(self, n: int, steps: int) -> int | None:
        return n

    def commit(self, view: StepState) -> Bools:
        probability = np.exp(view.score)
        anchors = view.position[probability >= self.threshold]
        distance = np.abs(view.position[:, None] - anchors)
        near = (distance <= self.radius).any(1)
        needed = np.where(near, self.relaxed_threshold, self.threshold)
        return (probability >= needed) | highest(view.score, 1)
