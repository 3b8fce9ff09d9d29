from __future__ import annotations

import math

import pytest

from dlm_eval.metrics.glue import pearson, spearman, stsb_results


def test_prediction_is_the_expected_score():
    logprobs = [math.log(p) for p in (0.05, 0.05, 0.1, 0.2, 0.4, 0.2)]
    # far below exp's range
    results = stsb_results({"label": 3.8}, [(logprob - 700, False) for logprob in logprobs])
    label, predicted = results["pearson"]
    assert label == 3.8
    assert predicted == pytest.approx(0.05 * 1 + 0.1 * 2 + 0.2 * 3 + 0.4 * 4 + 0.2 * 5)
    assert results["spearman"] == results["pearson"]


def test_correlations_by_hand():
    items = [(0.0, 1.0), (1.0, 3.0), (2.0, 2.0)]
    assert pearson(items) == pytest.approx(0.5)  # covariance 1 over sqrt(2 * 2)
    assert spearman([(0.0, 1.0), (1.0, 2.0), (5.0, 40.0)]) == pytest.approx(1.0)
    assert spearman([(0.0, 9.0), (1.0, 2.0), (5.0, 1.0)]) == pytest.approx(-1.0)


def test_a_constant_prediction_has_no_skill():
    assert pearson([(1.0, 2.5), (4.0, 2.5)]) == 0.0
    assert spearman([(1.0, 2.5), (4.0, 2.5)]) == 0.0
