"""Settings of a task under those of the user: what another strategy, cache or number of steps replaces."""

from __future__ import annotations

import logging
from typing import Any

import pytest
from strategy_options import NEEDED

from dlm_eval.cli import main
from dlm_eval.decoding import GENERAL, DecodeSettings, expand, presets, resolve
from dlm_eval.decoding.strategy import strategies_for
from dlm_eval.harness.decode_config import DecodeOptions
from dlm_eval.harness.decode_layers import entry_layer, user_layer


def settings(task: dict[str, Any], user: dict[str, Any], strategy: str = "") -> DecodeSettings:
    """The settings of a run of `task` by `user` on a masked model."""
    options = DecodeOptions(user, strategy=strategy)
    return options.resolved(options.request(task, "task"))


def of_each_kind() -> list[str]:
    """One preset of those that set the same general settings and cache."""
    kinds = {}
    for name, preset in presets().items():
        general = {key for key in preset.settings if key in GENERAL}
        kinds[frozenset(general), preset.settings.get("cache")] = name
    return list(kinds.values())


@pytest.mark.parametrize("name", [cls.name for cls in strategies_for("absorbing")])
def test_no_strategy_is_refused_for_what_the_tasks_preset_sets(name: str) -> None:
    user = {"strategy": name, **NEEDED.get(name, {})}
    alone = settings({}, user).strategy
    for preset in of_each_kind():
        found = settings({"preset": preset}, user).strategy
        same = presets()[preset].settings.get("strategy", "confidence") == name  # its options stay
        assert type(found) is type(alone) and (same or found == alone)


def test_what_the_user_sets_is_refused() -> None:
    for name, value in (("cache", "dual"), ("block_length", 4), ("guidance", 1.0), ("steps", 4)):
        with pytest.raises(Exception, match=f"decode (strategy 'dmax'|{name} is not used)"):
            settings({}, {"strategy": "dmax", name: value})


def test_the_strategy_that_a_task_has_anyway_changes_nothing() -> None:
    task = {"alg_temp": 0.5, "schedule": "cosine", "steps": 8}
    assert settings(task, {"strategy": "confidence"}) == settings(task, {})
    assert settings(task, {"strategy": "margin"}) == resolve({"strategy": "margin", "steps": 8})


def test_steps_replace_steps_per_block() -> None:
    blocks = {"steps_per_block": 2, "block_length": 8}
    for lower, upper in (
        ({"steps": 8}, blocks),
        (blocks, {"steps": 4}),
        (blocks, {"steps": "length"}),
    ):
        expected = resolve({"block_length": 8, **upper})
        assert settings({"block_length": 8, **lower}, upper) == expected
        assert resolve({"block_length": 8, **lower}, upper) == expected
        assert resolve(entry_layer({"block_length": 8, **lower}, upper)) == expected
    assert user_layer({"steps_per_block": 2}, {"steps": 4}) == {"steps": 4}
    assert "steps_per_block" in presets()["llada2"].settings
    assert "steps_per_block" not in expand({"preset": "llada2", "steps": 8})
    with pytest.raises(Exception, match="exclude each other"):
        settings({}, {"steps": 4, "steps_per_block": 2})


def test_a_suites_entry_under_another_strategy() -> None:
    entry = {"steps": 4, "alg_temp": 0.5, "schedule": "cosine", "temperature": 0.5}
    general = {"temperature": 0.5}
    for strategy, left in (
        ("confidence", entry),  # the model's own
        ("margin", {"steps": 4, **general}),
        ("window", general),  # steps would have no effect, which is no mistake of the user
        ("saber", general),
    ):
        assert entry_layer(entry, {"strategy": strategy}, "tiny") == {**left, "strategy": strategy}
    user = {"strategy": "threshold", "threshold": 0.9, "schedule": "even"}
    assert entry_layer(entry, user, "tiny") == {"steps": 4, **general, **user}
    assert entry_layer(entry, {"strategy": "window", "steps": 2}, "tiny")["steps"] == 2


def test_another_cache_comes_without_the_options_of_the_tasks() -> None:
    task = expand({"preset": "dllm_cache"})
    assert settings(task, {"cache": "prefix"}).cache.identity() == {"cache": "prefix"}
    assert settings(task, {"cache": "dllm"}) == settings(task, {})
    changed = settings(task, {"prompt_interval_steps": 9}).cache.identity()
    assert changed == {**settings(task, {}).cache.identity(), "prompt_interval_steps": 9}


def test_a_quota_of_batches_goes_with_its_schedule() -> None:
    task = {"strategy": "entropy", "schedule": "timestep", "batch_mean_quota": [12, 20]}
    assert settings(task, {"strategy": "margin"}).batch_mean_quota == ()


def test_a_models_own_strategy_replaces_what_a_task_sets_for_others() -> None:
    task = {"steps": 8, "schedule": "even", "alg_temp": 0.5, "block_length": 8}
    options = DecodeOptions({}, strategy="longest_prefix")
    ask = options.request(task, "task")
    assert ask.replaced == {"steps": 8, "schedule": "even", "alg_temp": 0.5}
    assert options.resolved(ask) == resolve({"strategy": "longest_prefix", "block_length": 8})
    with pytest.raises(Exception, match="alg_temp is not used by strategy 'left_to_right'"):
        settings({**task, "strategy": "left_to_right"}, {}, "longest_prefix")


def test_trace_tells_steps_without_effect(caplog: pytest.LogCaptureFixture) -> None:
    command = ["trace", "--model", "tiny", "--prompt", "Anna", "--length", "4", "--decode"]
    with caplog.at_level(logging.WARNING):
        assert main([*command, "strategy=window,steps=2"]) == 0
        assert main([*command, "strategy=window,steps=none"]) == 0
        assert main([*command, "strategy=confidence,steps=2"]) == 0
    [line] = caplog.messages
    assert line.startswith("steps=2 has no effect with strategy 'window'")
