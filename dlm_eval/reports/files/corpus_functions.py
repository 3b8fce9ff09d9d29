"""Functions of all documents' pairs of target and answer: MCC, F1, correlations, BLEU, chrF, TER.

Each takes a few numbers of a pair, its statistics, and how often each document counts. So a score
can be computed anew for resampled documents, and a baseline needs no texts.

Shapes: B resamples, n documents, k statistics of a document, C classes.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dlm_eval.reports.files.json_values import digest

Numbers = NDArray[np.float64]
Statistics = tuple[float, ...]
LABEL_DIGITS = 12  # hexadecimal digits of a label's digest: 48 bits are exact in a float64


@dataclass(frozen=True)
class Function:
    """A score as a function of the documents' statistics.

    Attributes:
        statistics: of (target, answer); None if they are not of the kind that the function takes.
        score: how often each document counts [B, n], statistics [n, k] -> [B] scores.
        size: number of statistics, k.
        top: its scale: 1 for shares and correlations, 100 for percent.
    """

    statistics: Callable[[Any, Any], Statistics | None]
    score: Callable[[Numbers, Numbers], Numbers]
    size: int
    top: float


def of_sums(score: Callable[[Numbers], Numbers]) -> Callable[[Numbers, Numbers], Numbers]:
    """Returns the score of documents for a function of [B, k] sums of their statistics."""

    def scored(counts: Numbers, statistics: Numbers) -> Numbers:
        return score(counts @ statistics)

    return scored


def _ratio(part: Numbers, whole: Numbers) -> Numbers:
    """Returns part / whole, and 0 where whole is 0."""
    return np.divide(part, whole, out=np.zeros_like(part), where=whole > 0)


# -- labels 0 and 1 --------------------------------------------------------------------------------


def _confusion(target: Any, answer: Any) -> Statistics | None:
    """Returns counts of true positives, false positives, false negatives and true negatives."""
    if target not in (0.0, 1.0) or answer not in (0.0, 1.0):
        return None
    cells = ((1.0, 1.0), (0.0, 1.0), (1.0, 0.0), (0.0, 0.0))
    return tuple(float((target, answer) == cell) for cell in cells)


def _mcc(sums: Numbers) -> Numbers:
    """Matthews (1975): the correlation of two labels."""
    tp, fp, fn, tn = sums.T
    spread = (tp + fp) * (tp + fn) * (tn + fp) * (tn + fn)
    return _ratio(tp * tn - fp * fn, np.sqrt(spread))


def _f1(sums: Numbers) -> Numbers:
    tp, fp, fn, _ = sums.T
    return _ratio(2 * tp, 2 * tp + fp + fn)


# -- labels of any number of classes ---------------------------------------------------------------


def _labels(target: Any, answer: Any) -> Statistics | None:
    return _label(target), _label(answer)


def _label(value: Any) -> float:
    """Returns a number for a label; a text becomes a digest, so that no text is stored."""
    return float(int(digest(value)[:LABEL_DIGITS], 16)) if isinstance(value, str) else float(value)


@dataclass(frozen=True)
class _Classes:
    """Counts per class, [B, C]: right answers, targets, answers."""

    right: Numbers
    targets: Numbers
    answers: Numbers

    @classmethod
    def of(cls, counts: Numbers, labels: Numbers) -> _Classes:
        """Counts the classes of [n, 2] labels. Free answers can be classes of their own, of which
        there are then many: the tables [n, C] are sparse.
        """
        from scipy.sparse import csr_array

        values, index = np.unique(labels, return_inverse=True)
        target, answer = index.reshape(labels.shape).T
        rows, shape = np.arange(len(labels)), (len(labels), len(values))

        def counted(classes: NDArray[np.intp], weight: Numbers) -> Numbers:
            table: Numbers = counts @ csr_array((weight, (rows, classes)), shape=shape)
            return table

        ones = np.ones(len(labels))
        return cls(
            counted(target, (target == answer).astype(np.float64)),
            counted(target, ones),
            counted(answer, ones),
        )

    def f1(self) -> Numbers:
        """Returns F1 of each class, [B, C]; 0 without a right answer."""
        return _ratio(2 * self.right, self.targets + self.answers)


def _macro_f1(counts: Numbers, labels: Numbers) -> Numbers:
    """The mean of F1 over the classes that targets or answers of the resample have."""
    classes = _Classes.of(counts, labels)
    return _ratio(classes.f1().sum(1), (classes.targets + classes.answers > 0).sum(1) * 1.0)


def _weighted_f1(counts: Numbers, labels: Numbers) -> Numbers:
    """The mean of F1 over the classes, each weighted by its targets."""
    classes = _Classes.of(counts, labels)
    return _ratio((classes.f1() * classes.targets).sum(1), classes.targets.sum(1))


def _micro_f1(counts: Numbers, labels: Numbers) -> Numbers:
    """F1 over all classes together: the share of right answers, since each document has one."""
    right = counts @ (labels[:, 0] == labels[:, 1]).astype(np.float64)
    return _ratio(right, counts.sum(1))


# -- numbers ---------------------------------------------------------------------------------------


def _two_numbers(target: Any, answer: Any) -> Statistics | None:
    return None if isinstance(target, str) else (target, answer)


def _moments(target: Any, answer: Any) -> Statistics | None:
    if isinstance(target, str):
        return None
    return (1.0, target, answer, target * target, answer * answer, target * answer)


def _pearson(sums: Numbers) -> Numbers:
    n, x, y, xx, yy, xy = sums.T
    spread = np.maximum(n * xx - x * x, 0.0) * np.maximum(n * yy - y * y, 0.0)
    return _ratio(n * xy - x * y, np.sqrt(spread))


def _spearman(counts: Numbers, numbers: Numbers) -> Numbers:
    """Spearman's rank correlation: Pearson's of the mean ranks within each resample; 0 if targets
    or answers are constant.
    """
    x, y = (_centred_ranks(counts, column) for column in numbers.T)
    both, xx, yy = ((counts * a * b).sum(1) for a, b in ((x, y), (x, x), (y, y)))
    return _ratio(both, np.sqrt(xx * yy))


def _centred_ranks(counts: Numbers, values: Numbers) -> Numbers:
    """Returns the rank [B, n] of each document in each resample, minus their mean. Equal values
    have their mean rank.
    """
    order = np.argsort(values, kind="stable")
    _, first, index = np.unique(values[order], return_index=True, return_inverse=True)
    tied = np.add.reduceat(counts[:, order], first, axis=1)  # how often each value occurs
    ranks = np.cumsum(tied, axis=1) - (tied - 1) / 2
    centred = np.empty_like(counts)
    centred[:, order] = (ranks - (counts.sum(1, keepdims=True) + 1) / 2)[:, index]
    return centred


# -- texts -----------------------------------------------------------------------------------------


def _two_texts(
    metric: Callable[[], Any], counts: Callable[[Any, str, str], Statistics]
) -> Callable[[Any, Any], Statistics | None]:
    """Returns the statistics of one reference and translation that a metric of sacrebleu counts.

    Args:
        metric: makes the metric, when it is first needed.
        counts: of metric, translation and reference.
    """
    cached = functools.cache(metric)

    def statistics(target: Any, answer: Any) -> Statistics | None:
        if not isinstance(target, str) or not isinstance(answer, str):
            return None
        return counts(cached(), answer, target)

    return statistics


def _bleu_counts(**options: Any) -> Callable[[Any, Any], Statistics | None]:
    def metric() -> Any:
        from sacrebleu.metrics import BLEU

        return BLEU(effective_order=True, **options)  # it changes the score of a sentence, no count

    def counts(bleu: Any, written: str, reference: str) -> Statistics:
        found = bleu.sentence_score(written, [reference])
        return tuple(map(float, (*found.counts, *found.totals, found.sys_len, found.ref_len)))

    return _two_texts(metric, counts)


def _bleu(sums: Numbers) -> Numbers:
    """BLEU of a corpus (Papineni et al. 2002) with sacrebleu's smoothing."""
    from sacrebleu.metrics import BLEU

    def score(row: list[int]) -> float:
        bleu = BLEU.compute_bleu(row[:4], row[4:8], row[8], row[9], smooth_method="exp")
        return float(bleu.score)

    return np.array([score(row) for row in sums.astype(np.int64).tolist()])


def _chrf_counts(word_order: int) -> Callable[[Any, Any], Statistics | None]:
    def metric() -> Any:
        from sacrebleu.metrics import CHRF

        return CHRF(word_order=word_order)

    def counts(chrf: Any, written: str, reference: str) -> Statistics:
        # A sentence's score does not show its counts.
        (found,) = chrf._extract_corpus_statistics([written], [[reference]])
        return tuple(map(float, found))

    return _two_texts(metric, counts)


def _chrf(sums: Numbers) -> Numbers:
    """chrF (Popović 2015), with word n-grams chrF++ (Popović 2017): F of the mean precision and the
    mean recall over the orders of n-grams that both sides have; recall counts beta = 2 times.
    """
    written, wanted, matched = sums.reshape(len(sums), -1, 3).transpose(2, 0, 1)
    orders = ((written > 0) & (wanted > 0)).astype(np.float64)
    number = orders.sum(1)
    precision = _ratio((_ratio(matched, written) * orders).sum(1), number)
    recall = _ratio((_ratio(matched, wanted) * orders).sum(1), number)
    return 100 * _ratio(5 * precision * recall, 4 * precision + recall)


def _edits() -> Callable[[Any, Any], Statistics | None]:
    def metric() -> Any:
        from sacrebleu.metrics import TER

        return TER()

    def counts(ter: Any, written: str, reference: str) -> Statistics:
        found = ter.sentence_score(written, [reference])
        return float(found.num_edits), float(found.ref_length)

    return _two_texts(metric, counts)


def _ter(sums: Numbers) -> Numbers:
    """TER of a corpus (Snover et al. 2006): edits per word of the references, in percent."""
    edits, words = sums.T
    return 100 * np.where(words > 0, _ratio(edits, words), edits > 0)


FUNCTIONS: dict[str, Function] = {
    "mcc": Function(_confusion, of_sums(_mcc), 4, 1.0),
    "f1": Function(_confusion, of_sums(_f1), 4, 1.0),
    "macro_f1": Function(_labels, _macro_f1, 2, 1.0),
    "weighted_f1": Function(_labels, _weighted_f1, 2, 1.0),
    "micro_f1": Function(_labels, _micro_f1, 2, 1.0),
    "pearson": Function(_moments, of_sums(_pearson), 6, 1.0),
    "spearman": Function(_two_numbers, _spearman, 2, 1.0),
    "bleu": Function(_bleu_counts(), of_sums(_bleu), 10, 100.0),
    "bleu_lower_13a": Function(_bleu_counts(lowercase=True), of_sums(_bleu), 10, 100.0),
    "bleu_lower_intl": Function(
        _bleu_counts(lowercase=True, tokenize="intl"), of_sums(_bleu), 10, 100.0
    ),
    "chrf": Function(_chrf_counts(word_order=0), of_sums(_chrf), 18, 100.0),
    "chrf++": Function(_chrf_counts(word_order=2), of_sums(_chrf), 24, 100.0),
    "ter": Function(_edits(), of_sums(_ter), 2, 100.0),
}
