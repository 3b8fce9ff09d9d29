"""KV-cache policies of decoding: which positions of a canvas run in a row, and which are read from
the cache.

exact           A block-causal or causal model: keys and values of a finished prefix are final. The prefix
                runs once, with the first row that finds it finished. No token changes. Always on.
prefix, dual    Fast-dLLM (Wu et al. 2025, arXiv 2505.22618) under full attention: the first row of a block
                runs whole. Later rows use its keys and values of the positions before the block
                ('prefix') or on both sides of it ('dual'). An approximation, so only on request.

Shape letters: L = positions of the canvas, W = positions that a row reads.
"""

from __future__ import annotations

from typing import Any, Literal, Protocol

import numpy as np

from dlm_eval.decoding.step import Bools, Ints
from dlm_eval.errors import UserError
from dlm_eval.models.denoiser import CachingDenoiser, Denoiser, caching, runs_whole_blocks
from dlm_eval.models.kv_cache import KVCache

Cache = Literal["exact", "none", "prefix", "dual"]


class CachePolicy(Protocol):
    """What the rows of one canvas read from the cache.

    Attributes:
        first_alone: whether the first step of a block commits only its first position.
        of_block: whether the cache belongs to a block's first row, so that no block continues
            without it.
    """

    first_alone: bool
    of_block: bool

    def part(self, tokens: Ints, open_: Bools, at: Ints, block: Ints) -> dict[str, Any]:
        """Returns `kv_cache`, `query_span` and `cache_until` of the next row (see `ForwardRow`).

        Args:
            tokens: [L] tokens of the row.
            open_: [L] whether a position is open.
            at: [W] positions that it reads, ascending.
            block: positions of the block that is being filled, ascending.
        """
        ...


class NoCache:
    """Every row runs whole."""

    first_alone = of_block = False

    def part(self, tokens: Ints, open_: Bools, at: Ints, block: Ints) -> dict[str, Any]:
        """Returns nothing."""
        return {}


class PrefixCache:
    """Caches the finished prefix, for as long as its tokens stay the same. Exact."""

    first_alone = of_block = False

    def __init__(self, model: CachingDenoiser) -> None:
        assert model.exact_cache_block is not None
        self._cache, self._unit, self._shift = KVCache(), model.exact_cache_block, model.logit_shift
        self._mask_id = model.mask_id
        self._begins_at = self._unit if runs_whole_blocks(model) else 1

    def part(self, tokens: Ints, open_: Bools, at: Ints, block: Ints) -> dict[str, Any]:
        """Returns what runs: positions after the cached prefix, and those that are read."""
        # A mask can also be given, or committed if that is allowed.
        unknown = open_ | (tokens == self._mask_id)
        front = int(unknown.argmax()) if unknown.any() else len(tokens)
        finished = front // self._unit * self._unit
        known = self._cache.agrees(tokens) // self._unit * self._unit
        begin = max(0, min(known, int(at[0]) - self._shift)) // self._begins_at * self._begins_at
        span = (begin, len(tokens)) if begin else None
        return {
            "kv_cache": self._cache,
            "query_span": span,
            "cache_until": finished if finished > known else 0,
        }


class BlockCache:
    """Caches the positions outside a block as they were in the block's first row (Fast-dLLM).

    Approximate.

    A shifted model reads a block's first token one position before the block, which later rows do
    not run. The first row commits only that token, as the authors' code for Dream does.
    """

    of_block = True

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


def make_cache_policy(model: Denoiser, cache: Cache, guided: bool) -> CachePolicy:
    """Returns the policy of a canvas.

    Args:
        model: the denoiser.
        cache: 'exact' if the model allows it, 'none', or Fast-dLLM's 'prefix' or 'dual'.
        guided: whether rows have an unconditional twin, which is never cached.

    Raises:
        UserError: 'prefix' or 'dual' with a model that has no KV cache, or whose cache is exact.
    """
    able = caching(model) if cache != "none" else None
    if cache in ("prefix", "dual"):
        if model.attention != "full" or (able is not None and able.exact_cache_block is not None):
            raise UserError(
                f"decode cache '{cache}' is for full attention; {model.name} has an exact one, "
                "cache=exact"
            )
        if able is None:
            raise UserError(
                f"decode cache '{cache}' is not possible: {model.name} has no KV cache; leave it "
                "out"
            )
        return BlockCache(able, cache == "dual")
    if able is None or able.exact_cache_block is None or guided:
        return NoCache()
    return PrefixCache(able)


def has_cached_rows(model: Denoiser, cache: Cache, guided: bool) -> bool:
    """Returns whether rows of a filling read a KV cache (arguments as of `make_cache_policy`)."""
    able = caching(model) if cache != "none" and not guided else None
    return able is not None and (cache != "exact" or able.exact_cache_block is not None)


def visible_end(model: Denoiser, open_: Bools, last: int, causal: bool) -> int:
    """Returns the end of what position `last` sees.

    That is its block of a block-causal model; of a causal one itself or the last known token.
    `causal`: whether each position sees only those before it (`exact_cache_block` is 1).
    """
    if model.block_length is not None:
        return min(len(open_), (last // model.block_length + 1) * model.block_length)
    if causal:
        return max(last, int(np.nonzero(~open_)[0].max(initial=0))) + 1
    return len(open_)
