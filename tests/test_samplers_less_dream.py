"""LESS for Dream writes what its authors' code wrote (tests/goldens/less_dream.json says how it was recorded)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from recorded_decoders import loaded

from dlm_eval import Canvas, UserError, fill, load_model
from dlm_eval.decoding.samplers.less_dream import PATIENCE, WINDOW, LessDream, Waiting

GOLDEN = json.loads((Path(__file__).parent / "goldens" / "less_dream.json").read_text())
NOT_OPTIONS = ("prompt", "gen_length", "tokens", "written", "forwards")
NO_RULES_OF_ENDS = {"eos_conf_threshold": 0.0, "eos_conf_floor": 0.0, "eos_js_mult": 1.0}


def test_tokens_positions_and_forwards_equal_the_authors(shared: Path) -> None:
    model, filled, drawn, ends = loaded(shared / "goldens" / "dream"), 0, 0, 0
    for case in GOLDEN["cases"]:
        begin, canvas = len(case["prompt"]), Canvas.completion(case["prompt"], case["gen_length"])
        options: dict[str, Any] = {k: v for k, v in case.items() if k not in NOT_OPTIONS}
        options |= {"early_exit": False, "logits_temp": 1 / GOLDEN["logits_scale"]}
        steps: list[list[int]] = []
        (found,) = fill(
            model, [canvas], "less_dream",
            trace=lambda _, step, to=steps: to.append(sorted(at - begin for at in step.written)),  # noqa: B023
            **options,
        )  # fmt: skip
        assert list(found.tokens) == case["tokens"], case
        assert steps == case["written"]
        assert found.forwards == case["forwards"]
        (other,) = fill(model, [canvas], "less_dream", **{**options, **NO_RULES_OF_ENDS})
        ends += other.tokens != found.tokens
        filled += found.forwards == case["steps"] + 1
        drawn += case["temperature"] > 0
    assert min(filled, drawn, ends) >= 3


def test_the_first_position_waits_for_two_steps() -> None:
    """By hand: later ones within the window first, then the first one, accepted or not."""
    strategy, waiting = LessDream(), Waiting()
    at = np.array([3, 4, 3 + WINDOW, 4 + WINDOW])
    logprob = np.log(np.array([0.1, 0.8, 0.9, 0.99]))
    for accepted, chosen, waits in (
        ([False, True, True, True], [2], 1),
        ([False, True, False, True], [1], 2),
        ([False, True, True, True], [0], 0),  # the patience is over
        ([False, False, False, True], [0], 0),  # the only accepted one is too far away
        ([False, True, False, False], [1], 1),
        ([True, True, False, True], [0, 1], 0),
        ([False, False, False, False], [0], 0),
    ):
        found = strategy._chosen(at, np.array(accepted), logprob, waiting)
        assert np.flatnonzero(found).tolist() == chosen and waiting.steps == waits
    assert PATIENCE == 2


def test_an_end_of_text_needs_more_and_less_of_it_later() -> None:
    strategy = LessDream()  # 0.9, less 0.1 until the last step; half the drift of 0.04
    probability, moved = np.array([0.86, 0.86, 0.86]), np.array([0.01, 0.03, 0.05])
    is_end = np.ones(3, dtype=bool)
    assert strategy._sure(probability, moved, ~is_end, 0.1).tolist() == [True, True, False]
    assert strategy._sure(probability, moved, is_end, 0.1).tolist() == [False, False, False]
    assert strategy._sure(probability, moved, is_end, 0.5).tolist() == [True, False, False]


def test_an_end_token_that_the_model_does_not_predict_is_refused() -> None:
    with pytest.raises(UserError, match="decode eos_token_id '99' is not allowed"):
        fill(load_model("toy"), [Canvas.completion([1], 4)], "less_dream", eos_token_id=99)
