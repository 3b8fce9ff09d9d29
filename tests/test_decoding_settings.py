"""Settings of decoding: every mistake in one line, presets as data, schedules as integer functions."""

from __future__ import annotations

from typing import Any

import pytest

from dlm_eval.canvas import Canvas
from dlm_eval.decoding import STRATEGIES, describe_strategies, expand, fill, presets, resolve
from dlm_eval.decoding.schedules import cosine, even, linear, timestep
from dlm_eval.decoding.settings import LATER
from dlm_eval.errors import UserError
from dlm_eval.models import checkpoints
from dlm_eval.models.families.toy import Toy, ToySettings
from dlm_eval.settings import parse_pairs

BAD: list[tuple[dict[str, Any], str]] = [
    ({"strategy": "confidance"}, "did you mean 'confidence'"),
    ({"stepps": 4}, "did you mean 'steps'"),
    ({"preset": "lada"}, "did you mean 'llada'"),
    ({"steps": 0}, "1 or more"),
    ({"steps": "many"}, "whole number"),
    ({"steps": 2, "steps_per_block": 2}, "exclude"),
    ({"block_length": 0}, "1 or more"),
    ({"temperature": -1}, "0 or more"),
    ({"temperature": "nan"}, "a finite number"),
    ({"top_p": 0}, "above 0"),
    ({"top_p": 1.2}, "at most 1"),
    ({"top_k": -1}, "0 or more"),
    ({"logits_temp": 0}, "above 0"),
    ({"eps": 1.0}, "below 1"),
    ({"guidance": -1}, "0 or more"),
    ({"guidance_convention": "smdm"}, "one of llada, dream"),
    ({"schedule": "exponential"}, "one of even"),
    ({"strategy": "threshold"}, "needs threshold"),
    ({"strategy": "threshold", "threshold": 1.5}, "0 to 1"),
    ({"threshold": 0.9}, "belongs to threshold"),
    ({"strategy": "random", "rescore": True}, "belongs to confidence"),
    ({"strategy": "timestep", "schedule": "even"}, "decides by itself"),
    ({"lengths": [0]}, "lengths '[0]' is not allowed; it must be 1 or more"),
    ({"lengths": "[[4]]"}, "a list, each a whole number"),
    ({"lengths": {4: 1}}, "a list, each a whole number"),
    ({"lengths": [4], "length_beam": 2}, "exclude each other"),
]


@pytest.mark.parametrize("text", ["[4,9007199254740993]", "(4, 9007199254740993)", "4,9007199254740993"])  # fmt: skip
def test_a_whole_number_keeps_its_digits(text: str) -> None:
    assert resolve({"lengths": text}).lengths == (4, 2**53 + 1)
    assert resolve({"steps": "1e3"}).steps == resolve({"steps": 1000.0}).steps == 1000


@pytest.mark.parametrize(("options", "told"), BAD, ids=[str(options) for options, _ in BAD])
def test_a_bad_setting_is_one_line(options: dict[str, Any], told: str) -> None:
    with pytest.raises(UserError) as error:
        resolve(options)
    assert told in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"steps": 9}, "steps '9'"),
        ({"block_length": 3}, "divisor"),
        ({"block_length": 4, "steps": 3}, "multiple"),
    ],
)
def test_settings_that_do_not_fit_the_hole(options: dict[str, Any], told: str) -> None:
    with pytest.raises(UserError, match=told):
        resolve(options, length=8)
    with pytest.raises(UserError, match=told):
        fill(Toy(ToySettings()), [Canvas.completion([1], 8)], **options)
    assert fill(Toy(ToySettings()), [Canvas.completion([1], 0)], **options)[0].tokens == ()


def test_more_steps_than_tokens_where_the_procedure_has_them() -> None:
    for options in ({"schedule": "linear"}, {"schedule": "timestep"}, {"strategy": "timestep"}):
        assert resolve({"steps": 64, **options}, length=8).steps == 64
    with pytest.raises(UserError, match="steps '64'"):
        resolve({"steps": 64}, length=8)


def test_layers_and_presets() -> None:
    settings = resolve(
        {"steps": 4, "temperature": 0.5}, parse_pairs("preset=diffullama_gsm,steps=8", "--decode")
    )
    assert settings == resolve(
        {"schedule": "linear", "rescore": True, "steps": 8, "temperature": 0.5}
    )
    assert resolve({"preset": "diffullama"}, {"temperature": 0}).temperature == 0
    assert resolve({"until": "[a,b]"}).until == ("a", "b")
    assert expand({"preset": "llada_base", "gen_length": 64})["gen_length"] == 64


def test_every_preset_is_valid_and_says_its_source() -> None:
    for preset in presets().values():
        assert preset.source
        assert set(preset.checkpoints) <= set(checkpoints()), preset.name
        length = int(preset.settings.get("gen_length", 256))
        resolve({"preset": preset.name}, length=length)


def test_every_strategy_is_described() -> None:
    assert set(describe_strategies()) == set(STRATEGIES.names())
    assert all(line and "\n" not in line for line in describe_strategies().values())


def test_schedules() -> None:
    assert [even(10, 10, i, 4) for i in range(4)] == [3, 3, 2, 2]
    assert [even(2, 2, i, 4) for i in range(4)] == [1, 1, 0, 0]
    for schedule in (linear, cosine, timestep(1e-3), timestep(0.0)):
        for n, steps in ((22, 22), (7, 3), (3, 7), (1, 1), (256, 64)):
            left = n
            for i in range(steps):
                left -= schedule(n, left, i, steps)
                assert 0 <= left <= n
            assert left == 0
    # The authors' float32 product of 22 and 13/22 is just below 13.
    left, kept = 22, []
    for i in range(22):
        left -= linear(22, left, i, 22)
        kept.append(left)
    assert kept == [21 - i if i != 8 else 12 for i in range(22)]


def test_settings_that_came_later_are_named_only_if_they_are_set() -> None:
    """Answers of journals from before them stay known."""
    assert not LATER.keys() & resolve({}).identity().keys()
    changed = resolve({"step_texts": True, "align_inputs_to_blocks": False}).identity()
    assert (changed["step_texts"], changed["align_inputs_to_blocks"]) == (True, False)
