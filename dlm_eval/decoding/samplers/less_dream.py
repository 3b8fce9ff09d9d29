"""LESS for Dream: from the left, with a patience of two steps.

Mohamed et al. 2026, arXiv 2606.16908; github.com/amr-mohamedd/LESS-Is-More 4bfb672,
dream_sampling/less.py `diffusion_generate_less`.

Shape letters: N = wanted positions of a batch, V = vocabulary, W = open positions of the block.
"""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar

import numpy as np
from torch import Tensor

from dlm_eval.decoding.draw import Draw, Measure
from dlm_eval.decoding.end_tokens import check_end, end_ids
from dlm_eval.decoding.samplers.less import WithDrift
from dlm_eval.decoding.state import DecodeState
from dlm_eval.decoding.step import Bools, Edit, Floats, Ints, Query, StepState
from dlm_eval.decoding.strategies import highest
from dlm_eval.decoding.unmasking import Unmasking
from dlm_eval.engine import ForwardRow, Output
from dlm_eval.models.denoiser import Denoiser
from dlm_eval.options import option

if TYPE_CHECKING:
    from dlm_eval.decoding.settings import DecodeSettings

PATIENCE, WINDOW = 2, 16  # steps, and positions after the first open one; the authors' constants


@dataclass(frozen=True)
class AlsoDrawn:
    """KeepingOp of what `WithDrift` reads of the most probable token, then a token drawn by `draw`
    [N] and its log-probability [N] (nats).
    """

    draw: Draw
    count: int

    def __call__(
        self, logits: Tensor, payload: Tensor, before: Tensor | None, known: Tensor
    ) -> tuple[Tensor, ...]:
        surest = replace(self.draw, temperature=0.0, of_drawn=False)
        *found, kept = WithDrift(surest, self.count)(logits, payload, before, known)
        drawn, logprob, _ = self.draw(logits, payload)
        return *found, drawn, logprob, kept


@dataclass
class Waiting:
    """In how many steps in succession a later position was written than the first open one."""

    steps: int = 0


@dataclass(frozen=True, kw_only=True)
class LessDream(Unmasking, name="less_dream"):
    """from the left, all that are confident, have not changed and hardly drift (LESS for Dream)

    The most probable token of a position is accepted as in `less`. An end of text must also have
    the probability max(`eos_conf_floor`, `eos_conf_threshold` - `eos_conf_anneal` x the share of the
    steps done), and a drift of at most `eos_js_mult` x `drift_threshold`. If the first open position
    is accepted, it is written with all accepted ones up to the next that is not. If not, the most
    probable accepted one of the 16 positions after it is, in at most two steps in succession; then,
    or if there is none, the first position is written all the same. After `steps` one more step
    fills the rest.

    Above temperature 0 accepted tokens are drawn, others not; what is accepted is decided as at
    temperature 0. The mask is never written. Equal to the authors' code, whose blocks are the whole
    hole. Its `enable_eos_early_stop` is the early exit here; theirs also ends after the first step
    if the prompt holds an end token. `min_new_tokens_before_eos` (0 there) is left out.
    """

    conf_threshold: float = option(
        0.75, least=0, most=1, help="minimum probability of an accepted token", speed=True
    )
    drift_threshold: float = option(
        0.04,
        least=0,
        help="maximum drift of its distribution since the last step (nats)",
        speed=True,
    )
    persistence_len: int = option(
        2, least=1, help="number of steps before in which it was the most probable too"
    )
    eos_conf_threshold: float = option(
        0.9, least=0, most=1, help="minimum probability of an end of text, before the first step"
    )
    eos_conf_anneal: float = option(
        0.1, least=0, help="by how much eos_conf_threshold falls until the last step"
    )
    eos_conf_floor: float = option(
        0.55, least=0, most=1, help="lowest value that eos_conf_threshold falls to"
    )
    eos_js_mult: float = option(0.5, least=0, help="factor of drift_threshold for an end of text")
    eos_token_id: int | None = option(
        None, least=0, help="the end of text of these rules; None: the model's first end token"
    )
    takes_schedule: ClassVar[bool] = False
    reads: ClassVar[Measure | None] = "probability"
    keeps_state: ClassVar[bool] = True

    def refuse_model(self, model: Denoiser, settings: DecodeSettings) -> None:
        super().refuse_model(model, settings)
        check_end(self.eos_token_id, model)

    def most_steps(self, n: int, steps: int) -> int | None:
        return min(n, steps + 1)

    def block_memory(self, state: DecodeState) -> Waiting:
        return Waiting()

    def query(self, view: StepState, op: Draw, model: Denoiser) -> Query:
        op = replace(op, banned=(*op.banned, model.mask_id))
        return Query(AlsoDrawn(op, self.persistence_len), keeps=True)

    def step(
        self, state: DecodeState, view: StepState, op: Draw
    ) -> Generator[list[ForwardRow], list[Output], Edit]:
        """Reads all open positions, and writes the first ones, or a later one."""
        at = view.position
        token, logprob, _, stays, moved, drawn, drawn_logprob = yield from state.read(
            at, self.query(view, op, state.model)
        )
        if view.step >= view.steps:
            return Edit(at, token, logprob)
        share = (view.step + 1) / view.steps
        accepted = stays.astype(bool) & self._sure(
            np.exp(logprob), moved, self._ends(token, state.model), share
        )
        chosen = self._chosen(at, accepted, logprob, state.memory)
        if accepted[chosen].all():
            token, logprob = drawn, drawn_logprob
        return Edit(at[chosen], token[chosen], logprob[chosen])

    def _ends(self, token: Ints, model: Denoiser) -> Bools:
        """Returns [W] whether a token is the end of text."""
        return np.isin(token, end_ids(self.eos_token_id, model)[:1])

    def _sure(self, probability: Floats, moved: Floats, ends: Bools, share: float) -> Bools:
        """Returns [W] whether probability and drift (nats) are good enough after this share of the
        steps.
        """
        of_end = max(self.eos_conf_floor, self.eos_conf_threshold - self.eos_conf_anneal * share)
        enough: Bools = (probability >= self.conf_threshold) & (moved <= self.drift_threshold)
        end_enough = (probability >= of_end) & (moved <= self.drift_threshold * self.eos_js_mult)
        return enough & (~ends | end_enough)

    def _chosen(self, at: Ints, accepted: Bools, logprob: Floats, waiting: Waiting) -> Bools:
        """Returns [W] bool, true at candidates that are written: accepted ones, or the first one.

        Args:
            at: their positions.
            accepted: whether each is accepted.
            logprob: of each (nats).
            waiting: of the block; it is counted on.
        """
        if not accepted[0] and waiting.steps < PATIENCE:
            near = accepted & (at <= at[0] + WINDOW)
            if near.any():
                waiting.steps += 1
                return highest(np.where(near, logprob, -np.inf), 1)
        waiting.steps = 0
        chosen: Bools = np.logical_and.accumulate(accepted)
        chosen[0] = True
        return chosen
