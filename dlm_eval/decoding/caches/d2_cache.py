"""d2Cache (Jiang et al. 2025, arXiv 2509.23094) under full attention: a row computes the masks that
will soon be written and the tokens that receive most attention, and reads keys and values of all others.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch

from dlm_eval.decoding.caches.policy import CachePolicy, DecodeCache, Lasts, feature_caching
from dlm_eval.decoding.certainty import certainty_density
from dlm_eval.decoding.draw import Measure
from dlm_eval.decoding.step import NO_NUMBERS, NONE, Bools, Floats, Ints
from dlm_eval.engine import Output
from dlm_eval.models.block_grid import BlockGrid
from dlm_eval.models.denoiser import Denoiser, logit_shift
from dlm_eval.models.feature_cache import FeatureCache, PositionPlan
from dlm_eval.options import option


@dataclass(frozen=True, kw_only=True)
class D2Cache(DecodeCache):
    """d2Cache: dual adaptive keys and values, github.com/Kamichanw/d2Cache 72feb60
    (src/cache/d2cache.py, whose `sigma` is `cache_sigma` here).

    Masks are ranked by confidence times certainty density. The confidence stays that of the first
    row: the authors' code means to renew it, but assigns to a copy. Their strategy may also write a
    mask that was not computed, as token 0 with the confidence of a uniform distribution; here it
    may not.
    """

    name: ClassVar[str] = "d2"
    approximate: ClassVar[bool] = True
    lasts: ClassVar[Lasts] = "canvas"
    rollout_p: float = option(
        0.1,
        least=0,
        most=1,
        help="share of the attention of all other positions that are computed",
        speed=True,
    )
    current_k: int = option(32, least=1, help="masks that are computed", speed=True)
    cache_sigma: float = option(
        10.0, above=0, help="standard deviation of the certainty density (positions)"
    )
    inflate_w: int = option(
        0,
        least=0,
        help="gaps between computed positions that are computed too, up to this distance",
    )

    def policy(
        self, model: Denoiser, guided: bool, measure: Measure | None, grid: BlockGrid | None
    ) -> CachePolicy:
        feature_caching(self, model)
        return AdaptiveCache(self, logit_shift(model), measure)


class AdaptiveCache(CachePolicy):
    """Chooses after each row what the next one computes (algorithm 1 of the paper).

    Shape letter: G = positions from the first block on, the generated part.
    """

    ages = narrows = True
    lasts: Lasts = "canvas"

    def __init__(self, settings: D2Cache, shift: int, measure: Measure | None) -> None:
        self._settings, self._shift, self._measure = settings, shift, measure
        self._cache = FeatureCache()
        self._begin = -1  # of the generated part
        self._confidence: Floats = NO_NUMBERS  # [G] in the first row
        self._tokens: Ints = NONE  # [L] of the last row
        self._open: Bools = np.zeros(0, dtype=bool)  # [L] in the last row
        self._block: Ints = NONE  # of the last row
        self._next: Bools | None = None  # [L] what the next row computes, if it is known

    def candidates(self, tokens: Ints, open_: Bools, at: Ints) -> Ints:
        """Returns those of `at` whose predictions the next row computes."""
        found = at[self._chosen(tokens, open_)[np.maximum(at - self._shift, 0)]]
        return found if len(found) else at

    def reads(self, open_: Bools, at: Ints) -> Ints:
        """Returns all open positions in the first row, whose confidence is kept."""
        return at if len(self._confidence) else np.union1d(at, np.nonzero(open_)[0])

    def learn(self, at: Ints, output: Output) -> None:
        """Keeps the confidence of the first row."""
        if len(self._confidence) or self._begin < 0 or len(output) < 3:
            return
        _, logprob, score, *_ = output
        kept = score if self._measure in ("margin", "entropy") else np.exp(logprob)
        self._confidence = np.zeros(len(self._tokens) - self._begin)
        inside = at >= self._begin
        self._confidence[at[inside] - self._begin] = kept[inside]

    def part(self, tokens: Ints, open_: Bools, at: Ints, block: Ints) -> dict[str, Any]:
        """Returns what is computed: all in the first row."""
        if self._begin < 0:  # the first row is of the first block
            self._begin = int(block[0])
        computed = self._chosen(tokens, open_).copy()
        computed[np.maximum(at - self._shift, 0)] = True  # states of others are not defined
        self._tokens, self._open, self._block, self._next = tokens, open_.copy(), block, None
        at_once = torch.from_numpy(np.nonzero(computed)[0])
        return {"features": PositionPlan(self._cache, at_once, measures=True)}

    def _chosen(self, tokens: Ints, open_: Bools) -> Bools:
        """Returns [L] what the next row computes."""
        if not self._cache.layers or not len(self._confidence):
            return np.ones(len(tokens), dtype=bool)
        if self._next is None:
            self._next = self._choose(tokens, open_)
        return self._next

    def _choose(self, tokens: Ints, open_: Bools) -> Bools:
        masks = np.zeros(len(tokens), dtype=bool)
        masks[self._begin :] = self._masks(open_[self._begin :])
        # A prediction is made `shift` positions before its token.
        chosen = np.append(masks[self._shift :], np.zeros(self._shift, dtype=bool))
        before = self._begin - self._shift  # in the prompt, if the model is shifted
        chosen[: self._begin] = False
        chosen |= (tokens != self._tokens) | (self._open & ~open_)
        received = self._cache.layers[-1].received
        assert received is not None
        chosen |= nucleus(received.cpu().numpy(), self._settings.rollout_p, ~chosen)
        if self._shift and before >= 0:
            chosen[before] = masks[self._begin]
        return inflated(chosen, self._settings.inflate_w)

    def _masks(self, open_: Bools) -> Bools:
        """Returns [G] the `current_k` masks of the highest rank.

        They are sought from the last row's first mask in its block up to the first `current_k` masks,
        rounded up to a multiple of the number of masks that the block had (in the authors' code the
        block shrinks as it is filled). Masks of the block come first.
        """
        count, length = self._settings.current_k, len(open_)
        in_block = np.zeros(length, dtype=bool)
        in_block[self._block - self._begin] = True
        in_block &= self._open[self._begin :]
        size = int(np.count_nonzero(in_block))
        enough = np.cumsum(open_) >= count
        end = int(enough.argmax()) if enough.any() else length - 1
        place = np.arange(length)
        inside = (place >= in_block.argmax()) & (place < (end // max(size, 1) + 1) * size)
        rank = self._confidence * certainty_density(~open_, self._settings.cache_sigma)
        rank = np.where(in_block, rank + rank.max(), rank)
        best = np.argsort(-np.where(inside & open_, rank, -np.inf), kind="stable")[:count]
        chosen: Bools = np.zeros(length, dtype=bool)
        chosen[best] = True
        return chosen & open_ & inside


def nucleus(weight: Floats, share: float, allowed: Bools) -> Bools:
    """Returns [L] the heaviest allowed positions whose weights together are at most `share` of that
    of all allowed ones, and at least one.
    """
    weight = np.where(allowed, weight, 0.0)
    order = np.argsort(-weight, kind="stable")
    inside = np.cumsum(weight[order]) <= share * weight.sum()
    inside[0] = True
    chosen: Bools = np.zeros(len(weight), dtype=bool)
    chosen[order[inside]] = True
    return chosen & allowed


def inflated(chosen: Bools, width: int) -> Bools:
    """Returns [L] `chosen`, with the positions between two chosen ones at most `width` apart."""
    at = np.nonzero(chosen)[0]
    filled: Bools = chosen.copy()
    for i in np.nonzero(np.diff(at) <= width)[0]:
        filled[at[i] : at[i + 1]] = True
    return filled
