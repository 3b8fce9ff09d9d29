"""How a canvas is divided into blocks: open positions that are filled together.

canvas -> `block_grid` -> `whole_blocks` -> `split_blocks`
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from dlm_eval.canvas import BLANK, Canvas
from dlm_eval.decoding.settings import DecodeSettings
from dlm_eval.decoding.step import Ints
from dlm_eval.models.block_grid import BlockGrid
from dlm_eval.models.denoiser import Denoiser


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


def block_grid(model: Denoiser, canvas: Canvas, settings: DecodeSettings) -> BlockGrid | None:
    """Returns where the blocks of a block-causal model begin in a canvas; None of other models.

    They are counted from position 0, or from the end of the prompt, which is the first open position
    (`DecodeSettings.align_inputs_to_blocks`). All that divides a canvas into blocks asks here.
    """
    if model.block_length is None:
        return None
    begin = 0 if settings.align_inputs_to_blocks else canvas.open_flags.index(1)
    return BlockGrid(model.block_length, begin)


def whole_blocks(canvas: Canvas, grid: BlockGrid | None) -> Canvas:
    """Returns the canvas with its last block completed, as block-causal models need."""
    missing = grid.missing(len(canvas)) if grid is not None and canvas.open[-1] else 0
    tokens, is_open = canvas.tokens + (BLANK,) * missing, canvas.open + (True,) * missing
    return replace(canvas, tokens=tokens, open=is_open)


def split_blocks(
    positions: Ints, settings: DecodeSettings, grid: BlockGrid | None
) -> Iterator[tuple[Ints, Block]]:
    """Yields the positions of each block in order, and the block.

    A block is a run of `block_length` open positions, or of `block_length` positions from the first
    open one if the strategy counts given ones too (`Strategy.blocks_count_given`). Blocks of a
    block-causal model are its own, or equal parts of them.
    A strategy that divides the text itself (`owns_blocks`) has one block under full attention.
    """
    if grid is not None:
        size = settings.block_length or grid.length
        numbers = grid.parts(size).numbers(positions)
        parts = np.split(positions, np.nonzero(np.diff(numbers))[0] + 1)
    elif settings.strategy.blocks_count_given and settings.block_length is not None:
        number_of = (positions - positions[0]) // settings.block_length
        parts = np.split(positions, np.nonzero(np.diff(number_of))[0] + 1)
    else:
        size = len(positions)
        if settings.block_length is not None and not settings.strategy.owns_blocks:
            size = settings.block_length
        parts = np.split(positions, range(size, len(positions), size))
    for number, part in enumerate(parts):
        shared = settings.steps // len(parts) if settings.steps is not None else None
        # The schedule of a block-causal model counts all of its block, even if some positions are
        # given.
        counted = size if grid is not None else len(part)
        yield part, Block(number, counted, max(1, settings.steps_per_block or shared or len(part)))


# -- the canvas ------------------------------------------------------------------------------------
