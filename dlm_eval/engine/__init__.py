"""The engine: forward rows of many programs, packed into batches by a token budget.

rows: forward rows, outputs, programs (one, or several as one) and costs
batching: which rows share a batch
forward: one forward pass
engine: runs programs until they return
"""

from __future__ import annotations

from dlm_eval.engine.engine import Engine
from dlm_eval.engine.rows import Cost, ForwardRow, Ints, Layout, LogProbs, Outcome, Output, Program

__all__ = [
    "Cost",
    "Engine",
    "ForwardRow",
    "Ints",
    "Layout",
    "LogProbs",
    "Outcome",
    "Output",
    "Program",
]
