"""MAUVE of equal and of different sets of texts, the judge's features, and the step at which a sampler ended."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import test_models_ddlm
import torch
from test_metrics_samples import judge, network, pages, tokenizer  # noqa: F401

from dlm_eval import evaluate
from dlm_eval.metrics import mauve as of_mauve
from dlm_eval.metrics.jackknife import half_samples
from dlm_eval.metrics.samples import Judge


def test_features_are_the_last_hidden_state(judge: Judge, network: Any, tokenizer: Any) -> None:  # noqa: F811
    text = "Anna had a red hat."
    ids = [tokenizer.bos_token_id, *tokenizer(text, add_special_tokens=False)["input_ids"]]
    with torch.no_grad():
        states = network(torch.tensor([ids]), output_hidden_states=True).hidden_states[-1]
    assert torch.allclose(torch.tensor(judge.features(text)), states[0, -1], atol=1e-5)
    # a text longer than the judge keeps its end
    long = judge.features("Anna had a red hat. " * 200)
    assert long.shape == judge.features("").shape


def test_equal_sets_have_one_and_different_ones_less(judge: Judge) -> None:  # noqa: F811
    pytest.importorskip("mauve")
    names = ["Anna", "Ben", "Mia", "Tom", "Ada"]
    things = ["a red hat", "two cats", "the old boat", "some bread", "a blue ball"]
    real = [f"{name} had {thing}." for name in names for thing in things]

    def value(written: list[str]) -> float:
        docs = [{"prefix": "", "truth": text} for text in real]
        items = [
            of_mauve.process_results(doc, [text], judge)["mauve"]
            for doc, text in zip(docs, written, strict=True)
        ]
        return of_mauve.mauve(items)

    same, noise = value(real), value(["? 7 7 7 ; ; q" + "z" * (i % 5) for i in range(len(real))])
    assert same == pytest.approx(1.0, abs=1e-6) and noise < 0.3


def test_the_error_from_halves_is_that_of_drawing_other_texts() -> None:
    """Mean of the reported variance of 5 sets over the variance of 24 sets of texts: within 3 of 1
    with probability above 0.999 (F with 23 and some 31 x 5 degrees of freedom); the seed is fixed."""
    pytest.importorskip("mauve")
    draw = np.random.default_rng(0)

    def texts(count: int) -> list[of_mauve.Features]:
        made = []
        for _ in range(count):
            item = of_mauve.Features(float("nan"))
            item.of_real = draw.standard_normal(8).astype(np.float32)
            item.of_sample = (draw.standard_normal(8) + 0.5).astype(np.float32)
            made.append(item)
        return made

    values = [of_mauve.mauve(texts(96)) for _ in range(24)]
    errors = [half_samples(texts(96), of_mauve.mauve, 32) for _ in range(5)]
    ratio = np.mean([(error or 0) ** 2 for error in errors]) / np.var(values, ddof=1)
    assert 1 / 3 < ratio < 3
    assert half_samples(texts(8), of_mauve.mauve, 4) is None


def test_halves_of_a_mean_give_its_standard_error() -> None:
    """The reported variance of a mean of 40 numbers is s^2 / n, within the noise of 400 halves."""
    numbers = np.random.default_rng(1).standard_normal(40).tolist()
    error = half_samples(numbers, lambda own: float(np.mean(own)), 400)
    assert error == pytest.approx(np.std(numbers, ddof=1) / 40**0.5, rel=0.15)
    assert half_samples([1.0] * 40, lambda own: float(np.mean(own)), 8) is None
    assert half_samples(numbers, lambda own: float("nan"), 8) is None


@pytest.mark.parametrize(
    ("halt", "low", "high"),
    [({}, 9, 9), ({"halt": "fixed", "halt_threshold": 3}, 3, 3), ({"halt": "entropy", "halt_threshold": 50.0}, 1, 1),
     ({"halt": "kl", "halt_threshold": 50.0}, 2, 2), ({"halt": "patience", "halt_threshold": 2}, 3, 9)],
)  # fmt: skip
def test_the_exit_step_is_a_metric(
    halt: dict[str, Any],
    low: int,
    high: int,
    tmp_path: Path,
    pages: Path,  # noqa: F811
) -> None:
    """8 steps of Euler and the forward that reads the text, unless a criterion ends them: any entropy and any divergence is below 50 nats."""
    folder = test_models_ddlm.checkpoint(
        tmp_path / "m", test_models_ddlm.network(max_position_embeddings=512)
    )
    results = evaluate(
        "ddlm", ["prefix_32"], model_args={"pretrained": str(folder)}, data_dir=str(pages),
        decode={"steps": 8, **halt}, metadata={"judge": "asset:tiny-ar", "n_samples": 2}, verbosity="ERROR",
    )  # fmt: skip
    found = results["results"]["prefix_32"]["exit_step,none"]
    assert low <= found <= high
    samples = results["samples"]["prefix_32"]
    assert found == sum(sample["exit_step"] for sample in samples) / len(samples)
