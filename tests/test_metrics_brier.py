"""BrierLM: the estimate's expectation by enumeration, its outcomes, and a run."""

from __future__ import annotations

import itertools
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_metrics_samples import judge, pages  # noqa: F401

from dlm_eval import evaluate
from dlm_eval.errors import UserError
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


def test_places_of_a_passage_estimate_the_mean_of_their_scores_without_bias(judge: Judge) -> None:  # noqa: F811
    """Over all pairs of samples at two places, the mean is that of 2 P(y) - sum P^2 of both."""
    doc = {"prefix": "Anna had a", "truth": " red hat .", "suffix": " She lost it"}
    truth = [judge.tokens(context, text) for context, text in brier.places(doc, 2)]
    texts = [[" red hat .", " red dog", " cat"], [" hat . She", " hat ."]]
    chances = [[0.5, 0.2, 0.3], [0.6, 0.4]]
    mean = np.zeros(4)
    choices = [list(itertools.product(range(len(own)), repeat=2)) for own in texts]
    for first, second in itertools.product(*choices):
        share, pairs = 1.0, []
        for place, drawn in enumerate((first, second)):
            pairs.append([texts[place][i] for i in drawn])
            share *= math.prod(chances[place][i] for i in drawn)
        mean += share * np.array(brier.process_results(doc, pairs, judge)["brier_lm"])
    wanted = np.zeros(4)
    for place, (context, _) in enumerate(brier.places(doc, 2)):
        for n in range(1, 5):
            outcomes: dict[tuple[int, ...], float] = {}
            for text, p in zip(texts[place], chances[place], strict=True):
                key = judge.tokens(context, text)[:n]
                outcomes[key] = outcomes.get(key, 0.0) + p
            exact = 2 * outcomes.get(truth[place][:n], 0.0) - sum(p * p for p in outcomes.values())
            wanted[n - 1] += exact / 2
    assert mean == pytest.approx(wanted, abs=1e-12)


def test_places_are_evenly_spaced_and_the_first_is_the_passages_own() -> None:
    doc = {"prefix": "a b", "truth": " c d e f", "suffix": " g h i j"}
    assert brier.places(doc, 1) == [("a b", " c d e f")]
    assert brier.places(doc, 2) == [("a b", " c d e f"), ("a b c d", " e f g h")]
    assert [context for context, _ in brier.places(doc, 4)] == ["a b", "a b c", "a b c d", "a b c d e"]  # fmt: skip


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


def test_a_run_at_several_places_asks_about_each_and_contains_the_run_at_one(pages: Path) -> None:  # noqa: F811
    options: dict[str, Any] = {"data_dir": pages, "decode": {"steps": 2, "logits_eos_inf": True}, "verbosity": "ERROR", "bootstrap_iters": 0}  # fmt: skip
    of_judge = {"judge": "asset:tiny-ar", "n_samples": 2}
    one, several = (
        evaluate("tiny", ["brier_lm"], metadata={**of_judge, "places": count}, **options)
        for count in (1, 3)
    )
    rows, more = (found["samples"]["brier_lm"] for found in (one, several))
    for row, wide in zip(rows, more, strict=True):
        assert [len(pair) for pair in wide["resps"]] == [2, 2, 2] and wide["resps"][0] == row["resps"][0]  # fmt: skip
        contexts = [wide["arguments"][i][0] for i in range(3)]
        assert contexts == [context for context, _ in brier.places(row["doc"], 3)]
        assert len({pair[0] for pair in wide["resps"]}) > 1
    assert several["results"]["brier_lm"]["sample_len"] == len(rows)
    for wrong in (0, 33, "most"):
        with pytest.raises(UserError, match="places .* is not allowed; it must be 1 to 32, or all"):
            evaluate("tiny", ["brier_lm"], metadata={**of_judge, "places": wrong}, **options)
