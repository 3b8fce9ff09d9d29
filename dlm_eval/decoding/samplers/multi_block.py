"""Multi-block decoding of d3LLM: later blocks begin before earlier ones are full."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass, field
from typing import ClassVar, Literal

import numpy as np

from dlm_eval.decoding.draw import Draw, Measure
from dlm_eval.decoding.end_tokens import end_ids
from dlm_eval.decoding.state import DecodeState
from dlm_eval.decoding.step import NONE, Bools, Edit, Floats, Ints, StepState
from dlm_eval.decoding.strategies import highest
from dlm_eval.decoding.unmasking import Unmasking
from dlm_eval.engine import ForwardRow, Output
from dlm_eval.options import option


@dataclass
class Begun:
    """What has begun.

    Attributes:
        blocks: number of blocks that steps write in, from the first on.
        filled: positions that the last step has filled behind an end of text.
    """

    blocks: int = 1
    filled: Ints = field(default_factory=lambda: NONE)


@dataclass(frozen=True, kw_only=True)
class MultiBlock(Unmasking, name="multi_block"):
    """all of low entropy in several blocks at once; a block begins when the last is partly full (d3LLM)

    ArXiv 2601.07568; github.com/hao-ai-lab/d3LLM e5bfcac,
    d3llm_llada_generate_util.py generate_multi_block and d3llm_dream_generate_util.py
    _sample_multi_block, without their caches. A block begins when the last one that has begun is
    full or has the share `block_add_threshold` of its tokens, one per step at most. A step writes all
    candidates of these blocks with an entropy of at most `threshold`, and the lowest of the first
    block that is not full if it gets nothing else.

    `convention=llada` always writes the lowest entropy of all blocks too; under `dream` an entropy
    has to be below the threshold. `early_stop` fills everything behind an end-of-text token with
    such tokens at once, which earlier open positions then see. As in the authors' code, the next
    step can still choose positions that were filled so. Their `decoded_token_threshold` changes
    nothing without a cache (the first block that is not full follows a full one), and is left out. A
    last block may be shorter here.
    """

    threshold: float = option(
        0.5, least=0, help="maximum entropy of a candidate that is written (nats)", speed=True
    )
    block_size: int = option(32, least=1, help="positions of a block")
    block_add_threshold: float = option(
        0.5, least=0, most=1, help="share of written tokens at which the next block begins"
    )
    early_stop: bool = option(
        False, help="fill everything behind the first end-of-text token with it"
    )
    eos_token_id: int | None = option(
        None, least=0, help="the end-of-text token of early_stop; None: the model's"
    )
    convention: Literal["llada", "dream"] = option(
        "llada", help="whose code: 'llada' also writes the lowest entropy of all, 'dream' does not"
    )
    takes_schedule: ClassVar[bool] = False
    reads: ClassVar[Measure | None] = "entropy"
    keeps_state: ClassVar[bool] = True
    owns_blocks: ClassVar[bool] = True
    takes_block_length: ClassVar[bool] = False

    def most_steps(self, n: int, steps: int) -> int | None:
        return n

    def memory(self, state: DecodeState) -> Begun:
        return Begun()

    def step(
        self, state: DecodeState, view: StepState, op: Draw
    ) -> Generator[list[ForwardRow], list[Output], Edit]:
        """Begins a block, reads all that have begun, and writes."""
        begun: Begun = state.memory
        places = state.block_positions
        block = np.arange(len(places)) // self.block_size
        open_ = state.open[places]
        full = 1 - np.bincount(block, open_) / np.bincount(block)
        if begun.blocks < len(full) and (full[begun.blocks - 1] >= self.block_add_threshold):
            begun.blocks += 1
        considered = (open_ & (block < begun.blocks)) | np.isin(places, begun.filled)
        at = places[considered]
        token, logprob, score = yield from state.read(at, self.query(view, op, state.model))
        chosen = self.choose(-score, block[considered] == block[open_][0])
        return self._edit(state, at[chosen], token[chosen], logprob[chosen])

    def choose(self, entropy: Floats, in_first: Bools) -> Bools:
        """Returns [W] bool, true at candidates that are written.

        Args:
            entropy: [W] of each candidate, nats.
            in_first: [W] whether it is in the first block that is not full.
        """
        if self.convention == "llada":
            chosen: Bools = (entropy <= self.threshold) | highest(-entropy, 1)
        else:
            chosen = entropy < self.threshold
        if not chosen[in_first].any():
            chosen[np.flatnonzero(in_first)[entropy[in_first].argmin()]] = True
        return chosen

    def _edit(self, state: DecodeState, at: Ints, token: Ints, logprob: Floats) -> Edit:
        """Returns what the step writes, with what it fills behind an end of text."""
        places, begun = state.block_positions, state.memory
        tokens, logprobs, open_ = state.tokens.copy(), state.logprob.copy(), state.open.copy()
        tokens[at], logprobs[at], open_[at], begun.filled = token, logprob, False, NONE
        written = at
        ends = np.isin(tokens[places], end_ids(self.eos_token_id, state.model)) & ~open_[places]
        if self.early_stop and ends.any() and open_[places].any():
            end = places[ends.argmax()]
            behind = places[places > end]
            begun.filled = behind[open_[behind]]
            other = behind[open_[behind] | (tokens[behind] != tokens[end])]
            # Nothing was asked of the model there: it is certain that an end follows an end.
            tokens[other], logprobs[other] = tokens[end], 0.0
            written = np.union1d(at, other)
        return Edit(written, tokens[written], logprobs[written])
