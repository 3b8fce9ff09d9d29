"""Likelihoods of canvases: `score` and its estimators.

A canvas becomes a `Target` (target.py): n tokens and the rows in which some of them are hidden. An
estimator (estimator.py) turns it into a score: by weighted mask patterns (patterns.py; exact.py,
masks.py, authors.py), along random orders (chains.py, orders.py), by cubature (auto.py, cubature/),
or step by step (duel.py). mc_error.py tells how far it may be off. early.py stops early, program.py
puts the pieces together, windows.py cuts long texts.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from dlm_eval.likelihood.estimator import ESTIMATORS, Budgeted, Estimator, Guided, parse_estimator
from dlm_eval.likelihood.windows import windows

if TYPE_CHECKING:
    from dlm_eval.likelihood.program import question_program, score, score_outcomes, score_program

__all__ = [
    "ESTIMATORS",
    "Budgeted",
    "Estimator",
    "Guided",
    "parse_estimator",
    "question_program",
    "score",
    "score_outcomes",
    "score_program",
    "windows",
]

# What needs torch is loaded when it is first used: settings are read before any model is.
_LAZY = ("score", "score_outcomes", "score_program", "question_program")


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module 'dlm_eval.likelihood' has no attribute '{name}'")
    return getattr(importlib.import_module("dlm_eval.likelihood.program"), name)
