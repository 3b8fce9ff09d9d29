"""Running some positions of a row while the keys and values of the others are remembered.

Shape letters: B = rows, L = live positions, R = remembered positions, S = 2 x layers, h = heads, d = head size.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from dlm_eval.models.denoiser import Past


class KeyValues:
    """What an attention layer asks for its keys and values, under the name and arguments of transformers' cache.

    Args:
        past: what the rows remember, or None.
        keep: whether to collect the live keys and values of all layers.
    """

    is_compileable = False

    def __init__(self, past: Past | None, keep: bool) -> None:
        self._past = past
        self._keep = keep
        self._fresh: list[Tensor] = []

    def update(self, keys: Tensor, values: Tensor, layer_idx: int, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        """Returns the keys and values [B, h, R + L, d] of layer `layer_idx`: the remembered ones, then the live ones that it gives."""
        if self._keep:
            self._fresh += [keys, values]
        if self._past is None:
            return keys, values
        old_keys, old_values = (self._past.states[2 * layer_idx + i].to(keys.device) for i in (0, 1))
        return torch.cat([old_keys, keys], 2), torch.cat([old_values, values], 2)

    def states(self, device: torch.device) -> Tensor | None:
        """Returns the live keys and values [S, B, h, L, d] of all layers, or None where they were not to be kept."""
        return torch.stack([part.to(device) for part in self._fresh]) if self._keep else None

    def reorder(self, order: Tensor) -> None:
        """Puts what was collected back into reading order; the network was given the positions in `order` [B, L]."""
        for part, shuffled in enumerate(self._fresh):
            places = order.to(shuffled.device)[:, None, :, None].expand_as(shuffled)
            self._fresh[part] = torch.empty_like(shuffled).scatter_(2, places, shuffled)

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Returns 0: places come with the call."""
        return 0

    def get_query_offset(self, layer_idx: int = 0) -> int:
        """Returns 0: masks come with the call, or rows run whole."""
        return 0

    def get_mask_sizes(self, query_length: int, layer_idx: int = 0) -> tuple[int, int]:
        """Returns how many keys there are, and at which they start, where rows run whole."""
        return query_length, 0


def recalled_mask(sees: Tensor, past: Past, dtype: torch.dtype) -> Tensor:
    """Returns the additive mask [B, 1, L, R + L] under which live positions see all that is remembered and, of each other, what `sees` says.

    Args:
        sees: [B or 1, L, L] bool.
        past: what the rows remember.
        dtype: of the mask.
    """
    count, remembered = past.states.shape[1], past.states.shape[3]
    known = torch.ones(count, remembered, dtype=torch.bool) if past.valid is None else past.valid
    known = known.to(sees.device)[:, None].expand(-1, sees.shape[1], -1)
    allowed = torch.cat([known, sees.expand(count, -1, -1)], 2)
    return additive(allowed, dtype)


def additive(allowed: Tensor, dtype: torch.dtype) -> Tensor:
    """Returns the additive mask [B, 1, L, K] of `allowed` [B, L, K]. A boolean one is silently wrong under eager attention."""
    mask = torch.zeros(allowed.shape, dtype=dtype, device=allowed.device)
    return mask.masked_fill_(~allowed, torch.finfo(dtype).min)[:, None]


def seen(places: Tensor, valid: Tensor | None, block_length: int | None) -> Tensor:
    """Returns [B or 1, L, L] bool, true where one position sees another: all of them, or the blocks up to its own, but no padding.

    Args:
        places: [B or 1, L] positions in the text.
        valid: [B, L] bool, or None.
        block_length: of block-causal attention, or None.
    """
    block = places // block_length if block_length is not None else torch.zeros_like(places)
    sees = block[:, :, None] >= block[:, None, :]
    if valid is not None:
        # A padding position sees itself, so that its softmax is defined.
        sees = sees & valid[:, None, :] | torch.eye(places.shape[1], dtype=torch.bool, device=places.device)
    return sees
