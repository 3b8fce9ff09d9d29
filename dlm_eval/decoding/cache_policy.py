"""KV-cache policies of decoding: which positions of a canvas run in a row, and which are read from
the cache.

exact           A block-causal or causal model: keys and values of a finished prefix are final. The prefix
                runs once, with the first row that finds it finished. No token changes. Always on.
dllm            dLLM-Cache (Liu et al. 2025, arXiv 2506.06295) under full attention: all features of the
                prompt and of the other positions are computed every so many steps, and in between those
                of the positions whose values have moved most. An approximation, so only on request.
dkv             dKV-Cache-Decode (Ma et al. 2025, arXiv 2505.15781) under full attention: keys and values of
                a token are cached one step after it was written. An approximation, so only on request.
prefix, dual    Fast-dLLM (Wu et al. 2025, arXiv 2505.22618) under full attention: the first row of a block
                runs whole. Later rows use its keys and values of the positions before the block
                ('prefix') or on both sides of it ('dual'). An approximation, so only on request.

Shape letters: L = positions of the canvas, W = positions that a row reads.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, Protocol, cast

import numpy as np
import torch

from dlm_eval.decoding.step import Bools, Ints
from dlm_eval.errors import UserError
from dlm_eval.models.denoiser import (
    CachingDenoiser,
    Denoiser,
    FeatureCacheDenoiser,
    caching,
    logit_shift,
    offers,
    runs_whole_blocks,
    tokens_ahead,
)
from dlm_eval.models.feature_cache import FeatureCache, FeaturePlan, PositionPlan
from dlm_eval.models.kv_cache import KVCache

if TYPE_CHECKING:
    from dlm_eval.decoding.settings import DecodeSettings

Cache = Literal["exact", "none", "prefix", "dual", "dllm", "dkv"]
Lasts = Literal["recomputed", "block", "canvas"]


class CachePolicy(Protocol):
    """What the rows of one canvas read from the cache.

    Attributes:
        first_alone: whether the first step of a block commits only its first position.
        lasts: what cannot continue without the cache: a 'block' or the whole 'canvas'; or nothing,
            since it can be 'recomputed'.
        ages: whether a row that writes nothing changes what later rows read.
    """

    first_alone: bool
    lasts: Lasts
    ages: bool

    def part(self, tokens: Ints, open_: Bools, at: Ints, block: Ints) -> dict[str, Any]:
        """Returns `kv_cache`, `query_span` and `cache_until`, or `features`, of the next row (see
        `ForwardRow`).

        Args:
            tokens: [L] tokens of the row.
            open_: [L] whether a position is open.
            at: [W] positions that it reads, ascending.
            block: positions of the block that is being filled, ascending.
        """
        ...


class NoCache:
    """Every row runs whole."""

    first_alone = ages = False
    lasts: Lasts = "recomputed"

    def part(self, tokens: Ints, open_: Bools, at: Ints, block: Ints) -> dict[str, Any]:
        """Returns nothing."""
        return {}


class PrefixCache:
    """Caches the finished prefix, for as long as its tokens stay the same. Exact."""

    first_alone = ages = False
    lasts: Lasts = "recomputed"

    def __init__(self, model: CachingDenoiser) -> None:
        assert model.exact_cache_block is not None
        self._cache, self._unit, self._shift = KVCache(), model.exact_cache_block, model.logit_shift
        self._mask_id = model.mask_id
        self._begins_at = self._unit if runs_whole_blocks(model) else 1
        # positions before the first mask that attend to it
        self._unsettled = 0 if tokens_ahead(model) is None else 1

    def part(self, tokens: Ints, open_: Bools, at: Ints, block: Ints) -> dict[str, Any]:
        """Returns what runs: positions after the cached prefix, and those that are read."""
        # A mask can also be given, or committed if that is allowed.
        unknown = open_ | (tokens == self._mask_id)
        front = int(unknown.argmax()) if unknown.any() else len(tokens)
        if front < len(tokens):
            front = max(0, front - self._unsettled)
        finished = front // self._unit * self._unit
        known = self._cache.agrees(tokens) // self._unit * self._unit
        begin = min(known, int(at[0]) - self._shift)
        if self._unsettled:
            begin = min(begin, front)  # a written mask token is a mask to the model
        begin = max(0, begin) // self._begins_at * self._begins_at
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

    lasts: Lasts = "block"
    ages = False

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


class LayerFeatureCache:
    """Caches what the layers compute for each position (dLLM-Cache). Approximate.

    A row that writes nothing counts too: the features of all positions are as old as they are.
    """

    first_alone, ages = False, True
    lasts: Lasts = "canvas"

    def __init__(self, model: FeatureCacheDenoiser, settings: DecodeSettings) -> None:
        assert settings.prompt_interval_steps and settings.gen_interval_steps
        self._prompt_every = settings.prompt_interval_steps
        self._generated_every = settings.gen_interval_steps
        self._share = settings.transfer_ratio or 0.0
        self._layers, self._weight = model.feature_layers, model.feature_weight
        self._cache, self._rows, self._prompt = FeatureCache(), 0, -1

    def part(self, tokens: Ints, open_: Bools, at: Ints, block: Ints) -> dict[str, Any]:
        """Returns what is computed: nothing comes from the cache in the first row."""
        if self._prompt < 0:  # the first open position of the first row
            self._prompt = int(open_.argmax())
        plan = FeaturePlan(
            self._cache,
            self._weight,
            self._prompt,
            renew_prompt=self._rows % self._prompt_every == 0,
            renew_generated=self._rows % self._generated_every == 0,
            share=self._share,
            layers=self._layers,
        )
        self._rows += 1
        return {"features": plan}


class DelayedCache:
    """Caches keys and values of a token one step after it was written (dKV-Cache). Approximate.

    A row computes the open positions, the tokens that the last step has written or replaced, and
    whatever else it reads. Every `cache_steps` steps of a block, and in its first two, it computes
    all.
    """

    first_alone, ages = False, True
    lasts: Lasts = "block"

    def __init__(self, cache_steps: int) -> None:
        self._every, self._rows, self._block = cache_steps, 0, -1
        self._cache = FeatureCache()
        self._cached: Bools = np.zeros(0, dtype=bool)  # [L] whether keys and values are read
        self._tokens: Ints = np.zeros(0, dtype=np.int64)  # [L] of the last row

    def part(self, tokens: Ints, open_: Bools, at: Ints, block: Ints) -> dict[str, Any]:
        """Returns what is computed."""
        if self._block != int(block[0]):
            self._block, self._rows = int(block[0]), 0
        whole = self._rows < 2 or self._rows % self._every == 0
        if whole:
            computed = np.ones(len(tokens), dtype=bool)
        else:
            computed = open_ | ~self._cached | (tokens != self._tokens)
            computed[at] = True  # states of other positions are not defined
        # What is open or not cached yet is computed, so all others have keys and values.
        self._cached, self._tokens = ~open_, tokens
        self._rows += 1
        return {"features": PositionPlan(self._cache, torch.from_numpy(np.nonzero(computed)[0]))}


def make_cache_policy(model: Denoiser, settings: DecodeSettings) -> CachePolicy:
    """Returns the policy of a canvas.

    Args:
        model: the denoiser.
        settings: their `cache`; rows with an unconditional twin (guidance) are never cached.

    Raises:
        UserError: an approximate cache with a model that has none, or whose cache is exact.
    """
    cache, guided = settings.cache, settings.guidance_factor != 1
    if cache in ("dllm", "dkv"):
        if not offers(model, FeatureCacheDenoiser) or not (
            cast(FeatureCacheDenoiser, model).feature_layers
        ):
            raise UserError(
                f"decode cache '{cache}' is not possible with {model.name}; it needs full "
                "attention and the layers of Llama or of Qwen2"
            )
        if cache == "dllm":
            return LayerFeatureCache(cast(FeatureCacheDenoiser, model), settings)
        if logit_shift(model) > 0:
            raise UserError(
                f"decode cache 'dkv' is not possible with {model.name}, which predicts a token at "
                "the position before it; that position may not be computed"
            )
        assert settings.cache_steps
        return DelayedCache(settings.cache_steps)
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


def has_cached_rows(model: Denoiser, settings: DecodeSettings) -> bool:
    """Returns whether rows of a filling read a cache (arguments as of `make_cache_policy`)."""
    cache, guided = settings.cache, settings.guidance_factor != 1
    if cache in ("dllm", "dkv"):
        return True
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
