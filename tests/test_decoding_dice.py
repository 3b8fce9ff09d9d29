"""Drawn decoding under the same dice: the authors' tokens, the step of each and their forwards, with our uniforms in place of theirs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from test_decoding_goldens import fill_one, load, load_blocks
from test_models_diffusionllm import written

from dlm_eval.canvas import Canvas
from dlm_eval.models import load_model

GROUPS = json.loads(
    (Path(__file__).parent / "goldens" / "same_dice.json").read_text(encoding="utf-8")
)["groups"]


def model_of(shared: Path, name: str, case: dict[str, Any], folder: Path) -> Any:
    if name == "rdm":
        return load_model(
            "diffusionllm", pretrained=written(folder)[0], dtype="float32", device="cpu"
        )
    if name in ("sdar", "llada2", "llada21"):
        return load_blocks(
            shared, "llada2" if name == "llada21" else name, name, case["authors"]["block_length"]
        )
    return load(shared, name)


@pytest.mark.parametrize(
    "group", GROUPS, ids=[f"{group['of']}-{group['checkpoint']}" for group in GROUPS]
)
def test_the_authors_tokens_under_the_same_dice(
    shared: Path, tmp_path: Path, group: dict[str, Any]
) -> None:
    blocks = {case["authors"].get("block_length"): case for case in group["cases"]}
    models = {
        block: model_of(shared, group["checkpoint"], case, tmp_path)
        for block, case in blocks.items()
    }
    for case in group["cases"]:
        canvas = Canvas.infill(case["prefix"], case["length"], case.get("suffix", []))
        model = models[case["authors"].get("block_length")]
        filling = fill_one(model, canvas, seed=case["seed"], **case["options"])
        assert list(filling.tokens) == case["tokens"], case["options"]
        if "steps" in case:
            assert list(filling.step) == case["steps"], case["options"]
            assert filling.forwards <= case["calls"]
