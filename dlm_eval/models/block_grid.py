"""Where the blocks of a text begin: at every multiple of their length, counted from one position.

Block-causal models were trained on blocks that are counted from position 0. A decoder may count them
from the end of the prompt.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

T = TypeVar("T", int, NDArray[np.int64], Tensor)


@dataclass(frozen=True)
class BlockGrid:
    """Blocks of a text.

    Attributes:
        length: positions of a block.
        begin: a position at which a block begins. The text before it is whole blocks, but for the
            first, which may be shorter.
    """

    length: int
    begin: int = 0

    def numbers(self, positions: T) -> T:
        """Returns the number of the block of each position; negative before `begin`."""
        return (positions - self.begin) // self.length

    def floor(self, position: int) -> int:
        """Returns the begin of the block of a position, 0 in a shorter first block."""
        return max(0, self.begin + self.numbers(position) * self.length)

    def end(self, position: int) -> int:
        """Returns the position behind the block of a position."""
        return self.begin + (self.numbers(position) + 1) * self.length

    def missing(self, length: int) -> int:
        """Returns how many positions a text of `length` needs to end with a whole block."""
        return (self.begin - length) % self.length

    def parts(self, length: int) -> BlockGrid:
        """Returns the blocks of `length` that these blocks are divided into."""
        return BlockGrid(length, self.begin)
