"""Decoding: filling the open positions of canvases.

fill: canvases -> programs -> engine -> fillings. A strategy (`strategy.py`) is a frozen dataclass
that owns its options; `settings.py` holds the general ones, and `layers.py` makes both from settings
by name. Masked models are decoded by
`unmasking.py`. It reads candidates (`draw.py`), asks a strategy which of them to write
(`strategies.py`, `ancestral.py`, `remasking.py`), asks a schedule how many (`schedules.py`),
updates the canvas (`state.py`), and stops early if it can (`exits.py`). The processes 'uniform',
'gaussian' and 'canvas' have their own programs.
"""

from __future__ import annotations

from dlm_eval.decoding.filling import fill, fill_outcomes, fill_program
from dlm_eval.decoding.layers import expand, fit_task, overridden, resolve, setting_names
from dlm_eval.decoding.presets import Preset, presets
from dlm_eval.decoding.samples import hit_at_k, vote
from dlm_eval.decoding.settings import GENERAL, DecodeSettings
from dlm_eval.decoding.state import DecodeState
from dlm_eval.decoding.step import Edit, Query, StepState, Trace, TraceStep
from dlm_eval.decoding.strategies import highest
from dlm_eval.decoding.strategy import (
    STRATEGIES,
    Strategy,
    default_strategy,
    describe_strategies,
    describe_strategy,
)
from dlm_eval.decoding.unmasking import Unmasking

__all__ = [
    "GENERAL", "STRATEGIES", "DecodeSettings", "DecodeState", "Edit", "Preset", "Query", "StepState", "Strategy", "Trace", "TraceStep", "Unmasking", "default_strategy",
    "describe_strategies", "describe_strategy", "expand", "fill", "fill_outcomes", "fill_program", "fit_task", "highest", "hit_at_k", "overridden", "presets", "resolve", "setting_names", "vote",
]  # fmt: skip
