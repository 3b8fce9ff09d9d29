"""CreditDecoding: tokens that stay the most probable gain credit, and are written earlier."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from dlm_eval.decoding.draw import Draw, Measure
from dlm_eval.decoding.step import Bools, Query, StepState
from dlm_eval.decoding.strategies import highest
from dlm_eval.decoding.unmasking import Unmasking
from dlm_eval.models.denoiser import Denoiser
from dlm_eval.options import option

CLOSE = 1e-5  # probabilities as close as this to the highest one count as equal to it


@dataclass(frozen=True)
class WithCredit:
    """KeepingOp of candidates, read from logits + alpha log(1 + C).

    C, the credit [N, V] float32, begins as 0 and is kept: decay C + p^gamma at the token of highest
    probability p.
    """

    draw: Draw
    alpha: float
    gamma: float
    decay: float

    def __call__(
        self, logits: Tensor, payload: Tensor, before: Tensor | None, known: Tensor
    ) -> tuple[Tensor, ...]:
        logits = self.draw.prepared(logits).float()
        credit = torch.zeros_like(logits) if before is None else before * self.decay
        p, token = logits.softmax(-1).max(-1)
        credit = credit.scatter_add(-1, token[:, None], p.pow(self.gamma)[:, None])
        fused = logits + self.alpha * credit.log1p()
        return *replace(self.draw, logits_temp=1.0)(fused, payload), credit


@dataclass(frozen=True, kw_only=True)
class Credit(Unmasking, name="credit"):
    """as threshold, of logits to which earlier steps have added credit (CreditDecoding)

    ArXiv 2510.06133; github.com/inclusionAI/dInfer fce4e32, parallel_strategy.py
    CreditThresholdParallelDecoder. At each step the most probable token of a position gets the
    credit p^boost_gamma, earlier credit decays by `decay_beta`, and candidates are those of
    logits + credit_alpha log(1 + credit). All of at least `threshold` are written; if there are
    none, the most probable one and those within 1e-5 of it.

    A candidate that is the mask token is not written. If all are, one of them is (the authors' loop
    never ends). The authors run `maximum_unroll` steps between two looks at the block; ours runs no
    forward on a full block. Their `early_stop`, which fills everything behind a block with an
    end-of-text token, is the exact early exit here. Credit ends with its block, and no other text
    inherits it.
    """

    threshold: float = option(
        0.9, least=0, most=1, help="minimum probability of a token that is written", speed=True
    )
    credit_alpha: float = option(0.7, least=0, help="weight of the credit in the logits")
    boost_gamma: float = option(0.2, least=0, help="a step's credit is p to this power")
    decay_beta: float = option(
        0.8, least=0, most=1, help="factor of the credit from one step to the next"
    )
    takes_schedule: ClassVar[bool] = False
    ignores_steps: ClassVar[bool] = True
    reads: ClassVar[Measure | None] = "probability"
    keeps_state: ClassVar[bool] = True

    def most_steps(self, n: int, steps: int) -> int | None:
        return n

    def query(self, view: StepState, op: Draw, model: Denoiser) -> Query:
        op_of_credit = WithCredit(op, self.credit_alpha, self.boost_gamma, self.decay_beta)
        return Query(op_of_credit, keeps=True)

    def commit(self, view: StepState) -> Bools:
        is_token = view.token != view.current  # the mask token is what is there now
        if not is_token.any():
            return highest(view.score, 1)
        probability = np.where(is_token, np.exp(view.score), -np.inf)
        sure: Bools = probability >= min(self.threshold, float(probability.max()) - CLOSE)
        return sure
