"""Scores that are one function of all documents, and no mean: MCC, F1, correlations, BLEU, chrF, TER.

Samples hold a pair per document for them, of target and answer. Which function a score is, follows
from the pairs: it is one that gives the score (`corpus_functions.py`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from dlm_eval.reports.files.corpus_functions import FUNCTIONS, Function, Numbers, Statistics
from dlm_eval.reports.files.row import Row
from dlm_eval.reports.files.samples_file import Document, Pair

RELATIVE = 1e-6  # largest difference between a score and what its documents give


@dataclass(frozen=True)
class CorpusScore:
    """One score of a task as a function of its documents.

    Attributes:
        name: "metric,filter".
        function: name of the function, a key of `FUNCTIONS`.
        statistics: key of the document -> numbers.
    """

    name: str
    function: str
    statistics: Mapping[str, Statistics]

    @property
    def top(self) -> float:
        """The scale of the score."""
        return FUNCTIONS[self.function].top

    def array(self, keys: list[str]) -> Numbers:
        """Returns the statistics of documents, [n, k]."""
        return np.array([self.statistics[key] for key in keys], dtype=np.float64)

    def scores(self, counts: Numbers, statistics: Numbers) -> Numbers:
        """Returns [B] scores of documents that count [B, n] times; their statistics are [n, k]."""
        return FUNCTIONS[self.function].score(counts, statistics)


def corpus_scores(row: Row, documents: Mapping[str, Document]) -> tuple[CorpusScore, ...]:
    """Returns the functions that give a score from the documents' pairs.

    Several can if the score is 0, or that of answers that are all right. Otherwise the first one is
    taken: counting for all of them is slow. The function with the metric's own name comes first,
    since another may give the same score (BLEU and lower-cased BLEU of texts without capitals).
    """
    pairs = {
        key: each.pairs[row.measure] for key, each in documents.items() if row.measure in each.pairs
    }
    found: list[CorpusScore] = []
    for name, function in sorted(FUNCTIONS.items(), key=lambda pair: pair[0] != row.metric):
        score = CorpusScore(row.measure, name, _statistics(function, pairs))
        if score.statistics and _gives(score, row.value):
            found.append(score)
            if 0 < abs(row.value) < score.top:
                break
    return tuple(found)


def _gives(score: CorpusScore, value: float) -> bool:
    statistics = score.array(list(score.statistics))
    own = float(score.scores(np.ones((1, len(statistics))), statistics)[0])
    return math.isclose(own, value, rel_tol=RELATIVE, abs_tol=1e-9)


def _statistics(function: Function, pairs: Mapping[str, Pair]) -> dict[str, Statistics]:
    """Returns key -> statistics; empty if a pair is not of the function's kind."""
    found = {}
    for key, pair in pairs.items():
        own = function.statistics(*pair)
        if own is None:
            return {}
        found[key] = own
    return found
