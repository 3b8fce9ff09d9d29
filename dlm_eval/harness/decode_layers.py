"""Layers of decode settings as a task's YAML, a suite's entry or a user writes them, and what is left of
one under another.

Lengths and stop strings have several names (`LENGTH_KEYS`, `STOP_KEYS`). A layer may name a preset.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from dlm_eval.decoding import default_strategy, expand, overridden, setting_names
from dlm_eval.decoding.caches import CACHE_OPTIONS, Exact, cache_class
from dlm_eval.decoding.strategy import STEPS, STRATEGIES, users_of
from dlm_eval.errors import UserError, unknown_name_error
from dlm_eval.harness.requests import HOLE, Hole
from dlm_eval.models import process_of, strategy_of
from dlm_eval.options import option_names
from dlm_eval.settings import typed_texts

LENGTH_KEYS = ("gen_length", "max_gen_toks", "max_new_tokens", "max_tokens")
STOP_KEYS = ("until", "stop")  # two names of one setting: lm-eval's, and that of most APIs
SCHEDULED = ("schedule", "batch_mean_quota")  # a schedule, and what belongs to it
AR_KEYS = (
    "do_sample", "temperature", "top_p", "top_k", "min_p", "num_beams", "num_return_sequences", "repetition_penalty",
    "length_penalty", "early_stopping", "use_cache", "min_length", "min_new_tokens", "max_length", "presence_penalty",
    "frequency_penalty", "seed", "typical_p", "n", "best_of", "no_repeat_ngram_size",
)  # fmt: skip


def task_layer(arguments: Mapping[str, Any], user: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the decode settings in a request's gen_kwargs, without those of autoregressive models and
    without stop strings.

    Args:
        user: the user's settings, which may name a strategy of a file.

    Raises:
        UserError: a key is unknown.
    """
    known = [name for name in setting_names(arguments, user) if name != "until"]
    found: dict[str, Any] = {}
    for key, value in arguments.items():
        name = key.removeprefix("decode_")
        of_others = key in STOP_KEYS or (key in AR_KEYS and key not in LENGTH_KEYS)
        if isinstance(value, Hole) or of_others:
            continue
        if name not in (*known, *LENGTH_KEYS, "preset"):
            raise unknown_name_error(
                "generation_kwargs", key, (*known, *LENGTH_KEYS, "until", "preset")
            )
        found[name] = value
    return found


def user_layer(gen_kwargs: Mapping[str, Any], decode: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the user's settings: --decode overrides --gen_kwargs, whose `do_sample` is ignored.

    Raises:
        UserError: a key is unknown; the message names its option.
    """
    generic = {
        key.removeprefix("decode_"): value
        for key, value in gen_kwargs.items()
        if key != "do_sample"
    }
    known = user_keys(generic, decode)
    for option, keys in (("--gen_kwargs", generic), ("--decode", decode)):
        for key in keys:
            if key not in known:
                raise unknown_name_error(option, key, known)
    return replaced_by(generic, decode)


def replaced_by(settings: Mapping[str, Any], others: Mapping[str, Any]) -> dict[str, Any]:
    """Returns `settings` with `others` in their place. Length and stop strings have several names."""
    names = {
        name
        for group in (LENGTH_KEYS, STOP_KEYS)
        if any(key in others for key in group)
        for name in group
    }
    left = {key: value for key, value in settings.items() if key not in names}
    return overridden(left, others)


def entry_layer(
    entry: Mapping[str, Any], user: Mapping[str, Any], model: str = ""
) -> dict[str, Any]:
    """Returns the decode settings of a suite's entry with the user's in their place: a preset
    replaces them whole, and another strategy comes without the options of the entry's, and without
    its steps if they had no effect.

    Args:
        entry: its `decode`.
        user: from `user_layer`.
        model: its name, if the strategy of an entry that names none is to be known.
    """
    if user.get("preset") is not None:
        return dict(user)
    if entry.get("preset") == "authors":
        return replaced_by(entry, user)
    usual = usual_strategy(model) if model else None
    whole = without_options(entry, user, usual)
    if whole is not entry and user.get("schedule") is None:
        strategy = STRATEGIES.find(str(strategy_in(user)), "decode strategy")
        lost = STEPS if strategy.ignores_steps and strategy.default_schedule is None else ()
        whole = {key: value for key, value in whole.items() if key not in lost}
    return replaced_by(whole, user)


def usual_strategy(model: str) -> str:
    """Returns the strategy of a model that is not loaded, if nothing names one."""
    return strategy_of(model) or default_strategy(process_of(model, {}) or "absorbing")


def strategy_in(*layers: Mapping[str, Any]) -> str | None:
    """Returns the strategy of the last layer that names one, or None."""
    named = (expand(layer).get("strategy") for layer in reversed(layers))
    return next((str(name) for name in named if name is not None), None)


def length_of(decode: Mapping[str, Any]) -> int | None:
    """Returns the number of tokens that decode settings or their preset ask for; None without one.

    Raises:
        UserError: it is no whole number above 0.
    """
    authors = decode.get("preset") == "authors"  # which differ by model and task
    return length_in([{**decode, "preset": None} if authors else expanded(decode)])


def without_options(
    task: Mapping[str, Any], user: Mapping[str, Any], usual: str | None = None
) -> Mapping[str, Any]:
    """Returns a task's settings; if the user names another strategy, without the strategy of the task,
    its options and its schedule, and without what the user's refuses.

    Args:
        usual: the strategy of a task that names none; None if it is not known.
    """
    ours, theirs = strategy_in(task) or usual, strategy_in(user)
    if theirs in (None, ours):
        return task
    left = usable(expanded(task), str(theirs))
    return {
        key: value
        for key, value in left.items()
        if key not in ("strategy", *SCHEDULED) and not users_of(key)
    }


def usable(task: Mapping[str, Any], strategy: str) -> dict[str, Any]:
    """Returns a task's settings without those that `strategy` refuses, and options of other strategies."""
    cls = STRATEGIES.find(strategy, "decode strategy")
    refused = set(cls.refused_settings())
    if cls.why_not_cache(cache_class(str(task.get("cache", Exact.name)))):
        refused |= {"cache", *CACHE_OPTIONS}
    if "schedule" in refused:
        refused |= set(SCHEDULED)
    own = option_names(cls)
    return {
        key: value
        for key, value in task.items()
        if key not in refused and (key in own or not users_of(key))
    }


def expanded(layer: Mapping[str, Any]) -> dict[str, Any]:
    """Returns a layer with its `preset`, if any, replaced by the preset's settings, which the
    layer's own override.
    """
    own = {key: value for key, value in layer.items() if key != "preset"}
    return replaced_by(expand({"preset": layer.get("preset")}), own)


def user_keys(*layers: Mapping[str, Any]) -> list[str]:
    """Returns the keys a user may set: decode settings, also of plug-ins, length, stop strings."""
    return list(dict.fromkeys([*setting_names(*layers), *LENGTH_KEYS, *STOP_KEYS, "preset"]))


def is_our_argument(key: str) -> bool:
    """Returns whether a generation argument is only for diffusion language models."""
    return (
        key == HOLE
        or key.startswith("decode_")
        or (key in (*setting_names(), "preset", "gen_length") and key not in (*AR_KEYS, "until"))
    )


def length_in(layers: Sequence[Mapping[str, Any]]) -> int | None:
    """Returns the length in tokens from the last layer that sets it, or None."""
    for layer in reversed(layers):
        for key in LENGTH_KEYS:
            if layer.get(key) is not None:
                return _positive(key, layer[key])
    return None


def _positive(key: str, value: Any) -> int:
    try:
        number = int(value)
    except (TypeError, ValueError):
        number = 0
    if number < 1:
        raise UserError(f"{key} '{value}' is not allowed; it must be a whole number of at least 1")
    return number


def stop_texts(task: Mapping[str, Any], user: Mapping[str, Any]) -> tuple[str, ...]:
    """Returns the stop strings of a user, or those of a task if the user gives none.

    Raises:
        UserError: both names are set, or a value is neither a text nor a list of texts.
    """
    own = _stop(user)
    return _texts(_stop(task)) if own is None else _typed(own)


def _stop(layer: Mapping[str, Any]) -> Any:
    """Returns the stop strings of a layer (`until` or `stop`), or None.

    Raises:
        UserError: both names are set.
    """
    given = [key for key in STOP_KEYS if layer.get(key) is not None]
    if len(given) > 1:
        raise UserError("until and stop are two names of one setting; give one")
    return layer[given[0]] if given else None


def _texts(value: Any) -> tuple[str, ...]:
    """Returns the texts of a task's setting, which is one text or a list."""
    if value is None:
        return ()
    if isinstance(value, str):
        return (value,)
    if isinstance(value, Sequence):
        return tuple(str(item) for item in value)
    raise UserError(
        f"generation_kwargs '{value}' is not allowed; it must be a text or a list of texts"
    )


def _typed(value: Any) -> tuple[str, ...]:
    try:
        return typed_texts(value)
    except TypeError:
        raise UserError(
            f"until '{value}' is not allowed; it must be a text or a list of texts"
        ) from None
