"""Likelihoods of canvases: `score` and its estimators.

A canvas becomes a `Target` (target.py): n tokens, and the rows that hide some of them. An estimator
(estimator.py) computes its score, in one of four ways:

* weighted mask patterns (patterns.py, exact.py, masks.py, authors.py)
* chain rule along random orders (chains.py, orders.py)
* cubature (auto.py, cubature/)
* the order of a deterministic policy (duel.py)

mc_error.py has the Monte Carlo errors. early.py stops early. program.py scores whole canvases.
windows.py splits long texts.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from dlm_eval.likelihood.estimator import ESTIMATORS, Budgeted, Estimator, Guided, parse_estimator
from dlm_eval.likelihood.presets import TaskEstimators, parse_estimators
from dlm_eval.likelihood.windows import windows

if TYPE_CHECKING:
    from dlm_eval.likelihood.program import question_program, score, score_outcomes, score_program

__all__ = [
    "ESTIMATORS",
    "Budgeted",
    "Estimator",
    "Guided",
    "TaskEstimators",
    "parse_estimator",
    "parse_estimators",
    "question_program",
    "score",
    "score_outcomes",
    "score_program",
    "windows",
]

# These need torch, so they are imported on first use. Reading settings needs no torch.
_LAZY = ("score", "score_outcomes", "score_program", "question_program")


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module 'dlm_eval.likelihood' has no attribute '{name}'")
    return getattr(importlib.import_module("dlm_eval.likelihood.program"), name)
