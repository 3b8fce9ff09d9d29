"""LAMBADA's exact match and ROCStories' ROUGE."""

from __future__ import annotations

import numpy as np
import pytest
from rouge_score.rouge_scorer import RougeScorer
from rouge_score.scoring import BootstrapAggregator

from dlm_eval.metrics import text

PAIRS = [
    ("The dough stayed flat.", "The dough rose and rose."),
    ("She dried it with a towel.", "she dried it"),
    ("He ran.", "Completely different words here"),
    ("A b c d e f", ""),
    ("Running dogs ran.", "run dog"),  # a stemmer would match these
    ("One line.\nTwo lines.", "Two lines. One line."),
]


def test_last_word_must_match_exactly():
    doc = {"text": "so nobody ate the  soup"}
    assert text.lambada_results(doc, [" soup "]) == {"exact_match": 1.0}
    for wrong in ("Soup", "soup .", "the soup", ""):
        assert text.lambada_results(doc, [wrong]) == {"exact_match": 0.0}


def test_rouge_is_the_librarys():
    scorer = RougeScorer(["rouge1", "rouge2", "rougeL"], use_stemmer=False)
    for reference, written in PAIRS:
        expected = {
            kind: 100 * score.fmeasure for kind, score in scorer.score(reference, written).items()
        }
        assert text.rocstories_results({"input_sentence_3": reference}, [written]) == expected
    assert text.rouge("He ran.", "He ran.") == pytest.approx(
        {"rouge1": 100, "rouge2": 100, "rougeL": 100}
    )
    assert text.rouge("a b c d", "a c")["rouge1"] == pytest.approx(100 * 2 * (1.0 * 0.5) / 1.5)


def test_mean_is_what_evaluates_aggregator_estimates():
    # HF evaluate's rouge prints the middle of rouge_score's bootstrap; with few documents it scatters around the mean.
    np.random.seed(0)
    scorer, aggregator = RougeScorer(["rouge1"], use_stemmer=False), BootstrapAggregator()
    for reference, written in PAIRS * 20:
        aggregator.add_scores(scorer.score(reference, written))
    ours = np.array([text.rouge(reference, written)["rouge1"] for reference, written in PAIRS])
    printed = 100 * aggregator.aggregate()["rouge1"].mid.fmeasure
    # the median of 1000 bootstrap means lies within 0.3 standard errors of the mean
    assert abs(printed - ours.mean()) < 0.3 * ours.std() / (len(PAIRS) * 20) ** 0.5
