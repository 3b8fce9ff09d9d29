"""WINO: a shadow of the block judges what was written, and takes it back."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from torch import Tensor

from dlm_eval.decoding.draw import Draw, Measure, judge
from dlm_eval.decoding.settings import DecodeSettings
from dlm_eval.decoding.state import DecodeState
from dlm_eval.decoding.step import NONE, Bools, Edit, Floats, Ints, Query, StepState
from dlm_eval.decoding.strategies import highest
from dlm_eval.decoding.strategy import NO_LAYOUTS
from dlm_eval.decoding.unmasking import Unmasking
from dlm_eval.engine import ForwardRow, Layout, Output
from dlm_eval.errors import UserError
from dlm_eval.models.denoiser import Denoiser, logit_shift, takes_layouts
from dlm_eval.options import option

AT_FIRST = 30  # "accepted before" at the start of a block; constants of the authors' code
SHARE, LEAST, MOST = 0.7, 5, 20  # of the open positions that a step may write


@dataclass(frozen=True)
class DraftAndVerify:
    """Reads candidates, and the log-probability [N] (nats) of a token that is already written.

    The payload [N, 2] holds the random number of the draw and that token.
    """

    draw: Draw

    def __call__(self, logits: Tensor, payload: Tensor) -> tuple[Tensor, ...]:
        logprob, _ = judge(self.draw.prepared(logits), payload[:, 1].long(), "probability")
        return *self.draw(logits, payload[:, 0]), logprob


@dataclass
class Judged:
    """What is kept of a block.

    Attributes:
        accepted: tokens that the step before has written.
        layout: of its rows.
    """

    accepted: int
    layout: Layout


@dataclass(frozen=True, kw_only=True)
class Wino(Unmasking, name="wino"):
    """writes many, and takes back what a shadow of the block finds improbable (WINO)

    Hong et al. 2025, arXiv 2507.18578; github.com/Feng-Hong/WINO-DLLM 9549a1d, LLaDA/decoding.py.
    Behind the canvas each row has a shadow of the block: masks at the same places in the text, that
    the canvas does not see. A shadow position sees all of the shadow and of the canvas, but not the
    position that it stands for, and so gives the probability of the token there given the others.

    A step writes the candidates above `threshold` (at most A = 0.7 of the open positions, which is
    at least 5 and at most 20), or the best one. If it writes several, tokens of the block's earlier
    steps below `threshold_back` are masked again: fewer than the step before has written.

    Differs from the authors' code: a mask token that is written counts as written in later blocks
    too. They have no guidance; here the unconditional row has the same shadow.
    """

    threshold: float = option(
        0.6, least=0, most=1, help="probability above which a candidate is written", speed=True
    )
    threshold_back: float = option(
        0.9,
        least=0,
        most=1,
        help="probability below which a written token is masked again",
        speed=True,
    )
    reads: ClassVar[Measure | None] = "probability"
    takes_schedule: ClassVar[bool] = False
    ignores_steps: ClassVar[bool] = True
    keeps_tokens: ClassVar[bool | None] = False
    keeps_state: ClassVar[bool] = True
    shows_whole: ClassVar[str] = "runs a shadow of the block beside the canvas"
    full_attention: ClassVar[bool] = True

    def most_steps(self, n: int, steps: int) -> int | None:
        # A step takes back fewer tokens than the step before it has written, so the tokens that k
        # steps leave are at least k - AT_FIRST + 1.
        return n + AT_FIRST - 1

    @classmethod
    def why_not(cls, model: Denoiser) -> str | None:
        return None if takes_layouts(model) else NO_LAYOUTS

    def refuse_model(self, model: Denoiser, settings: DecodeSettings) -> None:
        super().refuse_model(model, settings)
        if logit_shift(model) > 0:
            raise UserError(
                f"decode strategy '{self.name}' needs predictions at a token's own position; those "
                f"of {model.name} are one to the left"
            )

    def block_memory(self, state: DecodeState) -> Judged:
        return Judged(AT_FIRST, shadowed(len(state.ids), state.block_positions))

    def step(
        self, state: DecodeState, view: StepState, op: Draw
    ) -> Generator[list[ForwardRow], list[Output], Edit]:
        judged: Judged = state.memory
        is_open = view.open
        token, logprob, score, verified = yield from self._read(state, view, op, judged.layout)
        left = int(is_open.sum())
        chosen = self._accepted(score[:left])
        written, erased = view.position[is_open][chosen], NONE
        if len(written) > 1:
            back = self._taken_back(verified[left:], judged.accepted)
            erased = view.position[~is_open][back]
        judged.accepted = len(written)
        return Edit(written, token[:left][chosen], logprob[:left][chosen], erased)

    def _read(
        self, state: DecodeState, view: StepState, op: Draw, layout: Layout
    ) -> Generator[list[ForwardRow], list[Output], Output]:
        """Returns what is read at the open positions of the block, then in the shadow of others."""
        length, count = len(state.ids), len(view.position)
        open_ = view.position[view.open]
        shadow = length + np.nonzero(~view.open)[0]
        payload = np.zeros((count, 2))
        payload[: len(open_), 0] = state.uniforms(open_)
        payload[len(open_) :, 1] = view.current[~view.open]
        tokens = np.concatenate([state.tokens, np.full(count, state.model.mask_id)])
        at = np.concatenate([open_, shadow])
        query = Query(DraftAndVerify(op))
        return (yield from state.run([state.row(at, query, tokens, payload, layout)]))[0]

    def _accepted(self, logprob: Floats) -> Bools:
        """Returns [W] bool, true at candidates [W] that are written."""
        most = min(max(int(len(logprob) * SHARE), LEAST), MOST)
        sure: Bools = np.exp(logprob) > self.threshold
        if sure.sum() > most:
            return highest(logprob, most)
        return sure if sure.any() else highest(logprob, 1)

    def _taken_back(self, logprob: Floats, accepted: int) -> Bools:
        """Returns [W] bool, true at written tokens [W] that become masks again.

        Args:
            logprob: of each token, given all others (nats).
            accepted: tokens that the step before has written.
        """
        doubtful: Bools = np.exp(logprob) < self.threshold_back
        return highest(-logprob, accepted - 1) if doubtful.sum() >= accepted else doubtful


def shadowed(length: int, block: Ints) -> Layout:
    """Returns the layout of a canvas of `length` positions and a shadow of its positions `block`."""
    whole = length + len(block)
    visible = np.zeros((whole, whole), dtype=bool)
    visible[:, :length] = True
    visible[length:, length:] = True
    visible[np.arange(length, whole), block] = False
    return Layout(np.concatenate([np.arange(length), block]), visible)
