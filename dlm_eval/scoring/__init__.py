"""Likelihoods of canvases: `score`, its estimators and their settings.

A canvas becomes a `Target` (target.py): n tokens and the rows in which some of them are hidden. An estimator (registry.py lists them, estimates.py has
them) turns it into weighted mask patterns (patterns.py, orders.py, subsets.py; cubature.py with design.py, prior.py, spread.py) or reveals it step by
step (reveal.py); score_entropy.py is SEDD's own loss. echo.py tells how much the errors of choices have in
common. walk.py puts the pieces together, rounds.py and question.py stop early, api.py is `score`, windows.py cuts long texts.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from dlm_eval.scoring.registry import ESTIMATORS, EstimatorSettings, parse_estimator
from dlm_eval.scoring.windows import windows

if TYPE_CHECKING:
    from dlm_eval.scoring.api import score, score_outcomes
    from dlm_eval.scoring.question import question_walk
    from dlm_eval.scoring.walk import score_walk

__all__ = [
    "ESTIMATORS",
    "EstimatorSettings",
    "parse_estimator",
    "question_walk",
    "score",
    "score_outcomes",
    "score_walk",
    "windows",
]

# What needs torch is loaded when it is first used: settings are read before any model is.
_LAZY = {"score": "api", "score_outcomes": "api", "score_walk": "walk", "question_walk": "question"}


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module 'dlm_eval.scoring' has no attribute '{name}'")
    return getattr(importlib.import_module(f"dlm_eval.scoring.{_LAZY[name]}"), name)
