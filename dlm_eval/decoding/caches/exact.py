"""The exact cache: keys and values of a finished prefix, which are final in causal and block-causal
models. No token changes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from dlm_eval.decoding.caches.policy import CachePolicy, DecodeCache
from dlm_eval.decoding.draw import Measure
from dlm_eval.decoding.step import Bools, Ints
from dlm_eval.models.block_grid import BlockGrid
from dlm_eval.models.denoiser import (
    CachingDenoiser,
    Denoiser,
    caching,
    runs_whole_blocks,
    tokens_ahead,
)
from dlm_eval.models.kv_cache import KVCache


class PrefixCache(CachePolicy):
    """Caches the finished prefix of whole blocks, for as long as its tokens stay the same.

    The prefix runs once, with the first row that finds it finished.
    """

    def __init__(self, model: CachingDenoiser, grid: BlockGrid | None) -> None:
        assert model.exact_cache_block is not None
        self._grid = grid or BlockGrid(model.exact_cache_block)
        self._cache, self._shift, self._mask_id = KVCache(), model.logit_shift, model.mask_id
        self._whole_blocks = runs_whole_blocks(model)
        # positions before the first mask that attend to it
        self._unsettled = 0 if tokens_ahead(model) is None else 1

    def part(self, tokens: Ints, open_: Bools, at: Ints, block: Ints) -> dict[str, Any]:
        """Returns what runs: positions after the cached prefix, and those that are read."""
        # A mask can also be given, or committed if that is allowed.
        unknown = open_ | (tokens == self._mask_id)
        front = int(unknown.argmax()) if unknown.any() else len(tokens)
        if front < len(tokens):
            front = max(0, front - self._unsettled)
        finished, known = self._grid.floor(front), self._grid.floor(self._cache.agrees(tokens))
        begin = min(known, int(at[0]) - self._shift)
        if self._unsettled:
            begin = min(begin, front)  # a written mask token is a mask to the model
        begin = self._grid.floor(begin) if self._whole_blocks else max(0, begin)
        span = (begin, len(tokens)) if begin else None
        return {
            "kv_cache": self._cache,
            "query_span": span,
            "cache_until": finished if finished > known else 0,
        }


@dataclass(frozen=True, kw_only=True)
class NoCache(DecodeCache):
    """Every row runs whole."""

    name: ClassVar[str] = "none"


@dataclass(frozen=True, kw_only=True)
class Exact(DecodeCache):
    """The cache of models that have an exact one; no cache of others."""

    name: ClassVar[str] = "exact"

    def policy(
        self, model: Denoiser, guided: bool, measure: Measure | None, grid: BlockGrid | None
    ) -> CachePolicy:
        able = caching(model)
        if able is None or able.exact_cache_block is None or guided:
            return CachePolicy()
        return PrefixCache(able, grid)

    def is_used(self, model: Denoiser, guided: bool) -> bool:
        able = caching(model)
        return able is not None and able.exact_cache_block is not None and not guided
