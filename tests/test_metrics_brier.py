"""BrierLM: the estimate's expectation by enumeration, its outcomes, and a run."""

from __future__ import annotations

import itertools
import math
from pathlib import Path

import numpy as np
import pytest
from test_metrics_samples import judge, pages  # noqa: F401

from dlm_eval import evaluate
from dlm_eval.metrics import brier
from dlm_eval.metrics.samples import Judge


def test_two_samples_estimate_the_brier_score_without_bias() -> None:
    """Over all pairs of texts of up to four tokens of a random distribution, the mean is 2 P(y) - sum P^2 of each length."""
    generator = np.random.default_rng(0)
    texts = [text for size in (1, 4) for text in itertools.product((0, 1), repeat=size)]
    chance = dict(zip(texts, generator.dirichlet(np.ones(len(texts))), strict=True))
    for truth in ((0, 1, 1, 0), (1,)):
        mean = np.zeros(4)
        for a, b in itertools.product(texts, repeat=2):
            mean += chance[a] * chance[b] * np.array(brier.scores(a, b, truth))
        for n in range(1, 5):
            outcomes: dict[tuple[int, ...], float] = {}
            for text, p in chance.items():
                outcomes[text[:n]] = outcomes.get(text[:n], 0.0) + p
            wanted = 2 * outcomes.get(truth[:n], 0.0) - sum(p * p for p in outcomes.values())
            assert mean[n - 1] == pytest.approx(wanted, abs=1e-12)


def test_the_geometric_mean_is_of_means() -> None:
    assert brier.brier_lm([(1.0, 1.0, 1.0, 1.0), (1.0, 0.0, 0.0, 0.0)]) == pytest.approx(100 * 0.5**0.75)  # fmt: skip
    assert (
        brier.brier_lm([(1.0, 1.0, -1.0, -1.0)]) == 0.0
    )  # the product of two negative ones is not
    assert math.isnan(brier.brier_lm([]))


def test_tokens_are_those_that_the_judge_reads(judge: Judge) -> None:  # noqa: F811
    before, text = "Anna had a red hat.", " She lost it."
    assert judge.tokens(before, text) == judge.read(before, text).tokens


def test_a_run_draws_two_samples_for_each_context(pages: Path) -> None:  # noqa: F811
    results = evaluate("tiny", ["brier_lm"], metadata={"judge": "asset:tiny-ar", "n_samples": 3}, data_dir=pages,
                       decode={"steps": 4, "logits_eos_inf": True}, verbosity="ERROR", bootstrap_iters=0)  # fmt: skip
    scores, samples = results["results"]["brier_lm"], results["samples"]["brier_lm"]
    pairs = [sample["resps"][0] for sample in samples]
    assert [len(pair) for pair in pairs] == [2, 2] and any(a != b for a, b in pairs)
    means = [scores[f"brier_{n},pair"] for n in (1, 2, 3, 4)]
    assert means == sorted(means) or min(means) < 0
    assert scores["brier_lm,pair"] == pytest.approx(0.0 if min(means) <= 0 else 100 * math.prod(means) ** 0.25)  # fmt: skip
    assert scores["brier_lm_stderr,pair"] == "N/A" or scores["brier_lm_stderr,pair"] > 0
