"""What a cache of decoding is: its settings (`DecodeCache`), and what the rows of one canvas read from
it (`CachePolicy`).

Shape letters: L = positions of the canvas, W = positions that a row reads.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any, ClassVar, Literal, cast

import numpy as np

from dlm_eval.decoding.draw import Measure
from dlm_eval.decoding.step import Bools, Ints
from dlm_eval.engine import Output
from dlm_eval.errors import UserError
from dlm_eval.models.block_grid import BlockGrid
from dlm_eval.models.denoiser import (
    CachingDenoiser,
    Denoiser,
    FeatureCacheDenoiser,
    caching,
    offers,
)
from dlm_eval.options import check_options

Lasts = Literal["recomputed", "block", "canvas"]


class CachePolicy:
    """What the rows of one canvas read from the cache. This one has none: every row runs whole.

    Attributes:
        first_alone: whether the first step of a block commits only its first position.
        lasts: what cannot continue without the cache: a 'block' or the whole 'canvas'; or nothing,
            since it can be 'recomputed'.
        ages: whether a row that writes nothing changes what later rows read.
        narrows: whether `candidates` leaves positions out.
    """

    first_alone: bool = False
    lasts: Lasts = "recomputed"
    ages: bool = False
    narrows: bool = False

    def candidates(self, tokens: Ints, open_: Bools, at: Ints) -> Ints:
        """Returns the positions of `at` that the next row computes, and a step may write; all of
        them if it would compute none.

        Args:
            tokens, open_: as in `part`.
            at: open positions, ascending.
        """
        return at

    def reads(self, open_: Bools, at: Ints) -> Ints:
        """Returns `at`, and further positions whose candidates the cache has to know."""
        return at

    def learn(self, at: Ints, output: Output) -> None:
        """Takes what a row has read at `at` (`DecodeState.read`)."""

    def part(self, tokens: Ints, open_: Bools, at: Ints, block: Ints) -> dict[str, Any]:
        """Returns `kv_cache`, `query_span` and `cache_until`, or `features`, of the next row (see
        `ForwardRow`).

        Args:
            tokens: [L] tokens of the row.
            open_: [L] whether a position is open.
            at: [W] positions that it reads, ascending.
            block: positions of the block that is being filled, ascending.
        """
        return {}


@dataclass(frozen=True, kw_only=True)
class DecodeCache:
    """Settings of a cache: `--decode cache=NAME` and the options that are its fields.

    Class attributes:
        name: what the user writes.
        approximate: whether it changes tokens.
        by_block: whether it is refreshed with every block of `block_length`.
        block_alone: whether later rows of a block compute nothing else.
        lasts: see `CachePolicy`, for any model.
    """

    name: ClassVar[str]
    approximate: ClassVar[bool] = False
    by_block: ClassVar[bool] = False
    block_alone: ClassVar[bool] = False
    lasts: ClassVar[Lasts] = "recomputed"

    def __post_init__(self) -> None:
        check_options(self, "decode")

    def policy(
        self, model: Denoiser, guided: bool, measure: Measure | None, grid: BlockGrid | None
    ) -> CachePolicy:
        """Returns the policy of a canvas.

        Args:
            model: the denoiser.
            guided: whether rows have an unconditional twin; they are never cached.
            measure: what the strategy's scores are (`Strategy.reads`).
            grid: where the blocks of the canvas begin (`blocks.block_grid`); None without blocks.

        Raises:
            UserError: the model does not have such a cache, or has an exact one.
        """
        return CachePolicy()

    def is_used(self, model: Denoiser, guided: bool) -> bool:
        """Returns whether rows read the cache (arguments as of `policy`)."""
        return self.approximate

    def identity(self) -> dict[str, Any]:
        """Returns the name and the options that are set, for result files and journal keys."""
        own = {field.name: vars(self)[field.name] for field in fields(self)}
        given = {name: value for name, value in own.items() if value is not None}
        return {"cache": self.name, **given}


def kv_caching(cache: DecodeCache, model: Denoiser) -> CachingDenoiser:
    """Returns `model`, which has a KV cache and full attention.

    Raises:
        UserError: it does not.
    """
    able = caching(model)
    if model.attention != "full" or (able is not None and able.exact_cache_block is not None):
        raise UserError(
            f"decode cache '{cache.name}' is for full attention; {model.name} has an exact one, "
            "cache=exact"
        )
    if able is None:
        raise UserError(
            f"decode cache '{cache.name}' is not possible: {model.name} has no KV cache; leave it "
            "out"
        )
    return able


def feature_caching(cache: DecodeCache, model: Denoiser) -> FeatureCacheDenoiser:
    """Returns `model`, whose layers' features can be cached.

    Raises:
        UserError: they cannot.
    """
    able = cast(FeatureCacheDenoiser, model)
    if not offers(model, FeatureCacheDenoiser) or not able.feature_layers:
        raise UserError(
            f"decode cache '{cache.name}' is not possible with {model.name}; it needs full "
            "attention and the layers of Llama or of Qwen2"
        )
    return able


def visible_end(grid: BlockGrid | None, open_: Bools, last: int, causal: bool) -> int:
    """Returns the end of what position `last` sees.

    That is its block of a block-causal model; of a causal one itself or the last known token.
    `causal`: whether each position sees only those before it (`exact_cache_block` is 1).
    """
    if grid is not None:
        return min(len(open_), grid.end(last))
    if causal:
        return max(last, int(np.nonzero(~open_)[0].max(initial=0))) + 1
    return len(open_)
