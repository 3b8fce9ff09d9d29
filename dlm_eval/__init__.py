"""dlm_eval: the evaluation harness for diffusion language models on lm-evaluation-harness.

    from dlm_eval import load_model, wrap, Canvas, score, fill, evaluate

Importing the package registers its models with lm-eval. torch is imported on first use.
"""

from __future__ import annotations

import importlib
import os
from typing import TYPE_CHECKING, Any

from dlm_eval.canvas import Canvas, Filling, Score
from dlm_eval.errors import DlmEvalError, RunError, SampleError, UserError
from dlm_eval.harness.lm_eval_patches import register_models

# On some processors (those with AMX) MKL forms a row's sums in another order in a batch than alone.
# In this mode it does not. MKL reads the variable at its first product.
os.environ.setdefault("MKL_CBWR", "AUTO,STRICT")

if TYPE_CHECKING:
    from dlm_eval.decoding import fill
    from dlm_eval.harness.run import evaluate
    from dlm_eval.likelihood import score
    from dlm_eval.models import load_model
    from dlm_eval.models.wrap import wrap
    from dlm_eval.reports.files.load import load_results

__version__ = "0.1.0"
__all__ = [
    "Canvas",
    "DlmEvalError",
    "Filling",
    "RunError",
    "SampleError",
    "Score",
    "UserError",
    "evaluate",
    "fill",
    "load_model",
    "load_results",
    "score",
    "wrap",
]

_LAZY = {
    "evaluate": "harness.run",
    "fill": "decoding",
    "load_model": "models",
    "load_results": "reports.files.load",
    "score": "likelihood",
    "wrap": "models.wrap",
}


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module 'dlm_eval' has no attribute '{name}'")
    return getattr(importlib.import_module(f"dlm_eval.{_LAZY[name]}"), name)


register_models()
