"""Linear self-speculation of Nemotron-Labs-Diffusion (Fu et al. 2026, arXiv 2607.05722): the
diffusion mode drafts a block, the autoregressive mode of the same weights verifies it.

Shape letters: W = open positions of the hole, B = positions of a block.
"""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass
from typing import ClassVar, cast

import numpy as np

from dlm_eval.decoding.draw import Draw
from dlm_eval.decoding.samplers.block_n import Autoregressive, own_dice, right_ones
from dlm_eval.decoding.state import DecodeState
from dlm_eval.decoding.step import Edit, Floats, Ints, Query, StepState
from dlm_eval.engine import ForwardRow, Output
from dlm_eval.models.denoiser import BlockDrafts, Denoiser, offers
from dlm_eval.options import option


@dataclass(frozen=True, kw_only=True)
class LinearSpec(Autoregressive, name="linear_spec"):
    """drafts of a block by the diffusion mode, verified by the autoregressive one (Nemotron)"""

    # arXiv 2607.05722, linear_spec_generate of the checkpoints' own modelling file, read in a public
    # copy of it. Its `block_length` is `draft_length` here. The first row is their prefill. Their
    # draft with the adapter linear_spec_lora is not built, since a merged adapter would verify too.
    # Theirs ends with an error if no draft is above the threshold; here such a round writes the
    # token that verification reads.

    draft_length: int = option(
        32,
        least=2,
        help="positions of a block: the last token, and the masks that are drafted",
        speed=True,
    )
    threshold: float = option(
        0.0,
        least=0,
        most=1,
        help="a draft of this probability or less stays a mask, which is wrong",
        speed=True,
    )
    shows_whole: ClassVar[str] = "shows drafts beside the text"
    completes_only: ClassVar[bool] = True

    @classmethod
    def why_not(cls, model: Denoiser) -> str | None:
        if reason := super().why_not(model):
            return reason
        return None if offers(model, BlockDrafts) else "it has no diffusion mode that drafts"

    def most_steps(self, n: int, steps: int) -> int | None:
        return 2 * n - 1  # the first token takes one row, each round two

    def step(
        self, state: DecodeState, view: StepState, op: Draw
    ) -> Generator[list[ForwardRow], list[Output], Edit]:
        at, payload = view.position, own_dice(state, view.position)
        if state.memory is None:
            state.memory = True
            row = state.row(at[:1], Query(op), payload=payload[:1])
            token, logprob, *_ = (yield from state.run([row]))[0]
            return Edit(at[:1], token, logprob)
        draft = yield from self._draft(state, at, payload, op)
        tokens = state.tokens.copy()
        tokens[at[: len(draft)]] = draft
        read = at[: self.draft_length]
        row = state.row(read, Query(op), tokens, payload[: len(read)])
        token, logprob, *_ = (yield from state.run([row]))[0]
        written = right_ones(draft, token) + 1  # and the token behind those that are right
        at, token, logprob = at[:written], token[:written], logprob[:written]
        state.global_step += len(at) - 1
        return Edit(at, token, logprob)

    def _draft(
        self, state: DecodeState, at: Ints, payload: Floats, op: Draw
    ) -> Generator[list[ForwardRow], list[Output], Ints]:
        """Returns the drafts of the first open positions, masks where they are not sure enough.

        The block is as long as ever at the end of the hole, where its masks go beyond it.
        """
        begin = int(at[0])
        end = min(begin + self.draft_length - 1, state.model.max_length)
        tokens = np.full(end, state.model.mask_id)
        tokens[:begin] = state.tokens[:begin]
        masks = np.arange(begin, end)
        dice = np.zeros(len(masks))
        inside = min(len(masks), len(payload))
        dice[:inside] = payload[:inside]
        head = cast(BlockDrafts, state.model).draft_logits
        row = state.row(masks, Query(op, head=head), tokens, dice)
        token, logprob, *_ = (yield from state.run([row]))[0]
        sure = np.exp(logprob[:inside]) > self.threshold
        return np.where(sure, token[:inside], state.model.mask_id)
