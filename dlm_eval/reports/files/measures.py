"""Metrics of a task as means over its documents."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from dlm_eval.reports.files.row import Row
from dlm_eval.reports.files.samples_file import Document

RELATIVE = 1e-6  # largest difference between a score and the mean of its documents


@dataclass(frozen=True)
class Measure:
    """One metric of a task as a mean over documents.

    Attributes:
        name: "metric,filter".
        scale: "mean" if the score is the mean of `values`; "nats" if it is a perplexity and
            `values` are log-likelihoods in nats (per document, word or byte).
        sign: 1 if higher values are better, -1 if lower ones are.
        values: key of the document -> value.
    """

    name: str
    scale: str
    sign: int
    values: Mapping[str, float]

    @property
    def binary(self) -> bool:
        """Whether every document is right (1) or wrong (0)."""
        return set(self.values.values()) <= {0.0, 1.0}


def measures_of(rows: tuple[Row, ...], documents: Mapping[str, Document]) -> dict[str, Measure]:
    """Returns the metrics whose score is reproduced by the documents' values.

    A score can be any function of the documents (F1 over all, BLEU). It is only taken as a mean
    if the mean is the score.
    """
    found = {}
    for row in rows:
        values = {key: document.values.get(row.measure) for key, document in documents.items()}
        measure = _measure(row, {k: v for k, v in values.items() if v is not None})
        if measure is not None:
            found[row.measure] = measure
    return found


def document_scores(row: Row, documents: Mapping[str, Document]) -> dict[str, float]:
    """Returns key -> score of a document: its value, or its own mean if the score is a weighted mean.

    A pair of a score that is no mean (MCC) is a target and an answer: no document has a score then.
    """
    found = {
        key: each.values[row.measure]
        for key, each in documents.items()
        if row.measure in each.values
    }
    is_pair = any(isinstance(value, tuple) for value in found.values())
    if is_pair and not measures_of((row,), documents):
        return {}
    return {key: v[0] / v[1] if isinstance(v, tuple) else v for key, v in found.items()}


def _measure(row: Row, values: Mapping[str, Any]) -> Measure | None:
    numbers = {key: value for key, value in values.items() if isinstance(value, float)}
    pairs = {key: value for key, value in values.items() if isinstance(value, tuple)}
    if numbers and not pairs:
        mean = math.fsum(numbers.values()) / len(numbers)
        if _close(mean, row.value):
            return Measure(row.measure, "mean", row.sign, numbers)
        if _close(_exp(-mean), row.value):
            return Measure(row.measure, "nats", 1, numbers)
    if pairs and not numbers:
        weight = math.fsum(weight for _, weight in pairs.values()) / len(pairs)
        nats = {key: value / weight for key, (value, _) in pairs.items()}
        mean = math.fsum(nats.values()) / len(nats)
        if _close(_exp(-mean), row.value) or _close(-mean / math.log(2), row.value):
            return Measure(row.measure, "nats", 1, nats)
    return None


def _close(value: float, score: float) -> bool:
    return math.isclose(value, score, rel_tol=RELATIVE, abs_tol=1e-9)


def _exp(value: float) -> float:
    return math.exp(value) if value < 700 else math.inf
