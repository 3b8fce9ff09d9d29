"""What a walk remembers: keys and values of positions of its sequence that later rows attend to without running them again.

A row that remembers runs its *live* positions alone. Which positions those are, and whether the answers are exact, is the walk's affair
(`decoding.memory`); here is only where the numbers stand, beside the model, until the walk ends.

Shape letters: S = 2 x layers (keys and values of each layer in turn), B = rows, h = heads, P = remembered positions, d = head size.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dlm_eval.models.denoiser import Past

Ints = NDArray[np.int64]


class Memory:
    """Keys and values of a sequence's first P positions.

    Attributes:
        tokens: [P] what stood there when they were computed.
    """

    def __init__(self) -> None:
        self.tokens: Ints = np.empty(0, dtype=np.int64)
        self._states: Tensor | None = None  # [S, h, P, d]

    def agrees(self, tokens: Ints) -> int:
        """Returns how many positions from the left hold the same tokens still."""
        length = min(len(self.tokens), len(tokens))
        differ = np.nonzero(self.tokens[:length] != tokens[:length])[0]
        return int(differ[0]) if len(differ) else length

    def take(self, tokens: Ints, begin: int, fresh: Tensor) -> None:
        """Remembers `tokens` [P]: the first `begin` as they are remembered already, the rest by `fresh` [S, h, P - begin, d]."""
        states = fresh if begin == 0 else torch.cat([self._known()[:, :, :begin], fresh], 2)
        self.tokens, self._states = tokens.copy(), states

    def outside(self, begin: int, end: int, length: int) -> Tensor:
        """Returns the states [S, h, P', d] of positions 0 to `length` without those from `begin` to `end`."""
        states = self._known()
        if end == length:
            return states[:, :, :begin]
        return torch.cat([states[:, :, :begin], states[:, :, end:length]], 2)

    def _known(self) -> Tensor:
        assert self._states is not None
        return self._states


def gather(parts: Sequence[Tensor], begins: Sequence[int]) -> Past:
    """Returns the past of a batch: each row's states [S, h, P, d], padded on the right, and the place of its first live position."""
    lengths = [part.shape[2] for part in parts]
    begin = torch.tensor(begins, device=parts[0].device)
    if len(set(lengths)) == 1:
        return Past(torch.stack(list(parts), 1), None, begin)
    layers, heads, _, size = parts[0].shape
    states = parts[0].new_zeros(layers, len(parts), heads, max(lengths), size)
    for row, part in enumerate(parts):
        states[:, row, :, : lengths[row]] = part
    valid = torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]
    return Past(states, valid.to(states.device), begin)
