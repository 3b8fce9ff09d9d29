"""`steps` for strategies that do not use it: told on the command line, and shown here for each strategy."""

from __future__ import annotations

import logging
from types import SimpleNamespace
from typing import Any

import pytest
from strategy_options import NEEDED

from dlm_eval.canvas import Canvas
from dlm_eval.decoding import Unmasking, fill, resolve
from dlm_eval.decoding.strategy import strategies_for
from dlm_eval.harness.decode_config import DecodeOptions
from dlm_eval.harness.decode_warnings import check_requests
from dlm_eval.models import load_model
from dlm_eval.models.denoiser import Denoiser

LENGTH, FEW, MANY = 12, 3, 6
PROMPTS = ("Anna had a red", "The dog", "Tom has 3 apples and 4 pears. He has", "One day a cat")


def taking_steps() -> list[str]:
    """The strategies of masked models whose `steps` can be set."""
    return [
        cls.name
        for cls in strategies_for("absorbing")
        if issubclass(cls, Unmasking) and "steps" not in cls.refused_settings()
        if cls.__module__.startswith("dlm_eval.decoding.")  # not those that another test defines
    ]


@pytest.fixture(scope="module")
def tiny() -> Denoiser:
    return load_model("tiny")


def texts(model: Denoiser, **settings: Any) -> list[tuple[Any, ...]]:
    """Tokens and forwards of each prompt."""
    canvases = [Canvas.completion(model.encode(prompt), LENGTH) for prompt in PROMPTS]
    found = [fill(model, [canvas], **settings)[0] for canvas in canvases]
    return [(tuple(one.tokens), one.forwards) for one in found]


@pytest.mark.parametrize("name", taking_steps())
def test_steps_change_an_answer_or_the_strategy_says_that_they_do_not(
    tiny: Denoiser, name: str
) -> None:
    settings = {"strategy": name, "early_exit": False, **NEEDED.get(name, {})}
    few = texts(tiny, steps=FEW, **settings)
    resolved = resolve({**settings, "steps": FEW}, length=LENGTH)
    ignores = resolved.strategy.ignores_steps and resolved.schedule_in_use is None
    assert (few == texts(tiny, steps=MANY, **settings)) == ignores


def test_a_schedule_makes_steps_count(tiny: Denoiser) -> None:
    settings = {"strategy": "threshold", "threshold": 1.0, "schedule": "even", "early_exit": False}
    few, many = (texts(tiny, steps=steps, **settings) for steps in (FEW, MANY))
    assert [one[1] for one in few] == [FEW] * 4 and [one[1] for one in many] == [MANY] * 4


def task(**generation: Any) -> Any:
    """A task whose YAML has these generation settings."""
    config = SimpleNamespace(generation_kwargs={"max_gen_toks": LENGTH, **generation}, repeats=1)
    return SimpleNamespace(OUTPUT_TYPE="generate_until", config=config)


def test_steps_without_effect_are_told(caplog: pytest.LogCaptureFixture) -> None:
    tasks = {"story": task()}
    with caplog.at_level(logging.WARNING):
        check_requests(DecodeOptions({"strategy": "window", "steps": 4}), tasks)
        check_requests(DecodeOptions({"strategy": "window"}), tasks)
        check_requests(DecodeOptions({"strategy": "confidence", "steps": 4}), tasks)
    [line] = caplog.messages
    assert line.startswith("task 'story': steps=4 has no effect with strategy 'window'")


def test_steps_beside_the_authors_preset_are_told(caplog: pytest.LogCaptureFixture) -> None:
    user = {"preset": "authors", "steps": 4}
    with caplog.at_level(logging.WARNING):
        for model in ("llada2.1-mini", "llada-8b-instruct", "no/such-folder"):
            options = DecodeOptions.before_loading(user, model, {})
            check_requests(options, {"gsm8k": task()})
    [line] = caplog.messages
    assert line.startswith("task 'gsm8k': steps=4 has no effect with strategy 'edit'")


def test_what_a_tasks_yaml_sets_is_no_mistake_of_the_user() -> None:
    """Another strategy than the task's comes without the steps, blocks and schedule that it refuses."""
    own = {"steps": 4, "schedule": "even", "block_length": 4, "guidance": 0.5}
    yaml = {f"decode_{name}": value for name, value in own.items()}
    for strategy in ("saber", "d2f", "adablock"):
        options = DecodeOptions({"strategy": strategy})
        settings = options.resolved(options.request(task(**yaml).config.generation_kwargs, "story"))
        refused = settings.strategy.refused_settings()
        left = {name: vars(settings)[name] for name in own if name not in refused}
        assert "steps" in refused and left == {name: own[name] for name in left}


def test_tasks_with_the_same_warning_share_a_line(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        options = DecodeOptions({"strategy": "window", "steps": 4})
        check_requests(options, {name: task() for name in ("a", "b", "c")})
    [line] = caplog.messages
    assert line.startswith("task 'a' and 2 others: steps=4 has no effect")
