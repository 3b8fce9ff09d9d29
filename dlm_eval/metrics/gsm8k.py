"""GSM8K in the symbolic form that DiffuGPT and DiffuLLaMA are finetuned on (arXiv 2410.17891, table 1, GSM8K*).

The model writes equations only, ``<<16-3-4=9>> <<9*2=18>> #### 18``. The scorer gives the published figures on the
outputs that the authors released: 815 (DiffuGPT-M) and 832 (DiffuLLaMA) of 1319.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


def symbolic_answer(text: str) -> str:
    """Returns what follows the last ``####`` (the whole text where there is none), without commas."""
    return text.rpartition("####")[2].strip().replace(",", "")


def process_results(doc: dict[str, Any], results: Sequence[str]) -> dict[str, float]:
    """Returns whether the answer that was written is, as a string, the document's answer."""
    return {"exact_match": float(symbolic_answer(results[0]) == symbolic_answer(doc["answer"]))}
