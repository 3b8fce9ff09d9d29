"""LAMBADA in the form of the DiffuLLaMA paper (arXiv 2410.17891, appendix B.3): write the last word of a passage."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


def process_results(doc: dict[str, Any], results: Sequence[str]) -> dict[str, float]:
    """Returns whether the generated text, spaces around it aside, is exactly the last word of the passage."""
    return {"exact_match": float(results[0].strip() == doc["text"].split()[-1])}
