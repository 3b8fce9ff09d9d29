"""The KV cache: keys and values of positions that later rows attend to without running them again.

`KVCache` holds them for one canvas, `BatchKV` for the rows of one batch, and `LayerCache` hands
them to the attention layers of a network. Which positions are cached, and whether the answers are
exact, is decided by a cache policy (`decoding.caches`).

Shape letters: B = rows, L = positions that run, R = cached positions, S = 2 x layers (keys and
values of
each layer in turn), h = heads, d = head size.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

Ints = NDArray[np.int64]


class KVCache:
    """Keys and values of the first R positions of one canvas.

    Attributes:
        tokens: [R] the tokens that they were computed from.
    """

    def __init__(self) -> None:
        self.tokens: Ints = np.empty(0, dtype=np.int64)
        self._states: Tensor | None = None  # [S, h, R, d]

    def agrees(self, tokens: Ints) -> int:
        """Returns how many positions from the left still hold the same tokens."""
        length = min(len(self.tokens), len(tokens))
        differ = np.nonzero(self.tokens[:length] != tokens[:length])[0]
        return int(differ[0]) if len(differ) else length

    def take(self, tokens: Ints, begin: int, fresh: Tensor) -> None:
        """Caches `tokens` [R]; those from `begin` on get states `fresh` [S, h, R - begin, d]."""
        states = fresh if begin == 0 else torch.cat([self._known()[:, :, :begin], fresh], 2)
        self.tokens, self._states = tokens.copy(), states

    def outside(self, begin: int, end: int, length: int) -> Tensor:
        """Returns states [S, h, R', d] of positions 0 to `length` but `begin` to `end`."""
        states = self._known()
        if end == length:
            return states[:, :, :begin]
        return torch.cat([states[:, :, :begin], states[:, :, end:length]], 2)

    def _known(self) -> Tensor:
        assert self._states is not None
        return self._states


@dataclass(frozen=True, eq=False)
class BatchKV:
    """Cached keys and values of the rows of a batch.

    Attributes:
        states: [S, B, h, R, d] keys and values of each layer in turn, keys rotated to their
            positions.
        valid: [B, R] bool, false at padding; None if no row is padded.
        begin: [B] long, position of each row's first token that runs.
    """

    states: Tensor
    valid: Tensor | None
    begin: Tensor


def gather(parts: Sequence[Tensor], begins: Sequence[int]) -> BatchKV:
    """Returns the batch of each row's states [S, h, R, d], padded on the right.

    Args:
        parts: of each row.
        begins: position of each row's first token that runs.
    """
    lengths = [part.shape[2] for part in parts]
    begin = torch.tensor(begins, device=parts[0].device)
    if len(set(lengths)) == 1:
        return BatchKV(torch.stack(list(parts), 1), None, begin)
    layers, heads, _, size = parts[0].shape
    states = parts[0].new_zeros(layers, len(parts), heads, max(lengths), size)
    for row, part in enumerate(parts):
        states[:, row, :, : lengths[row]] = part
    valid = torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]
    return BatchKV(states, valid.to(states.device), begin)


class LayerCache:
    """What an attention layer asks for keys and values, with the interface of transformers' cache.

    Args:
        past: cached keys and values of the rows, or None.
        keep: whether to collect the new keys and values of all layers.
    """

    is_compileable = False

    def __init__(self, past: BatchKV | None, keep: bool) -> None:
        self._past = past
        self._keep = keep
        self._fresh: list[Tensor] = []

    def update(
        self, keys: Tensor, values: Tensor, layer_idx: int, *_: Any, **__: Any
    ) -> tuple[Tensor, Tensor]:
        """Returns keys and values [B, h, R + L, d] of a layer: cached ones, then new ones."""
        if self._keep:
            self._fresh += [keys, values]
        if self._past is None:
            return keys, values
        old_keys, old_values = (
            self._past.states[2 * layer_idx + i].to(keys.device) for i in (0, 1)
        )
        return torch.cat([old_keys, keys], 2), torch.cat([old_values, values], 2)

    def states(self, device: torch.device) -> Tensor | None:
        """Returns the new keys and values [S, B, h, L, d] of all layers; None without `keep`."""
        return torch.stack([part.to(device) for part in self._fresh]) if self._keep else None

    def reorder(self, order: Tensor) -> None:
        """Restores the reading order, if the network was given positions in `order` [B, L]."""
        for part, shuffled in enumerate(self._fresh):
            places = order.to(shuffled.device)[:, None, :, None].expand_as(shuffled)
            self._fresh[part] = torch.empty_like(shuffled).scatter_(2, places, shuffled)

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Returns 0: positions are given with the call."""
        return 0

    def get_query_offset(self, layer_idx: int = 0) -> int:
        """Returns 0: masks are given with the call, or rows run whole."""
        return 0

    def get_mask_sizes(self, query_length: int, layer_idx: int = 0) -> tuple[int, int]:
        """Returns the number of keys and the first one, for rows that run whole."""
        return query_length, 0


def cache_argument(network: nn.Module, cache: Any) -> dict[str, Any]:
    """Returns the argument that hands a cache to a network of transformers.

    It is `cache` from transformers 5.24 on, and `past_key_values` before (which is accepted until
    5.40).
    """
    known = inspect.signature(network.forward).parameters
    return {"cache" if "cache" in known else "past_key_values": cache}


def cached_mask(visible: Tensor, past: BatchKV, dtype: torch.dtype) -> Tensor:
    """Returns the additive mask [B, 1, L, R + L] of positions that see all cached ones and
    `visible` new ones.

    Args:
        visible: [B or 1, L, L] bool.
        past: cached keys and values of the rows.
        dtype: of the mask.
    """
    count, cached = past.states.shape[1], past.states.shape[3]
    known = torch.ones(count, cached, dtype=torch.bool) if past.valid is None else past.valid
    known = known.to(visible.device)[:, None].expand(-1, visible.shape[1], -1)
    allowed = torch.cat([known, visible.expand(count, -1, -1)], 2)
    return additive_mask(allowed, dtype)


def additive_mask(allowed: Tensor, dtype: torch.dtype) -> Tensor:
    """Returns the additive mask [B, 1, L, K] of `allowed` [B, L, K].

    A boolean mask would be silently wrong under eager attention.
    """
    mask = torch.zeros(allowed.shape, dtype=dtype, device=allowed.device)
    return mask.masked_fill_(~allowed, torch.finfo(dtype).min)[:, None]


def visible_positions(places: Tensor, valid: Tensor | None, block_length: int | None) -> Tensor:
    """Returns [B or 1, L, L] bool, true if one position sees another.

    A position sees its own block and those before it, all positions without blocks, and no padding.

    Args:
        places: [B or 1, L] positions in the text.
        valid: [B, L] bool, or None.
        block_length: of block-causal attention, or None.
    """
    block = places // block_length if block_length is not None else torch.zeros_like(places)
    visible = block[:, :, None] >= block[:, None, :]
    if valid is not None:
        # A padding position sees itself, so that its softmax is defined.
        visible = visible & valid[:, None, :] | torch.eye(
            places.shape[1], dtype=torch.bool, device=places.device
        )
    return visible
