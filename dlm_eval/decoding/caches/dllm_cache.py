"""dLLM-Cache (Liu et al. 2025, arXiv 2506.06295) under full attention: all features of the prompt and
of the other positions are computed every so many steps, and in between those of the positions whose
values have moved most.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from dlm_eval.decoding.caches.policy import CachePolicy, DecodeCache, Lasts, feature_caching
from dlm_eval.decoding.draw import Measure
from dlm_eval.decoding.step import Bools, Ints
from dlm_eval.models.block_grid import BlockGrid
from dlm_eval.models.denoiser import Denoiser, FeatureCacheDenoiser
from dlm_eval.models.feature_cache import FeatureCache, FeaturePlan
from dlm_eval.options import option


@dataclass(frozen=True, kw_only=True)
class DllmCache(DecodeCache):
    """dLLM-Cache: features of layers, github.com/maomaocun/dLLM-cache 17235bf."""

    name: ClassVar[str] = "dllm"
    approximate: ClassVar[bool] = True
    lasts: ClassVar[Lasts] = "canvas"
    prompt_interval_steps: int = option(
        least=1, help="steps after which the prompt's features are computed again", speed=True
    )
    gen_interval_steps: int = option(
        least=1, help="steps after which all other features are computed again", speed=True
    )
    transfer_ratio: float = option(
        least=0,
        most=1,
        help="share of the generated positions, those whose values moved most, that are computed in "
        "the steps between",
        speed=True,
    )

    def policy(
        self, model: Denoiser, guided: bool, measure: Measure | None, grid: BlockGrid | None
    ) -> CachePolicy:
        return LayerFeatureCache(feature_caching(self, model), self)


class LayerFeatureCache(CachePolicy):
    """Caches what the layers compute for each position.

    A row that writes nothing counts too: the features of all positions are as old as they are.
    """

    ages = True
    lasts: Lasts = "canvas"

    def __init__(self, model: FeatureCacheDenoiser, settings: DllmCache) -> None:
        self._settings = settings
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
            renew_prompt=self._rows % self._settings.prompt_interval_steps == 0,
            renew_generated=self._rows % self._settings.gen_interval_steps == 0,
            share=self._settings.transfer_ratio,
            layers=self._layers,
        )
        self._rows += 1
        return {"features": plan}
