"""Scores that are one function of all documents, and no mean: MCC, F1, Pearson's r, BLEU, TER.

Samples hold a pair per document for them, of target and answer. Each function needs only a few
numbers of a pair, its statistics, and the sum of these over documents. So a score can be computed
anew for resampled documents, and a baseline needs no texts.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dlm_eval.reports.files.row import Row
from dlm_eval.reports.files.samples_file import Document, Pair

RELATIVE = 1e-6  # largest difference between a score and what its documents give
Numbers = NDArray[np.float64]
Statistics = tuple[float, ...]


@dataclass(frozen=True)
class Function:
    """A score as a function of summed statistics.

    Attributes:
        statistics: of (target, answer); None if they are not of the kind that the function takes.
        score: [B, k] sums of statistics -> [B] scores.
        size: number of statistics, k.
        top: its scale: 1 for shares and correlations, 100 for percent.
    """

    statistics: Callable[[Any, Any], Statistics | None]
    score: Callable[[Numbers], Numbers]
    size: int
    top: float


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

    def scores(self, sums: Numbers) -> Numbers:
        """Returns [B] scores of [B, k] sums of statistics."""
        return FUNCTIONS[self.function].score(sums)


def corpus_score(row: Row, documents: Mapping[str, Document]) -> CorpusScore | None:
    """Returns the function that reproduces a score from the documents' pairs; None if none does."""
    pairs = {key: each.pairs[row.measure] for key, each in documents.items() if row.measure in each.pairs}  # fmt: skip
    for name, function in FUNCTIONS.items():
        found = _statistics(function, pairs)
        if found:
            score = float(function.score(np.array(list(found.values())).sum(0, keepdims=True))[0])
            if math.isclose(score, row.value, rel_tol=RELATIVE, abs_tol=1e-9):
                return CorpusScore(row.measure, name, found)
    return None


def _statistics(function: Function, pairs: Mapping[str, Pair]) -> dict[str, Statistics]:
    """Returns key -> statistics; empty if a pair is not of the function's kind."""
    found = {}
    for key, pair in pairs.items():
        own = function.statistics(*pair)
        if own is None:
            return {}
        found[key] = own
    return found


# -- pairs of labels 0 and 1, and of numbers -------------------------------------------------------


def _confusion(target: Any, answer: Any) -> Statistics | None:
    """Returns counts of true positives, false positives, false negatives and true negatives."""
    if target not in (0.0, 1.0) or answer not in (0.0, 1.0):
        return None
    cells = ((1.0, 1.0), (0.0, 1.0), (1.0, 0.0), (0.0, 0.0))
    return tuple(float((target, answer) == cell) for cell in cells)


def _moments(target: Any, answer: Any) -> Statistics | None:
    if isinstance(target, str) or isinstance(answer, str):
        return None
    return (1.0, target, answer, target * target, answer * answer, target * answer)


def _mcc(sums: Numbers) -> Numbers:
    """Matthews (1975): the correlation of two labels."""
    tp, fp, fn, tn = sums.T
    spread = (tp + fp) * (tp + fn) * (tn + fp) * (tn + fn)
    return _ratio(tp * tn - fp * fn, np.sqrt(spread))


def _f1(sums: Numbers) -> Numbers:
    tp, fp, fn, _ = sums.T
    return _ratio(2 * tp, 2 * tp + fp + fn)


def _pearson(sums: Numbers) -> Numbers:
    n, x, y, xx, yy, xy = sums.T
    spread = np.maximum(n * xx - x * x, 0.0) * np.maximum(n * yy - y * y, 0.0)
    return _ratio(n * xy - x * y, np.sqrt(spread))


def _ratio(part: Numbers, whole: Numbers) -> Numbers:
    """Returns part / whole, and 0 where whole is 0."""
    return np.divide(part, whole, out=np.zeros_like(part), where=whole > 0)


# -- pairs of texts --------------------------------------------------------------------------------


@functools.cache
def _sacrebleu() -> tuple[Any, Any]:
    from sacrebleu.metrics import BLEU, TER

    return BLEU(effective_order=True), TER()  # the order changes the score of a sentence, no count


def _bleu_counts(target: Any, answer: Any) -> Statistics | None:
    if not isinstance(target, str) or not isinstance(answer, str):
        return None
    found = _sacrebleu()[0].sentence_score(answer, [target])
    return tuple(map(float, (*found.counts, *found.totals, found.sys_len, found.ref_len)))


def _bleu(sums: Numbers) -> Numbers:
    """BLEU of a corpus (Papineni et al. 2002) with sacrebleu's defaults."""
    bleu = _sacrebleu()[0]
    return np.array([
        bleu.compute_bleu(list(map(int, row[:4])), list(map(int, row[4:8])), int(row[8]), int(row[9]),
                          smooth_method="exp").score
        for row in sums
    ])  # fmt: skip


def _edits(target: Any, answer: Any) -> Statistics | None:
    if not isinstance(target, str) or not isinstance(answer, str):
        return None
    found = _sacrebleu()[1].sentence_score(answer, [target])
    return float(found.num_edits), float(found.ref_length)


def _ter(sums: Numbers) -> Numbers:
    """TER of a corpus (Snover et al. 2006): edits per word of the references, in percent."""
    return 100 * _ratio(*sums.T)


FUNCTIONS: dict[str, Function] = {
    "mcc": Function(_confusion, _mcc, 4, 1.0),
    "f1": Function(_confusion, _f1, 4, 1.0),
    "pearson": Function(_moments, _pearson, 6, 1.0),
    "bleu": Function(_bleu_counts, _bleu, 10, 100.0),
    "ter": Function(_edits, _ter, 2, 100.0),
}
