"""WeDLM: blocks of its `generate_wedlm`, the streaming window of its engine, and a causal prefix that runs once."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from test_decoding_goldens import alike, golden, load

from dlm_eval.canvas import Canvas
from dlm_eval.decoding import fill
from dlm_eval.engine import Engine
from dlm_eval.errors import UserError
from dlm_eval.models.families.toy import Toy, ToySettings

WINDOWS = json.loads(
    (Path(__file__).parent / "goldens" / "wedlm_window.json").read_text(encoding="utf-8")
)


@pytest.fixture(scope="module")
def model(shared: Path) -> Any:
    return load(shared, "wedlm")


@pytest.mark.parametrize("cache", ["exact", "none"])
def test_generate_wedlm(shared: Path, model: Any, cache: str) -> None:
    cases = golden(shared, "wedlm")["generate_wedlm"]["cases"]
    for group in alike(cases):
        settings = group[0]["settings"]
        options: dict[str, Any] = {"strategy": "confidence"}
        if settings["confidence_threshold"]:
            options = {"strategy": "threshold", "threshold": settings["confidence_threshold"]}
        options |= {
            "logits_temp": settings["temperature"],
            "block_length": settings["block_size"],
            "cache": cache,
        }
        asked = [Canvas.completion(case["prompt"], settings["max_new_tokens"]) for case in group]
        fillings = fill(model, asked, early_exit=False, **options)
        found = [(list(filling.tokens), filling.forwards) for filling in fillings]
        assert found == [(case["tokens"], case["nfe"]) for case in group], settings


@pytest.mark.parametrize("cache", ["exact", "none"])
def test_streaming_window(model: Any, cache: str) -> None:
    for case in WINDOWS["cases"]:
        settings = case["settings"]
        options = {
            "window": settings["wedlm_window_size"],
            "entropy_threshold": settings["wedlm_entropy_threshold"] or 0.0,
            "pos_penalty": settings["wedlm_pos_penalty_factor"],
        }
        canvas = Canvas.completion(case["prompt"], settings["max_tokens"])
        (filling,) = fill(model, [canvas], preset="wedlm", cache=cache, **options)
        tokens = list(filling.tokens)
        end = model.eos_ids[0]
        assert (tokens[: tokens.index(end) + 1] if end in tokens else tokens) == case["tokens"], (
            settings
        )
        # The authors' window runs past the last position, and once more to take the last tokens out of it.
        assert filling.forwards < case["steps"]


def test_the_window_hides_what_lies_behind_it() -> None:
    """With no threshold in the way everything in the window is written at once; a step's tokens lie within its window."""
    toy = Toy(ToySettings(vocab=6, inconsistency=0.7, seed=3))
    everything = {
        "strategy": "window",
        "window": 4,
        "entropy_threshold": 100.0,
        "early_exit": False,
    }
    assert fill(toy, [Canvas.completion([1], 10)], **everything)[0].step == (
        0,
        0,
        0,
        0,
        1,
        1,
        1,
        1,
        2,
        2,
    )
    one = {**everything, "entropy_threshold": 0.0, "pos_penalty": 0.0}
    step = fill(toy, [Canvas.completion([1], 12)], **one)[0].step
    assert sorted(step) == list(range(12)) and list(step) != list(range(12))
    for now in range(12):
        first = min(place for place, when in enumerate(step) if when >= now)
        assert step.index(now) < first + 4


def test_a_large_penalty_reads_from_left_to_right(model: Any) -> None:
    canvas = Canvas.completion([3, 5], 12)
    strict = fill(
        model, [canvas], "window", entropy_threshold=0.0, pos_penalty=50.0, early_exit=False
    )[0]
    assert strict.step == tuple(range(12))
    assert strict.tokens == fill(model, [canvas], "left_to_right", early_exit=False)[0].tokens


def test_masks_behind_what_is_read_are_left_out(model: Any) -> None:
    """They cannot be seen from there: causal attention over known tokens first, then masks in order."""
    engines = Engine(model), Engine(model)
    for cache, engine in zip(("none", "exact"), engines, strict=True):
        options = {"window": 4, "cache": cache, "allow_mask": False, "early_exit": False}
        fill(model, [Canvas.completion([3, 5], 40)], "window", engine=engine, **options)
    assert engines[0].cost.tokens <= sum(2 + n + 4 for n in range(40))
    # Everything but the window runs once, when it has become known.
    assert engines[1].cost.tokens <= 2 + 40 + 40 * 4


def test_settings_of_the_window_belong_to_it(model: Any) -> None:
    asked = [Canvas.completion([3], 4)]
    with pytest.raises(UserError, match="window is not used by strategy 'confidence'"):
        fill(model, asked, window=8)
    with pytest.raises(UserError, match="window '0'.*1 or more"):
        fill(model, asked, "window", window=0)
