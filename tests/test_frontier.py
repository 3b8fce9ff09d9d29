"""A judge's perplexity against entropy: errors over samples, the frontier, and the warning where both fall."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from dlm_eval import evaluate
from dlm_eval.harness.frontier import Estimate, Point, frontier, points_of, warnings_of
from dlm_eval.harness.suites import load_suite
from dlm_eval.metrics import samples
from dlm_eval.metrics.jackknife import jackknife
from dlm_eval.metrics.samples import Part, Reading
from dlm_eval.reports.run.suite_report import frontier_lines


def part(tokens: tuple[int, ...]) -> Part:
    return Part.of(0.0, Reading(tokens, 0.0), "")


# -- errors ----------------------------------------------------------------------------------------


def test_the_error_of_a_mean_is_the_textbooks() -> None:
    values = np.random.default_rng(0).normal(size=50).tolist()
    found = jackknife(values, lambda items: sum(items) / len(items), 50)
    assert found == pytest.approx(np.std(values, ddof=1) / math.sqrt(50))
    assert jackknife([1.0], sum, 32) is jackknife([1.0, 1.0, 1.0], sum, 32) is None
    assert jackknife([1.0, 2.0], lambda items: math.nan, 32) is None


@pytest.mark.parametrize("aggregate", [samples.entropy, samples.distinct_2], ids=["entropy", "distinct_2"])  # fmt: skip
def test_the_error_of_a_set_of_samples_is_that_of_new_sets(aggregate: Any) -> None:
    """60 samples of 20 tokens from a skewed distribution, 150 sets: the estimates are the spread of the values, or somewhat more.

    A standard deviation of 150 values is good to 6 %, so a right method fails with a chance below 1e-4.
    """
    generator = np.random.default_rng(5)
    chance = generator.dirichlet(np.full(40, 0.3))
    values, errors = [], []
    for _ in range(150):
        texts = [part(tuple(generator.choice(40, size=20, p=chance).tolist())) for _ in range(60)]
        values.append(aggregate(texts))
        errors.append(jackknife(texts, aggregate, 20))
    ratio = float(np.sqrt(np.mean(np.square(errors))) / np.std(values, ddof=1))
    assert 0.8 < ratio < 1.5


# -- frontier --------------------------------------------------------------------------------------


def point(steps: float, perplexity: float, entropy: float, temperature: float = 1.0, error: float | None = None, task: str = "unconditional") -> Point:  # fmt: skip
    return Point(task, "gpt2-large", steps, temperature, "{}", Estimate(perplexity, error), Estimate(entropy, error))  # fmt: skip


def test_a_warning_where_perplexity_and_entropy_both_fall() -> None:
    honest = [point(16, 90, 5.0), point(32, 70, 5.1), point(64, 50, 5.1)]
    assert warnings_of(honest) == []
    (one,) = warnings_of([*honest[:2], point(64, 30, 4.2)])
    assert "steps 32 to 64: the perplexity of gpt2-large falls from 70 to 30 while entropy falls from 5.1 to 4.2 nats" in one  # fmt: skip
    (one,) = warnings_of([point(64, 50, 5.0), point(64, 20, 4.0, temperature=0.8)])
    assert "temperature 1 to 0.8" in one
    assert not warnings_of([point(64, 60, 5.0, temperature=0.8), point(64, 50, 5.5)])
    # other tasks, and points that differ in two settings, are no chain
    assert not warnings_of([point(16, 50, 5.0), point(32, 20, 4.0, task="prefix_32")])
    assert not warnings_of([point(16, 50, 5.0), point(32, 20, 4.0, temperature=0.8)])


def test_a_fall_within_the_errors_is_none() -> None:
    assert warnings_of([point(16, 50, 5.0), point(32, 49.9, 4.99)])
    assert not warnings_of([point(16, 50, 5.0, error=0.3), point(32, 49.9, 4.99, error=0.3)])


def test_the_frontier_is_what_no_point_beats() -> None:
    points = [point(16, 90, 5.0), point(32, 70, 5.2), point(64, 40, 4.8), point(128, 40, 4.7)]
    assert frontier(points) == points[1:3]
    lines = frontier_lines([*points[:2], point(64, 40, 4.8)])
    assert "\n".join(lines).count("yes") == 2 and "warning" in lines[-1]
    assert frontier_lines(points[:1]) == []


SUITE = """
suite: steps
about: samples in few and in many steps
models: [tiny]
entries:
  - {entry: few, task: unconditional, decode: {gen_length: 24, steps: 4, temperature: 1.5}, metric: gen_ppl, scale: 1}
  - {entry: many, task: unconditional, decode: {gen_length: 24, steps: 24, temperature: 1.5}, metric: gen_ppl, scale: 1}
  - {entry: cold, task: unconditional, decode: {gen_length: 24, steps: 24, temperature: 0.01}, metric: gen_ppl, scale: 1}
"""


def test_a_suite_shows_the_frontier_and_warns(tmp_path: Path) -> None:
    """`tiny` at temperature 0.01 writes one text again and again, which its judge finds likely."""
    file = tmp_path / "steps.yaml"
    file.write_text(SUITE)
    found = evaluate(suite=load_suite(str(file)), metadata={"judge": "asset:tiny-ar", "n_samples": 12}, verbosity="ERROR")  # fmt: skip
    decode = [entry["decode"] for entry in yaml.safe_load(SUITE)["entries"]]
    points = [p for d, run in zip(decode, found["runs"], strict=True) for p in points_of(d, run)]
    assert [(p.steps, p.temperature, p.judge) for p in points] == [
        (4.0, 1.5, "tiny-ar"), (24.0, 1.5, "tiny-ar"), (24.0, 0.01, "tiny-ar"),
    ]  # fmt: skip
    assert all(p.perplexity.stderr and p.entropy.stderr for p in points[:2])
    assert points[2].perplexity.value < points[1].perplexity.value
    assert found["warnings"] == warnings_of(points)
    low, high = found["runs"][0]["dlm_eval"]["perplexity_interval"]["unconditional"]["gen_ppl"]
    assert low < points[0].perplexity.value < high
