"""D2F's pipelined blocks: later blocks begin before earlier ones are full, under block-causal attention.

Wang et al. 2025, arXiv 2508.09192; github.com/zhijie-group/Discrete-Diffusion-Forcing 771f745,
D2F-eval/eval_llada.py and eval_dream.py `_generate_block_single`.

Shape letters: W = positions of the answer, B = blocks, L = tokens of a row.
"""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass, replace
from typing import ClassVar, Literal

import numpy as np
import torch
from torch import Tensor

from dlm_eval.decoding.draw import Draw, Measure
from dlm_eval.decoding.end_tokens import end_ids
from dlm_eval.decoding.state import DecodeState
from dlm_eval.decoding.step import Bools, Edit, Floats, Ints, Query, StepState
from dlm_eval.decoding.strategies import highest
from dlm_eval.decoding.strategy import NO_LAYOUTS
from dlm_eval.decoding.unmasking import Ends, Unmasking
from dlm_eval.engine import ForwardRow, Layout, Output
from dlm_eval.models.denoiser import Denoiser, takes_layouts
from dlm_eval.options import option

MEASURES: dict[str, Measure] = {
    "default": "probability",
    "neg_entropy": "entropy",
    "margin_confidence": "margin",
}


@dataclass(frozen=True)
class NoMask:
    """LogitsOp of `draw`. Where its candidate is the mask, the best other token takes its place, judged
    as if the mask were ruled out.
    """

    draw: Draw
    mask: int

    def __call__(self, logits: Tensor, payload: Tensor) -> tuple[Tensor, ...]:
        found = self.draw(logits, payload)
        stuck = found[0] == self.mask
        if not bool(stuck.any()):
            return found
        other = replace(self.draw, banned=(*self.draw.banned, self.mask))(logits, payload)
        return tuple(torch.where(stuck, *both) for both in zip(other, found, strict=True))


@dataclass
class Pipeline:
    """What has begun.

    Attributes:
        complete: of each block that has begun, whether it writes a token in every step.
        ended: whether an end of text was written, after which no block begins.
    """

    complete: list[bool]
    ended: bool = False


@dataclass(frozen=True, kw_only=True)
class D2F(Unmasking, name="d2f"):
    """all surer than a threshold in pipelined blocks, which do not see later ones (D2F)

    A block begins, one per step at most, when the last one has the share `block_add_threshold` of its
    tokens. A step writes all candidates of these blocks that are surer than `skip_threshold`. If a
    block has none, it writes its best one by `sampling_strategy`, once the block before has the share
    `decoded_token_threshold` of its tokens. After an end of text no block begins. A block sees the
    prompt, earlier blocks and itself, and the row ends with the last block that has begun.

    Equal to the authors' code, whose KV cache is exact, except where a candidate is the mask: theirs
    counts it as written and reads the position again, which need not end; here the best other token
    takes its place. Their LLaDA code has one end token, 126081; here it is `eos_token_id`. A last
    block may be shorter here (theirs is left out). Above temperature 0 their probabilities are those that
    tokens are drawn with (`confidence_from=sampling`). The models are LLaDA and Dream with the authors'
    LoRA weights (`peft=`).
    """

    block_size: int = option(32, least=1, help="positions of a block")
    block_add_threshold: float = option(
        0.1, least=0, most=1, help="share of written tokens of the last block at which one begins"
    )
    decoded_token_threshold: float = option(
        0.95,
        least=0,
        most=1,
        help="share of written tokens of the block before from which a step writes at least one",
    )
    skip_threshold: float = option(
        0.9, least=0, most=1, help="probability above which a candidate is written", speed=True
    )
    sampling_strategy: Literal["default", "neg_entropy", "margin_confidence"] = option(
        "default",
        help="which candidate is the best one of a block without sure ones: the most probable, that "
        "of the lowest entropy, or that of the largest lead",
    )
    eos_token_id: int | None = option(
        None, least=0, help="the end-of-text token after which no block begins; None: the model's"
    )
    takes_schedule: ClassVar[bool] = False
    takes_steps: ClassVar[bool] = False
    takes_guidance: ClassVar[bool] = False
    keeps_state: ClassVar[bool] = True
    owns_blocks: ClassVar[bool] = True
    takes_block_length: ClassVar[bool] = False
    completes_only: ClassVar[bool] = True
    finds_length: ClassVar[bool] = True
    full_attention: ClassVar[bool] = True
    ends: ClassVar[Ends] = "own"
    keeps_tokens: ClassVar[bool | None] = True
    shows_whole: ClassVar[str] = "hides later blocks from earlier ones"

    @property
    def reads(self) -> Measure:  # type: ignore[override]
        """What chooses the best candidate of a block without sure ones."""
        return MEASURES[self.sampling_strategy]

    @classmethod
    def why_not(cls, model: Denoiser) -> str | None:
        return None if takes_layouts(model) else NO_LAYOUTS

    def most_steps(self, n: int, steps: int) -> int | None:
        return n

    def memory(self, state: DecodeState) -> Pipeline:
        return Pipeline([])

    def stops(self, state: DecodeState) -> bool:
        """Returns whether all blocks that have begun are full, and no other one begins."""
        pipeline: Pipeline = state.memory
        share, _ = self._written(state)
        begun = len(pipeline.complete)
        return bool((share[:begun] == 1).all()) and (pipeline.ended or begun == len(share))

    def _written(self, state: DecodeState) -> tuple[Floats, Ints]:
        """Returns the share of written tokens [B], and the block [W] of each position."""
        places = state.block_positions
        block = np.arange(len(places)) // self.block_size
        return 1 - np.bincount(block, state.open[places]) / np.bincount(block), block

    def step(
        self, state: DecodeState, view: StepState, op: Draw
    ) -> Generator[list[ForwardRow], list[Output], Edit]:
        """Begins a block, reads all that have begun, and writes."""
        pipeline: Pipeline = state.memory
        share, block = self._written(state)
        before = np.append(1.0, share)  # of the prompt, then of each block
        begun = len(pipeline.complete)
        if begun < len(share) and not pipeline.ended and before[begun] >= self.block_add_threshold:
            pipeline.complete.append(False)
        begun = len(pipeline.complete)
        for number in range(begun):
            pipeline.complete[number] |= bool(before[number] >= self.decoded_token_threshold)
        places = state.block_positions
        at = places[(block < begun) & state.open[places]]
        of = block[(block < begun) & state.open[places]]
        end = int(places[block < begun][-1]) + 1
        query = Query(NoMask(op, state.model.mask_id))
        row = state.row(
            at, query, state.tokens[:end], state.uniforms(at), self._layout(end, int(places[0]))
        )
        token, logprob, score = (yield from state.run([row]))[0]
        chosen = self.choose(logprob, score, of, pipeline.complete)
        pipeline.ended |= bool(
            np.isin(token[chosen], end_ids(self.eos_token_id, state.model)).any()
        )
        return Edit(at[chosen], token[chosen], logprob[chosen])

    def choose(self, logprob: Floats, score: Floats, of: Ints, complete: list[bool]) -> Bools:
        """Returns [N] bool, true at candidates that are written.

        Args:
            logprob: [N] of each candidate (nats).
            score: [N] by which the best one of a block is chosen.
            of: [N] block of each.
            complete: of each block, whether it writes a token in every step.
        """
        chosen: Bools = np.exp(logprob) > self.skip_threshold
        for number in np.unique(of):
            own = np.flatnonzero(of == number)
            if complete[number] and not chosen[own].any():
                chosen[own[highest(score[own], 1)]] = True
        return chosen

    def _layout(self, end: int, first: int) -> Layout:
        """Returns who sees whom in a row of `end` tokens whose answer begins at `first`."""
        block = np.maximum(np.arange(end) - first, -1) // self.block_size
        return Layout(np.arange(end), block[None, :] <= block[:, None])
