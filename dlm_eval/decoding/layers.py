"""Decode settings by name: `--decode k=v,...`, task YAMLs and presets are layers of them.

`resolve` makes one `DecodeSettings` of layers; `fit_task` leaves out what a model's process cannot use.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

from dlm_eval.decoding.caches import (
    CACHE_OPTIONS,
    CACHES,
    DecodeCache,
    Exact,
    cache_class,
    caches_with,
)
from dlm_eval.decoding.presets import preset_settings
from dlm_eval.decoding.settings import FIELDS, GENERAL, DecodeSettings
from dlm_eval.decoding.strategy import STEPS, STRATEGIES, default_strategy, strategies_for, users_of
from dlm_eval.errors import UserError, unknown_name_error
from dlm_eval.options import cast_options, option_names, parse_options, speed_options


def expand(layer: Mapping[str, Any]) -> dict[str, Any]:
    """Returns a layer with its `preset`, if any, replaced by the preset's settings.

    The layer's own keys override the preset's.
    """
    own = {key: value for key, value in layer.items() if key != "preset"}
    return overridden(preset_settings(str(layer["preset"])), own) if layer.get("preset") else own


def overridden(settings: Mapping[str, Any], others: Mapping[str, Any]) -> dict[str, Any]:
    """Returns `settings` with `others` in their place; `steps` and `steps_per_block` replace each other,
    and another cache comes without the options of the one that it replaces.
    """
    lost = set(STEPS) if any(name in others for name in STEPS) else set()
    if "cache" in others and str(others["cache"]) != settings.get("cache"):
        lost |= set(CACHE_OPTIONS)
    return {**{key: value for key, value in settings.items() if key not in lost}, **others}


def resolve(*layers: Mapping[str, Any], length: int | None = None) -> DecodeSettings:
    """Returns the settings of `layers`; later layers override earlier ones, and keys of a layer
    override its preset.

    Args:
        layers: settings by name, each with an optional `preset`. Texts are cast; `steps` may be
            'length'. A preset's `gen_length` is ignored here, since it sets the length of a hole.
            None for a strategy's option means its default.
        length: number of open positions to check against, if known.

    Raises:
        UserError: a key is unknown or a value is not allowed; one line with the nearest name.
    """
    merged: dict[str, Any] = {}
    for layer in layers:
        own = expand(layer)
        if layer.get("preset"):
            own.pop("gen_length", None)
        merged = overridden(merged, own)
    if merged.get("steps") == "length":
        merged["steps"] = None
    settings = _build(merged)
    if length is not None:
        settings.check(length)
    return settings


def _build(values: Mapping[str, Any]) -> DecodeSettings:
    """Returns the settings with these values."""
    cls = STRATEGIES.find(str(values.get("strategy", "confidence")), "decode strategy")
    own = {
        name: value
        for name, value in values.items()
        if name not in ("strategy", *GENERAL) and not _is_none(value)
    }
    for name in values:
        if name in ("strategy", *GENERAL) or name in option_names(cls):
            continue
        if not (users := users_of(name)):
            raise unknown_name_error("decode", name, setting_names())
        if name in own:
            raise UserError(
                f"decode {name} is not used by strategy '{cls.name}'; it belongs to "
                f"{', '.join(users)}"
            )
    strategy = parse_options(cls, own, "decode", needed_by=f"decode strategy '{cls.name}'")
    general = cast_general(values, "decode")
    if general.get("step_texts"):
        general.setdefault("early_exit", False)
    return DecodeSettings(strategy=strategy, cache=_cache(values), **general)


def _is_none(value: Any) -> bool:
    return value is None or str(value).lower() in ("none", "null")


def _cache(values: Mapping[str, Any]) -> DecodeCache:
    """Returns the cache that `values` name, with its options."""
    name = str(values.get("cache", Exact.name))
    cls = cache_class(name)
    own = {
        key: value for key, value in values.items() if key in CACHE_OPTIONS and not _is_none(value)
    }
    for key, value in own.items():
        if key not in option_names(cls):
            users = ", ".join(f"cache={user}" for user in caches_with(key))
            raise UserError(
                f"decode {key} '{value}' is not used with cache '{name}'; it belongs to {users}"
            )
    return parse_options(cls, own, "decode", needed_by=f"decode cache '{name}'")


def cast_general(values: Mapping[str, Any], what: str) -> dict[str, Any]:
    """Returns those of `values` that are neither of a strategy nor of a cache, cast to their types.

    Args:
        what: text before a setting's name in an error.

    Raises:
        UserError: a value that cannot be cast, or the name of a cache that does not exist.
    """
    cache_class(str(values.get("cache", Exact.name)))
    general = {name: value for name, value in values.items() if name in FIELDS}
    return cast_options(DecodeSettings, general, what)


# -- names --------------------------------------------------------------------------------------------


def setting_names(*layers: Mapping[str, Any]) -> list[str]:
    """Returns the names of all settings: the strategy, general ones and those of every cache and
    strategy.

    Args:
        layers: settings by name; one of them may name a strategy from a user's file.

    Raises:
        UserError: that file cannot be used.
    """
    own = [
        name
        for cls in STRATEGIES.listed().values()
        if not isinstance(cls, str)
        for name in option_names(cls)
    ]
    for layer in layers:
        if (name := str(layer.get("strategy") or "")) and name not in STRATEGIES.names():
            own += option_names(STRATEGIES.find(name, "decode strategy"))
    return list(dict.fromkeys(["strategy", *GENERAL, *own]))


def speed_settings(strategy: str | None = None) -> frozenset[str]:
    """Returns the names of the settings that trade quality for speed: those of every decoder, of the
    caches, and of a strategy.

    Args:
        strategy: its name; None for all that are known by name.

    Raises:
        UserError: there is no such strategy.
    """
    listed = (cls for cls in STRATEGIES.listed().values() if not isinstance(cls, str))
    owners = listed if strategy is None else [STRATEGIES.find(strategy, "decode strategy")]
    classes = (DecodeSettings, *CACHES.values(), *owners)
    return _speed_options(*classes)


@functools.lru_cache(maxsize=256)
def _speed_options(*classes: type) -> frozenset[str]:
    return frozenset(name for cls in classes for name in speed_options(cls))


# -- which settings mean something to which process ------------------------------------------------
# If a user sets a setting that the model cannot use, that is an error. A task's YAML is written for
# all models: a setting that the model's process cannot use is replaced by the process's default,
# and the result lists it.


def supports(process: str, name: str, value: Any) -> bool:
    """Returns whether models of `process` can use setting `name` at all."""
    strategies = strategies_for(process)
    if name == "strategy":
        return value not in STRATEGIES.names() or STRATEGIES.find(str(value)) in strategies
    if name == "schedule":
        return any(cls.takes_schedule for cls in strategies)
    if name in CACHE_OPTIONS:
        name = "cache"
    if name not in GENERAL and not users_of(name):
        return True  # unknown: a later error names it
    return any(
        (name in GENERAL or name in option_names(cls)) and name not in cls.unused_settings(process)
        for cls in strategies
    )


def fit_task(settings: Mapping[str, Any], process: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Returns a task's decode settings that models of `process` can use, and those that are
    replaced by defaults.

    If a strategy is replaced, its options are too. An unknown strategy stays; a later error names
    it.
    """
    lost = set()
    if not supports(process, "strategy", settings.get("strategy", default_strategy(process))):
        own = option_names(strategies_for(process)[0])
        of_others = {
            name for name in settings if name not in GENERAL and name not in own and users_of(name)
        }
        lost = {name for name in settings if name in ("strategy", "schedule")} | of_others
    lost |= {name for name, value in settings.items() if not supports(process, name, value)}
    kept = {name: value for name, value in settings.items() if name not in lost}
    return kept, {name: value for name, value in settings.items() if name in lost}
