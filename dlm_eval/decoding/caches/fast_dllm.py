"""Fast-dLLM's caches (Wu et al. 2025, arXiv 2505.22618) under full attention."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from dlm_eval.decoding.caches.policy import CachePolicy, DecodeCache, Lasts, kv_caching
from dlm_eval.decoding.draw import Measure
from dlm_eval.decoding.step import Bools, Ints
from dlm_eval.models.block_grid import BlockGrid
from dlm_eval.models.denoiser import CachingDenoiser, Denoiser
from dlm_eval.models.kv_cache import KVCache


class BlockCache(CachePolicy):
    """Caches the positions outside a block as they were in the block's first row.

    A shifted model reads a block's first token one position before the block, which later rows do
    not run. The first row commits only that token, as the authors' code for Dream does.
    """

    lasts: Lasts = "block"

    def __init__(self, model: CachingDenoiser, both_sides: bool) -> None:
        self._cache, self._both_sides, self._shift = KVCache(), both_sides, model.logit_shift
        self.first_alone = model.logit_shift > 0
        self._block = -1  # first position of the block of the cache

    def part(self, tokens: Ints, open_: Bools, at: Ints, block: Ints) -> dict[str, Any]:
        """Returns what runs: all positions in a block's first row, then the block (and all after
        it, unless `both_sides`).
        """
        first, last = int(block[0]), int(block[-1])
        if self._block != first:
            self._block = first
            return {
                "kv_cache": self._cache,
                "cache_until": len(tokens) if self._both_sides else first,
            }
        begin = max(0, min(first, int(at[0]) - self._shift))
        end = last + 1 if self._both_sides else len(tokens)
        return {
            "kv_cache": self._cache,
            "query_span": (begin, end) if (begin, end) != (0, len(tokens)) else None,
        }


@dataclass(frozen=True, kw_only=True)
class Prefix(DecodeCache):
    """Later rows of a block read what is before it."""

    name: ClassVar[str] = "prefix"
    approximate: ClassVar[bool] = True
    by_block: ClassVar[bool] = True

    def policy(
        self, model: Denoiser, guided: bool, measure: Measure | None, grid: BlockGrid | None
    ) -> CachePolicy:
        return BlockCache(kv_caching(self, model), both_sides=False)


@dataclass(frozen=True, kw_only=True)
class Dual(DecodeCache):
    """Later rows of a block read what is on both sides of it."""

    name: ClassVar[str] = "dual"
    approximate: ClassVar[bool] = True
    by_block: ClassVar[bool] = True
    block_alone: ClassVar[bool] = True

    def policy(
        self, model: Denoiser, guided: bool, measure: Measure | None, grid: BlockGrid | None
    ) -> CachePolicy:
        return BlockCache(kv_caching(self, model), both_sides=True)
