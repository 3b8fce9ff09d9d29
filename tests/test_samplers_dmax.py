"""DMax's soft parallel decoding: every canvas of the authors' code, and mixtures of one token are that token."""

from __future__ import annotations

import json
from itertools import groupby
from pathlib import Path
from typing import Any

import pytest
import torch

from dlm_eval.canvas import Canvas
from dlm_eval.decoding import fill
from dlm_eval.decoding.samplers.dmax import MOST
from dlm_eval.engine import Engine
from dlm_eval.errors import UserError
from dlm_eval.models import load_model


@pytest.fixture(scope="module")
def golden(shared: Path) -> Any:
    file = shared / "goldens/families-2026/dmax/golden.json"
    if not file.is_file():
        pytest.skip("no recordings of DMax")
    return json.loads(file.read_text())


@pytest.fixture(scope="module")
def models(shared: Path) -> Any:
    folder = shared / "goldens/llada2"
    return {
        block: load_model("llada2", pretrained=folder, dtype="float32", block_length=block)
        for block in (8, 16)
    }


def test_every_canvas_equals_the_authors(models: Any, golden: Any) -> None:
    """Tokens, forwards, and the block after each step (a step that changes nothing is not traced)."""
    for case in golden["cases"]:
        wanted, steps = case["settings"], []
        block, prompt = wanted["block_length"], case["prompt"]
        (filling,) = fill(
            models[block],
            [Canvas.completion(prompt, len(case["tokens"]))],
            "dmax",
            threshold=wanted["threshold"],
            soft_top_k=wanted["top_k"],
            early_exit=False,
            trace=lambda _, step, steps=steps: steps.append(step),
        )
        assert list(filling.tokens) == case["tokens"], wanted
        assert filling.forwards == case["nfe"], wanted
        mask, first = golden["special_ids"]["mask"], len(prompt) // block * block
        seen = [
            list(step.tokens[begin : begin + block])
            for step in steps
            for begin in [max(step.written) // block * block]
        ]
        theirs = []
        for number, one in enumerate(case["blocks"]):
            begin = first + number * block
            start = [*prompt[begin:], *[mask] * block][:block]
            canvases = [start, *one["after_each"]]
            theirs += [canvas for canvas, _ in groupby(canvases)][1:]
        assert seen == theirs, wanted


def test_a_mixture_of_one_sure_token_is_the_token(models: Any) -> None:
    model = models[8]
    tokens = torch.tensor([[5, 6, 7, 8, 9, 10, 11, 12]])
    inputs = torch.zeros(1, 8, 2 * MOST)
    assert torch.equal(model.soft_logits(tokens, None, None, inputs), model.logits(tokens))
    inputs[0, 3, 0], inputs[0, 3, MOST] = 20, 1.0
    changed = tokens.clone()
    changed[0, 3] = 20
    assert torch.allclose(
        model.soft_logits(tokens, None, None, inputs), model.logits(changed), atol=1e-4
    )
    inputs[0, 3, MOST] = 0.5
    half = model.soft_logits(tokens, None, None, inputs)
    assert not torch.allclose(half, model.logits(changed), atol=1e-2)


def test_batches_change_nothing(models: Any) -> None:
    canvases = [Canvas.completion([30 + i] * (i + 1), 9 + i) for i in range(4)]
    options = {"threshold": 0.1, "soft_top_k": 3, "temperature": 0.5}
    whole = fill(models[8], canvases, "dmax", **options)
    small = Engine(models[8], batch_tokens=24)
    alone = [
        fill(models[8], [one], "dmax", engine=small, **options)[0] for one in reversed(canvases)
    ]
    assert [f.tokens for f in whole] == [f.tokens for f in alone][::-1]
    assert [f.forwards for f in whole] == [f.forwards for f in alone][::-1]


def test_mistakes_are_one_line(models: Any) -> None:
    hole = Canvas.completion([1, 2], 4)
    with pytest.raises(UserError, match="'dmax' is not for toy.*mixtures of tokens"):
        fill(load_model("toy"), [hole], "dmax")
    with pytest.raises(UserError, match="guidance is not used by strategy 'dmax'"):
        fill(models[8], [hole], "dmax", guidance=1.0)
    with pytest.raises(UserError, match="steps is not used by strategy 'dmax'"):
        fill(models[8], [hole], "dmax", steps=4)
