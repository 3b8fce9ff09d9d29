"""Blocks: the open positions of a canvas that are filled together (semi-autoregressive decoding).

Shape letters: n = open positions.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from dlm_eval.canvas import BLANK, Canvas
from dlm_eval.decoding.settings import DecodeSettings
from dlm_eval.decoding.step import Ints


@dataclass(frozen=True)
class Block:
    """Open positions that are filled together.

    Attributes:
        number: from 0, from left to right.
        size: number of positions for the schedule.
        steps: number of steps of the schedule.
    """

    number: int
    size: int
    steps: int


def whole_blocks(canvas: Canvas, block: int | None) -> Canvas:
    """Returns the canvas with its last block completed by open positions, as block-causal models
    need.
    """
    missing = -len(canvas) % block if block is not None and canvas.open[-1] else 0
    return Canvas(canvas.tokens + (BLANK,) * missing, canvas.open + (True,) * missing, canvas.key)


def split_blocks(positions: Ints, settings: DecodeSettings, block: int | None) -> Iterator[tuple[Ints, Block]]:
    """Yields the positions of each block in order, and the block.

    A block is a run of `block_length` open positions. Blocks of a block-causal model are its own,
    or equal parts of them.
    """
    if block is not None:
        size = settings.block_length or block
        parts = np.split(positions, np.nonzero(np.diff(positions // size))[0] + 1)
    else:
        size = settings.block_length or len(positions)
        parts = np.split(positions, range(size, len(positions), size))
    for number, part in enumerate(parts):
        shared = settings.steps // len(parts) if settings.steps is not None else None
        # The schedule of a block-causal model counts all of its block, even if some positions are given.
        counted = size if block is not None else len(part)
        yield part, Block(number, counted, max(1, settings.steps_per_block or shared or len(part)))
