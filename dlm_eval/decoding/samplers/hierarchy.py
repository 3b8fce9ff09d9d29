"""Hierarchy decoding of dInfer: tokens that are far from each other are written together."""

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
class Hierarchy(Unmasking, name="hierarchy"):
    """the most probable candidate of each run of open positions, and all above a threshold (dInfer)

    ArXiv 2510.08666; github.com/inclusionAI/dInfer fce4e32, parallel_strategy.py
    HierarchyDecoder. A run is a stretch of the block without a visible token. A step writes the
    most probable candidate of each run if its probability is above `low_threshold`, all above
    `threshold`, and always the most probable of the block.

    Steps between two looks at the block and `early_stop` are as in `credit`.
    """

    threshold: float | None = option(
        None,
        least=0,
        most=1,
        help="all tokens above this probability are written; None: none",
        speed=True,
    )
    low_threshold: float = option(
        0.4, least=0, most=1, help="the best of a run is written above this probability", speed=True
    )
    takes_schedule: ClassVar[bool] = False
    ignores_steps: ClassVar[bool] = True
    reads: ClassVar[Measure | None] = "probability"

    def most_steps(self, n: int, steps: int) -> int | None:
        return n

    def commit(self, view: StepState) -> Bools:
        # Float32, as in the authors' code: equal maxima of a run are written together, and
        # near-certain candidates are equal in float32 only.
        probability = np.exp(view.score).astype(np.float32)
        begins = np.diff(view.position, prepend=view.position[0] - 2) > 1
        run = np.cumsum(begins) - 1
        best = np.maximum.reduceat(probability, np.flatnonzero(begins))[run]
        written: Bools = (probability == best) & (probability > np.float32(self.low_threshold))
        if self.threshold is not None:
            written |= probability > np.float32(self.threshold)
        return written | highest(probability.astype(np.float64), 1)
