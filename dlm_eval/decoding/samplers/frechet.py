"""Frechet profile decoding of Fast-dLLM++: as many tokens as are jointly the most probable."""

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
class Frechet(Unmasking, name="frechet"):
    """the n most probable while a bound of their joint probability exceeds that of others (Fast-dLLM++)

    Kasa et al. 2026, arXiv 2606.02955; github.com/Ringo-Star/FastdLLM_plusplus 29fd034,
    v1/llada/generate.py, without its caches. With probabilities p_1 >= p_2 >= ..., the n-th is
    written if p_1 + ... + p_n - (n - 1), Frechet's lower bound of the joint probability, exceeds
    1 - p_n, an upper bound of every other combination, by more than `frechet_margin`; the first
    always is. The authors evaluate with margins of 0.02 and 0.25.
    """

    frechet_margin: float = option(
        help="minimum lead of the written combination over others", speed=True
    )
    takes_schedule: ClassVar[bool] = False
    ignores_steps: ClassVar[bool] = True
    reads: ClassVar[Measure | None] = "probability"

    def most_steps(self, n: int, steps: int) -> int | None:
        return n

    def commit(self, view: StepState) -> Bools:
        ranked = np.sort(np.exp(view.score))[::-1]
        joint = np.cumsum(ranked) - np.arange(len(ranked))
        # The lead does not grow with n.
        lead = joint - (1 - ranked)
        return highest(view.score, max(1, int((lead > self.frechet_margin).sum())))
