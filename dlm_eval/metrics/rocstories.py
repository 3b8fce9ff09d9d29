"""ROCStories infilling: ROUGE of the written third sentence, by the rouge-score library."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

KINDS = ("rouge1", "rouge2", "rougeL")


@functools.lru_cache(maxsize=1)
def _scorer() -> Any:
    from rouge_score.rouge_scorer import RougeScorer  # imports nltk: a second that only this task should pay

    return RougeScorer(list(KINDS), use_stemmer=False)


def rouge(reference: str, written: str) -> dict[str, float]:
    """Returns the F-measures of ROUGE-1, ROUGE-2 and ROUGE-L, times 100, without stemming.

    The mean over documents is what HF evaluate's ``rouge`` estimates (its aggregator prints the median of a thousand
    unseeded bootstrap means, which wanders by a few hundredths around the mean).
    """
    return {kind: 100 * score.fmeasure for kind, score in _scorer().score(reference, written).items()}


def process_results(doc: dict[str, Any], results: Sequence[str]) -> dict[str, float]:
    """Returns the three ROUGE scores of the sentence written between the second and the fourth."""
    return rouge(doc["input_sentence_3"], results[0])


def first_1000(docs: Any) -> Any:
    """Returns the stories that the papers use: the first thousand."""
    return docs.select(range(min(1000, len(docs))))
