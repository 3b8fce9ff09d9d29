"""The estimator's part of a metric's spread, against cases worked out by hand."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from harness_tasks import write_tasks

from dlm_eval import evaluate
from dlm_eval.harness.metric_errors import estimator_parts
from dlm_eval.reports.run.report import HEADERS, render


class Task:
    """As much of an lm-eval task as scoring needs: accuracy of the likelier choice, and the mean log-likelihood."""

    def process_results(self, doc: dict[str, Any], results: list[Any]) -> dict[str, float]:
        logs = [result[0] for result in results]
        return {"acc": float(np.argmax(logs) == doc["answer"]), "mean": logs[0]}

    def aggregation(self) -> dict[str, Any]:
        return {
            "acc": lambda items: sum(items) / len(items),
            "mean": lambda items: sum(items) / len(items),
        }


def spread(task: Any, samples: list[dict[str, Any]]) -> dict[str, float | None]:
    return {metric: part and part.stderr for metric, part in estimator_parts(task, samples).items()}


def sample(gap: float, stderr: float | None) -> dict[str, Any]:
    return {
        "doc": {"answer": 0},
        "filtered_resps": [(-1.0, False), (-1.0 - gap, False)],
        "logprob_stderr": [stderr, stderr],
    }


def test_exact_likelihoods_have_no_part() -> None:
    assert spread(Task(), [sample(0.1, 0.0)] * 5) == {}


def test_a_settled_question_stays_settled() -> None:
    assert spread(Task(), [sample(100.0, 1.0)] * 20)["acc"] == 0.0


def test_coin_flips_have_the_spread_of_coin_flips() -> None:
    # With no gap each of 100 questions is a fair coin: sd 0.05. A sample sd of 30 draws lies within +-45 % of it (alpha about 1e-3).
    assert spread(Task(), [sample(0.0, 1.0)] * 100)["acc"] == pytest.approx(0.05, rel=0.45)


def test_a_mean_has_the_standard_error_of_a_mean() -> None:
    assert spread(Task(), [sample(0.0, 2.0)] * 100)["mean"] == pytest.approx(0.2, rel=0.45)


def test_erred_samples_do_not_count() -> None:
    assert spread(Task(), [{**sample(0.0, 1.0), "error": "too long"}]) == {}


def test_what_a_single_draw_does_not_know_is_no_zero() -> None:
    assert spread(Task(), [sample(0.1, 1.0), sample(0.1, None)])["acc"] is None


def test_what_two_draws_each_do_not_know_a_hundred_of_them_do() -> None:
    rough = {**sample(0.0, None), "logprob_rough_stderr": [2.0, 2.0], "logprob_freedom": [0.5, 0.5]}
    assert spread(Task(), [rough] * 100)["mean"] == pytest.approx(0.2, rel=0.45)
    assert spread(Task(), [rough])["mean"] is None


def test_an_infinite_metric_has_no_part() -> None:
    impossible = {
        **sample(0.0, 1.0),
        "filtered_resps": [(-math.inf, False), (-1.0, False)],
        "logprob_stderr": [0.0, 1.0],
    }
    assert set(spread(Task(), [impossible, sample(0.0, 1.0)])) == {"acc"}


def test_whole_texts_have_a_part_too(tmp_path: Path) -> None:
    """Perplexity per word of N words: by the delta method its error is perplexity / N times that of the summed log-likelihood."""
    options = {
        "include_path": str(write_tasks(tmp_path)),
        "verbosity": "ERROR",
        "bootstrap_iters": 0,
    }
    results = evaluate(
        "toy", ["t_choice", "t_last", "t_roll"], estimator="mask_count,max_forwards=40", **options
    )
    parts = results["dlm_eval"]["estimator_stderr"]
    assert set(parts) == {"t_choice", "t_roll"}  # all patterns of the words of t_last are run
    samples = results["samples"]["t_roll"]
    error = math.sqrt(sum(s["logprob_stderr"][0] ** 2 for s in samples))
    low, high = results["dlm_eval"]["estimator_interval"]["t_roll"]["word_perplexity"]
    words = sum(len(s["doc"]["text"].split()) for s in samples)
    found = results["results"]["t_roll"]["word_perplexity,none"]
    assert parts["t_roll"]["word_perplexity"] == pytest.approx(found * error / words, rel=0.6)
    (line,) = [row for row in render(results).splitlines() if "word_perplexity" in row]
    cells = [cell.strip() for cell in line.strip("|").split("|")]
    shown = [float(end) for end in cells[HEADERS.index("MC stderr")].split(" to ")]
    assert shown == pytest.approx([low, high], rel=0.01)
    assert 0 < low < found < high and high / found == pytest.approx(found / low)


def test_perplexities_have_a_sampling_error(tmp_path: Path) -> None:
    """The error over documents, by leaving out one at a time (jackknife): the same to first order."""
    options = {
        "include_path": str(write_tasks(tmp_path)),
        "verbosity": "ERROR",
        "bootstrap_iters": 0,
    }
    results = evaluate("toy", ["t_roll"], estimator="left_to_right", **options)
    pairs = np.array([s["word_perplexity"] for s in results["samples"]["t_roll"]], dtype=float)
    rates = (pairs.sum(0) - pairs)[:, 0] / (pairs.sum(0) - pairs)[:, 1]
    n = len(pairs)
    jackknife = math.sqrt((n - 1) / n * ((rates - rates.mean()) ** 2).sum())
    found = results["dlm_eval"]["perplexity_stderr"]["t_roll"]["word_perplexity"]
    assert found == pytest.approx(
        results["results"]["t_roll"]["word_perplexity,none"] * jackknife, rel=0.2
    )
    (line,) = [row for row in render(results).splitlines() if "word_perplexity" in row]
    assert [cell.strip() for cell in line.strip("|").split("|")][HEADERS.index("stderr")] not in (
        "",
        "N/A",
    )


def test_the_table_names_the_normalisation() -> None:
    table = render(
        {
            "results": {"t": {"acc,none": 0.5, "acc_norm,none": 0.25, "acc_bytes,none": 0.75}},
            "n-samples": {},
        }
    )
    cells = [[cell.strip() for cell in row.strip("|").split("|")] for row in table.splitlines()[2:]]
    assert [(row[1], row[2]) for row in cells] == [
        ("acc", "0.5000"),
        ("acc_norm (per character)", "0.2500"),
        ("acc_bytes (per byte)", "0.7500"),
    ]
