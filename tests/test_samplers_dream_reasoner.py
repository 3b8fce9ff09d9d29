"""DreamReasoner: logits and texts of the recorded port, and what tells its checkpoints from Dream's."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import models_builders as build
import pytest
import torch
from transformers import Qwen3Config, Qwen3ForCausalLM

from dlm_eval.canvas import Canvas
from dlm_eval.decoding import fill
from dlm_eval.engine import Engine
from dlm_eval.errors import UserError
from dlm_eval.models import load_model

FOLDER = "goldens/families-2026/dreamreasoner"


@pytest.fixture(scope="module")
def golden(shared: Path) -> Any:
    if not (shared / FOLDER).is_dir():
        pytest.skip("no recordings of DreamReasoner")
    return json.loads((shared / FOLDER / "golden.json").read_text())


def checkpoint(folder: Path) -> Path:
    """A small DreamReasoner of random weights."""
    config = Qwen3Config(
        vocab_size=build.VOCAB, hidden_size=32, intermediate_size=48, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, head_dim=8, max_position_embeddings=64,
        rope_parameters={"rope_type": "default", "rope_theta": 1e4}, eos_token_id=267,
        is_causal=False,
    )  # fmt: skip
    state = build.spread(Qwen3ForCausalLM(config)).state_dict()
    raw = config.to_dict() | {
        "model_type": "Dream",
        "architectures": ["DreamForCausalLM"],
        "block_size": 8,
        "mask_token_id": build.MASK_ID,
    }
    return build.write(folder, raw, state)


def load(shared: Path, family: str, **options: Any) -> Any:
    # the recordings come without a tokenizer: ids are all that is compared
    tokenizer = shared / "goldens/llada"
    return load_model(family, pretrained=shared / FOLDER, tokenizer=tokenizer, **options)


@pytest.fixture(scope="module")
def reasoner(shared: Path, golden: Any) -> Any:
    return load(shared, "dreamreasoner", mask_id=golden["special_ids"]["mask"])


def test_logits_equal_the_recorded(reasoner: Any, golden: Any) -> None:
    assert reasoner.attention == "block" and reasoner.block_length == 8
    assert not reasoner.facts.shift
    for case in golden["logits"]["cases"]:
        theirs = torch.tensor(case["logits"])
        ours = reasoner.logits(torch.tensor([case["input_ids"]]))[0]
        assert float((ours - theirs).abs().max()) < 1e-5 * float(theirs.abs().max())


def filled(model: Any, case: Any, **more: Any) -> Any:
    wanted = case["settings"]
    steps: list[Any] = []
    (filling,) = fill(
        model,
        [Canvas.completion(case["prompt"], wanted["gen_length"])],
        "dream_reasoner",
        remasking_strategy=wanted["remasking_strategy"],
        confidence_threshold=wanted["confidence_threshold"],
        eb_threshold=wanted["eb_threshold"],
        steps_per_block=wanted["steps_per_block"],
        temperature=wanted["temperature"],
        confidence_from="sampling",
        early_exit=False,
        trace=lambda _, step: steps.append(step),
        **more,
    )
    return filling, steps


def test_texts_and_forwards_equal_the_recorded(reasoner: Any, golden: Any) -> None:
    """All cases: the four choices, thresholds, steps; prompts that end inside a block."""
    for case in golden["generate"]["cases"]:
        filling, steps = filled(reasoner, case)
        assert list(filling.tokens) == case["tokens"], case["settings"]
        assert filling.forwards == filling.steps == case["nfe"], case["settings"]
        assert len(steps) == case["nfe"]


def test_batches_and_caches_change_nothing(reasoner: Any, golden: Any) -> None:
    cases = golden["generate"]["cases"][::7]
    canvases = [Canvas.completion(c["prompt"], 19) for c in cases]
    for options in ({}, {"remasking_strategy": "entropy_bounded", "temperature": 0.7}):
        whole = fill(reasoner, canvases, "dream_reasoner", **options)
        small = Engine(reasoner, batch_tokens=40)
        alone = [
            fill(reasoner, [one], "dream_reasoner", engine=small, **options)[0]
            for one in reversed(canvases)
        ][::-1]
        plain = fill(reasoner, canvases, "dream_reasoner", cache="none", **options)
        assert [f.tokens for f in whole] == [f.tokens for f in alone] == [f.tokens for f in plain]


def test_more_steps_than_positions(reasoner: Any) -> None:
    hole = Canvas.completion([5, 6, 7], 10)
    for choice in ("low_confidence_static", "sequential", "low_confidence_dynamic"):
        options = {"remasking_strategy": choice, "confidence_threshold": 1.0}
        usual, more = (
            fill(reasoner, [hole], "dream_reasoner", steps_per_block=steps, **options)[0]
            for steps in (8, 11)
        )
        assert usual.tokens == more.tokens


def test_dream_and_dreamreasoner_are_told_apart(shared: Path, golden: Any) -> None:
    with pytest.raises(UserError, match="block_size 8.*use --model dreamreasoner"):
        load(shared, "dream")
    with pytest.raises(UserError, match="block_size|head_dim"):
        load_model("dreamreasoner", pretrained=shared / "goldens/dream")
