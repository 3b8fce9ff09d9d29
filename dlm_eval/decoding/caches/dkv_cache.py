"""dKV-Cache-Decode (Ma et al. 2025, arXiv 2505.15781) under full attention: keys and values of a token
are cached one step after it was written.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
import torch

from dlm_eval.decoding.caches.policy import CachePolicy, DecodeCache, Lasts, feature_caching
from dlm_eval.decoding.draw import Measure
from dlm_eval.decoding.step import Bools, Ints
from dlm_eval.errors import UserError
from dlm_eval.models.block_grid import BlockGrid
from dlm_eval.models.denoiser import Denoiser, logit_shift
from dlm_eval.models.feature_cache import FeatureCache, PositionPlan
from dlm_eval.options import option

ShiftType = Literal["un", "un_right"]


@dataclass(frozen=True, kw_only=True)
class DkvCache(DecodeCache):
    """dKV-Cache-Decode: delayed keys and values, github.com/horseee/dKV-Cache 49a76fc
    (generation_utils/llada_dkv_cache_decode.py; dream_generation_utils.py, cache_type=decoded).

    The authors' third `shift_type`, 'right', has no candidates behind a cached position (their
    logits are NaN, and token 0 is written), so it is left out.
    """

    name: ClassVar[str] = "dkv"
    approximate: ClassVar[bool] = True
    cache_steps: int = option(
        least=1, help="steps after which everything is computed again", speed=True
    )
    shift_type: ShiftType | None = option(
        None,
        help="models that predict a token at the position before it (Dream): a position is cached "
        "after the token behind it is written ('un', the default) or after both are ('un_right')",
    )

    def policy(
        self, model: Denoiser, guided: bool, measure: Measure | None, grid: BlockGrid | None
    ) -> CachePolicy:
        feature_caching(self, model)
        shift = logit_shift(model)
        if self.shift_type is not None and not shift:
            raise UserError(
                f"decode shift_type '{self.shift_type}' is for models that predict a token at the "
                f"position before it; {model.name} does not; leave it out"
            )
        return DelayedCache(self.cache_steps, (self.shift_type or "un") if shift else None)


class DelayedCache(CachePolicy):
    """Caches keys and values of a token one step after it was written.

    A row computes the positions that are not cached, tokens that the last step has replaced, and
    whatever else it reads. Every `cache_steps` steps of a block it computes all; without shift also
    in its second step. Under 'un' a mask may be cached, and stay so when its token is written.
    """

    ages = True
    lasts: Lasts = "block"

    def __init__(self, cache_steps: int, shift_type: ShiftType | None) -> None:
        self._every, self._shift_type = cache_steps, shift_type
        self._rows, self._block = 0, -1
        self._cache = FeatureCache()
        self._cached: Bools = np.zeros(0, dtype=bool)  # [L] whether keys and values are read
        self._known: Bools = np.zeros(0, dtype=bool)  # [L] whether it was not open in the last row
        self._tokens: Ints = np.zeros(0, dtype=np.int64)  # [L] of the last row

    def part(self, tokens: Ints, open_: Bools, at: Ints, block: Ints) -> dict[str, Any]:
        """Returns what is computed."""
        first = not len(self._tokens)
        if self._block != int(block[0]):
            self._block, self._rows = int(block[0]), 0
        shift = self._shift_type is not None
        if first or self._rows % self._every == 0 or (self._rows == 1 and not shift):
            computed = np.ones(len(tokens), dtype=bool)
        else:
            computed = ~self._cached | (self._known & (tokens != self._tokens))
            computed[np.maximum(at - shift, 0)] = True  # states of others are not defined
        # What is not cached yet is computed, so all others have keys and values.
        self._cached = self._caches(~open_, first)
        self._known, self._tokens = ~open_, tokens
        self._rows += 1
        return {"features": PositionPlan(self._cache, torch.from_numpy(np.nonzero(computed)[0]))}

    def _caches(self, known: Bools, first: bool) -> Bools:
        """Returns [L] the positions that later rows read from the cache.

        The last position has no token behind it. In the authors' code it follows its own token in
        the first row, and that of the first position later.
        """
        if self._shift_type is None:
            return known
        if self._shift_type == "un" or first:
            return np.append(known[1:], known[-1] if first else known[0])
        both = known[:-1] & known[1:]
        return np.append(both, both[-1:])
