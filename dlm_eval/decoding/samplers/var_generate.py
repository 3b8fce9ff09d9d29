"""iLLaDA's generation of variable length: a block does not see the masks behind it.

arXiv 2606.25331; `var_generate` and `apply_end_think_logit_boost` of ML-GSAI/LLaDA's generate.py,
read in a public copy (the newest version at hand, b7e6c35, does not have them yet).

Shape letters: W = positions that a step considers, N = wanted positions of a batch, V = vocabulary.
"""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np
from torch import Tensor

from dlm_eval.decoding.draw import Draw
from dlm_eval.decoding.state import DecodeState
from dlm_eval.decoding.step import Edit, Floats, Query, StepState
from dlm_eval.decoding.strategies import Confidence
from dlm_eval.engine import ForwardRow, Output
from dlm_eval.errors import UserError
from dlm_eval.models.denoiser import Denoiser
from dlm_eval.options import option, value_error

if TYPE_CHECKING:
    from dlm_eval.decoding.settings import DecodeSettings


@dataclass(frozen=True)
class BoostedDraw:
    """LogitsOp of `Draw` whose payload [N, 3] adds to one logit of each position: a uniform number in
    [0, 1), a token, and what its logit grows by (nats).
    """

    draw: Draw

    def __call__(self, logits: Tensor, payload: Tensor) -> tuple[Tensor, ...]:
        uniform, token, boost = payload.unbind(-1)
        boosted = logits.scatter_add(-1, token.long()[:, None], boost.to(logits.dtype)[:, None])
        return self.draw(boosted, uniform)


@dataclass(frozen=True, kw_only=True)
class VarGenerate(Confidence, name="var_generate"):
    """as `confidence`, in blocks that do not see the masks behind them (iLLaDA var_generate)

    The text grows by `block_length` masks; each block is filled by the schedule (`steps_per_block`),
    and decoding ends with the block in which the text ends. The model never sees how long the hole
    is. `end_think_*` raises the logit of the next token of a text that ends thinking, at the first
    open position, by `end_think_logit_boost` (share of the hole so far) ** `end_think_boost_power`,
    until the text is written.
    """

    end_think_token_ids: tuple[int, ...] = option(
        (), least=0, help="tokens of the text that ends thinking; empty for none"
    )
    end_think_logit_boost: float = option(
        0.0, least=0, help="what the logit of its next token grows by at the end of the hole (nats)"
    )
    end_think_boost_power: float = option(
        2.0, above=0, help="power of the share of the hole that is written"
    )
    completes_only: ClassVar[bool] = True
    finds_length: ClassVar[bool] = True
    shows_whole: ClassVar[str] = "hides what is behind a block"
    full_attention: ClassVar[bool] = True

    def check(self) -> None:
        if self.rescore:
            raise UserError("decode rescore is not used by strategy 'var_generate'; leave it out")

    def refuse_model(self, model: Denoiser, settings: DecodeSettings) -> None:
        super().refuse_model(model, settings)
        if self.end_think_token_ids and max(self.end_think_token_ids) >= model.vocab_size:
            allowed = f"ids that {model.name} predicts, 0 to {model.vocab_size - 1}"
            raise value_error("decode end_think_token_ids", list(self.end_think_token_ids), allowed)

    def most_steps(self, n: int, steps: int) -> int | None:
        return min(steps, n)

    def step(
        self, state: DecodeState, view: StepState, op: Draw
    ) -> Generator[list[ForwardRow], list[Output], Edit]:
        """Reads the text up to the end of the block."""
        if view.quota <= 0:
            return Edit()
        query, payload = Query(op), None
        if self.end_think_token_ids and self.end_think_logit_boost:
            query, payload = Query(BoostedDraw(op)), self._payload(state, view)
        seen = state.tokens[: int(state.block_positions[-1]) + 1]
        row = state.row(view.position, query, tokens=seen, payload=payload)
        token, logprob, score = (yield from state.run([row]))[0]
        chosen = self.commit(view.with_candidates(token, score, ()))
        return Edit(view.position[chosen], token[chosen], logprob[chosen])

    def _payload(self, state: DecodeState, view: StepState) -> Floats:
        """Returns [W, 3] the input of `BoostedDraw`."""
        payload = np.zeros((len(view.position), 3))
        if state.settings.temperature > 0:
            payload[:, 0] = view.uniform("draw")
        begin = int(np.nonzero(state.in_hole)[0][0])
        text, end = state.tokens[begin:].tolist(), list(self.end_think_token_ids)
        if any(text[i : i + len(end)] == end for i in range(len(text))):
            return payload
        first = int(view.position[0]) - begin  # the first open position, counted in the answer
        known = max(n for n in range(len(end)) if n <= first and text[first - n : first] == end[:n])
        share = (first + 1) / int(state.in_hole.sum())
        payload[0, 1:] = (
            end[known],
            self.end_think_logit_boost * share**self.end_think_boost_power,
        )
        return payload
