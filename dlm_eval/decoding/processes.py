"""Which decode settings mean something to models of which process.

A user who names a setting that their model cannot use gets an error. A task's YAML is written for all models: what the model's process
cannot use gives way to the process's own default (`fit_task`), and the result lists it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dlm_eval.decoding.checks import MEANINGLESS, OWN
from dlm_eval.decoding.registry import STRATEGY_NAMES, default_strategy, strategy


def supports(process: str, name: str, value: Any) -> bool:
    """Returns whether models of `process` can use setting `name` at all."""
    strategies = [strategy(each) for each in STRATEGY_NAMES if process in strategy(each).processes]
    if name == "strategy":
        return str(value) not in STRATEGY_NAMES or strategy(str(value)) in strategies
    if name == "schedule":
        return any(each.schedule is not None or "quota_is" in each.options for each in strategies)
    if name in OWN and not any(name in each.options for each in strategies):
        return False
    return name not in MEANINGLESS[process]


def fit_task(settings: Mapping[str, Any], process: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Returns a task's decode settings that models of `process` can use, and those that give way to the process's default.

    Settings of a strategy go with it; a strategy that no table knows stays, to be refused by name.
    """
    if not supports(process, "strategy", settings.get("strategy", default_strategy(process))):
        own = strategy(default_strategy(process)).options
        lost = {name for name in settings if name in ("strategy", "schedule") or (name in OWN and name not in own)}
    else:
        lost = set()
    lost |= {name for name, value in settings.items() if not supports(process, name, value)}
    kept = {name: value for name, value in settings.items() if name not in lost}
    return kept, {name: value for name, value in settings.items() if name in lost}
