"""The estimator's part of a metric's spread, against cases worked out by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from dlm_eval.harness.estimator_spread import estimator_spread


class Task:
    """As much of an lm-eval task as scoring needs: accuracy of the likelier choice, and the mean log-likelihood."""

    def process_results(self, doc: dict[str, Any], results: list[Any]) -> dict[str, float]:
        logs = [result[0] for result in results]
        return {"acc": float(np.argmax(logs) == doc["answer"]), "mean": logs[0]}

    def aggregation(self) -> dict[str, Any]:
        return {"acc": lambda items: sum(items) / len(items), "mean": lambda items: sum(items) / len(items)}


def sample(gap: float, stderr: float) -> dict[str, Any]:
    return {
        "doc": {"answer": 0},
        "filtered_resps": [(-1.0, False), (-1.0 - gap, False)],
        "logprob_stderr": [stderr, stderr],
    }


def test_exact_likelihoods_have_no_part() -> None:
    assert estimator_spread(Task(), [sample(0.1, 0.0)] * 5) == {}


def test_a_settled_question_stays_settled() -> None:
    assert estimator_spread(Task(), [sample(100.0, 1.0)] * 20)["acc"] == 0.0


def test_coin_flips_have_the_spread_of_coin_flips() -> None:
    # With no gap each of 100 questions is a fair coin: sd 0.05. A sample sd of 30 draws lies within +-45 % of it (alpha about 1e-3).
    assert estimator_spread(Task(), [sample(0.0, 1.0)] * 100)["acc"] == pytest.approx(0.05, rel=0.45)


def test_a_mean_has_the_standard_error_of_a_mean() -> None:
    assert estimator_spread(Task(), [sample(0.0, 2.0)] * 100)["mean"] == pytest.approx(0.2, rel=0.45)


def test_erred_samples_do_not_count() -> None:
    assert estimator_spread(Task(), [{**sample(0.0, 1.0), "error": "too long"}]) == {}
