"""The engine: forward rows of many programs, packed into batches by a token budget.

rows: what moves (`rows.py`) · batching: which rows share a batch · forward: one pass · engine: drives programs · programs: several as one
"""

from __future__ import annotations

from dlm_eval.engine.engine import Engine
from dlm_eval.engine.rows import Cost, ForwardRow, Ints, LogProbs, Outcome, Output, Program

__all__ = ["Cost", "Engine", "ForwardRow", "Ints", "LogProbs", "Outcome", "Output", "Program"]
