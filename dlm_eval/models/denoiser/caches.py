"""Optional: caches of keys and values, or of features.

Shape letters: B = rows of a batch, L = positions, N = wanted positions of the batch, V = vocabulary,
S = 2 x layers, h = heads, d = head size.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol, cast

from torch import Tensor

from dlm_eval.models.denoiser.core import Denoiser
from dlm_eval.models.denoiser.members import offers

if TYPE_CHECKING:
    from dlm_eval.models.feature_cache import Features, Plan
    from dlm_eval.models.kv_cache import BatchKV
    from dlm_eval.models.probes import CacheTest


class KVCacheDenoiser(Protocol):
    """A denoiser that can run some positions of a row with cached keys and values of the others.

    Without it, or if `supports_kv_cache` is false, every row runs whole. What it says is tested
    when the model is loaded (`models.probes.cache_test`).
    """

    @property
    def supports_kv_cache(self) -> bool:
        """Whether `forward_cached` answers as `logits` does."""
        ...

    @property
    def logit_shift(self) -> int:
        """Positions left of a token at which its distribution is read. They have to run too."""
        ...

    @property
    def exact_cache_block(self) -> int | None:
        """Length in whose multiples a prefix without masks has final keys and values.

        The block of a block-causal model and 1 of a causal one. None under full attention, where
        keys and values always depend on what follows.
        """
        ...

    def forward_cached(
        self,
        tokens: Tensor,
        valid: Tensor | None,
        positions: Tensor,
        past: BatchKV | None,
        keep: bool,
    ) -> tuple[Tensor, Tensor | None]:
        """Returns logits [N, V], and with `keep` the keys and values [S, B, h, L, d] of `tokens`.

        Args:
            tokens: [B, L] long, the positions that run. They are consecutive.
            valid: [B, L] bool, or None.
            positions: [B, L] bool, the wanted ones.
            past: cached keys and values of the rows, or None if they run whole.
            keep: whether the keys and values are returned.
        """
        ...


class CachingDenoiser(Denoiser, KVCacheDenoiser, Protocol):
    """A `Denoiser` whose `supports_kv_cache` is true."""


def caching(model: Denoiser) -> CachingDenoiser | None:
    """Returns `model` if it supports a KV cache, else None."""
    able = offers(model, KVCacheDenoiser) and cast(KVCacheDenoiser, model).supports_kv_cache
    return cast(CachingDenoiser, model) if able else None


def logit_shift(model: Denoiser) -> int:
    """Returns how many positions left of a token its distribution is read."""
    return cast(KVCacheDenoiser, model).logit_shift if offers(model, KVCacheDenoiser) else 0


def exact_cache_block(model: Denoiser) -> int | None:
    """Returns the length in whose multiples a prefix has final keys and values, or None."""
    return (
        cast(KVCacheDenoiser, model).exact_cache_block if offers(model, KVCacheDenoiser) else None
    )


class CacheTested(Protocol):
    """A denoiser whose KV cache was tested; `cache_test` is what the test found."""

    cache_test: CacheTest


class WholeBlocks(Protocol):
    """A denoiser that says whether all positions of a block have to run together.

    With `runs_whole_blocks` the tokens of a block decide together which experts run (LLaDA2.2), so
    a row with cached positions begins at a block boundary. Without it, it need not.
    """

    runs_whole_blocks: bool


def runs_whole_blocks(model: Denoiser) -> bool:
    """Returns whether all positions of a block have to run together."""
    return offers(model, WholeBlocks) and cast(WholeBlocks, model).runs_whole_blocks


class FeatureCacheDenoiser(Protocol):
    """A denoiser that can compute some features of a row, and read the others from a cache."""

    @property
    def feature_layers(self) -> int:
        """Number of layers with such features; 0 if the network has none that are known."""
        ...

    @property
    def feature_weight(self) -> float:
        """Size of the features of a position, in those of its keys and values."""
        ...

    def forward_features(
        self, tokens: Tensor, positions: Tensor, plans: Sequence[Plan]
    ) -> tuple[Tensor, list[Features]]:
        """Returns float32 logits [N, V], and the features of all layers of each sequence.

        Args:
            tokens: [B, L] long.
            positions: [B, L] bool, the wanted ones.
            plans: what is computed of each, with equal `mates`; caches are read and not changed.
        """
        ...
