"""The baseline of a sweep: one token per step, the most probable one first."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dlm_eval.decoding import GENERAL, setting_names
from dlm_eval.models.denoiser import Denoiser, is_autoregressive, tokens_ahead


def baseline_settings(fixed: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the baseline's settings for most models: one token per step, the most probable one first.

    Args:
        fixed: settings of every point, which those of the baseline replace.
    """
    of_strategies = {name: None for name in setting_names() if name not in GENERAL}
    plain: dict[str, Any] = {"steps": None, "steps_per_block": None, "schedule": None}
    if "batch_mean_quota" in fixed:  # it belongs to a schedule
        plain["batch_mean_quota"] = ()
    return {**of_strategies, **plain, "strategy": "confidence"}


def one_token(model: Denoiser) -> dict[str, Any]:
    """Returns the strategy that writes one token per step: the most probable one first, and from left
    to right if `model` reads a text in this order only.
    """
    if tokens_ahead(model) is not None:
        return {"strategy": "longest_prefix", "only_first_token_keep": True}
    return {"strategy": "left_to_right" if is_autoregressive(model) else "confidence"}
