"""AdaBlock-dLLM: blocks that end at delimiters, such as the ends of lines."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from dlm_eval.decoding.draw import Draw, Measure
from dlm_eval.decoding.state import DecodeState
from dlm_eval.decoding.step import Bools, Edit, Floats, Ints, StepState
from dlm_eval.decoding.strategies import highest
from dlm_eval.decoding.unmasking import Unmasking
from dlm_eval.engine import ForwardRow, Output
from dlm_eval.options import option

SHARE = 4  # a delimiter is looked for in the next quarter of the hole


@dataclass
class BlockEnd:
    """The end of the present block.

    Attributes:
        position: index of the canvas behind the block's last position.
    """

    position: int = 0


@dataclass(frozen=True, kw_only=True)
class AdaBlock(Unmasking, name="adablock"):
    """as threshold, in blocks that end at the most probable delimiter ahead (AdaBlock-dLLM)

    Lu et al. 2025, arXiv 2509.26432; github.com/lgxi24/AdaBlock-dLLM 491b205,
    llada/generate_adablock.py and dream/model/generation_utils_adablock.py, without their caches.
    The first step of a block looks at the next positions, a quarter of the hole at most. If the most
    probable of their candidates in `delimiter_ids` has at least `delimiter_threshold`, the block ends
    with it, else after `init_block_length` positions. Each step writes all candidates of the block of
    at least `threshold`, and always the most probable.

    The authors take delimiter_threshold 0.3 for LLaDA, where 198 is the newline, and 0.5 for Dream.
    """

    threshold: float = option(
        0.9, least=0, most=1, help="minimum probability of a token that is written", speed=True
    )
    init_block_length: int = option(
        32, least=1, help="length of a block without a delimiter in reach"
    )
    delimiter_ids: tuple[int, ...] = option(
        (198,), least=0, help="tokens that end a block, as [198]; LLaDA's newline is 198"
    )
    delimiter_threshold: float = option(
        0.3, least=0, help="minimum probability of a delimiter; above 1 all blocks are equally long"
    )
    takes_schedule: ClassVar[bool] = False
    reads: ClassVar[Measure | None] = "probability"
    keeps_state: ClassVar[bool] = True
    owns_blocks: ClassVar[bool] = True
    takes_block_length: ClassVar[bool] = False

    def most_steps(self, n: int, steps: int) -> int | None:
        return n

    def memory(self, state: DecodeState) -> BlockEnd:
        return BlockEnd()

    def step(
        self, state: DecodeState, view: StepState, op: Draw
    ) -> Generator[list[ForwardRow], list[Output], Edit]:
        """The first step of a block finds its end, and writes like the others."""
        block: BlockEnd = state.memory
        query, ahead = self.query(view, op, state.model), view.position
        first = int(ahead[0]) >= block.position
        window = min(len(state.block_positions) // SHARE, len(ahead))
        reach = max(window, self.init_block_length)
        at = ahead[:reach] if first else ahead[ahead < block.position]
        token, logprob, score = yield from state.read(at, query)
        if first:
            size = self.block_size(token[:window], logprob[:window])
            block.position = int(ahead[: size or self.init_block_length][-1]) + 1
        inside = at < block.position
        at, token, logprob, score = at[inside], token[inside], logprob[inside], score[inside]
        chosen: Bools = (np.exp(score) >= self.threshold) | highest(score, 1)
        return Edit(at[chosen], token[chosen], logprob[chosen])

    def block_size(self, token: Ints, logprob: Floats) -> int:
        """Returns the length of the block that ends with a delimiter of the window, 0 if none does."""
        places = np.flatnonzero(np.isin(token, self.delimiter_ids))
        if not len(places):
            return 0
        best = places[logprob[places].argmax()]
        return int(best) + 1 if np.exp(logprob[best]) >= self.delimiter_threshold else 0
