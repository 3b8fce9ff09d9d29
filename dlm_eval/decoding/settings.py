"""Decode settings: the general ones, and a strategy with its own options.

`--decode k=v,...`, task YAMLs and presets are layers of settings by name; `resolve` makes one
`DecodeSettings` of them.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, Literal

from dlm_eval.decoding.caches import (
    CACHE_OPTIONS,
    CACHES,
    DecodeCache,
    Exact,
    cache_class,
    caches_with,
)
from dlm_eval.decoding.draw import TopPRule
from dlm_eval.decoding.presets import preset_settings
from dlm_eval.decoding.strategy import (
    STEPS,
    STRATEGIES,
    Strategy,
    default_strategy,
    not_for,
    strategies_for,
    users_of,
)
from dlm_eval.errors import UserError, unknown_name_error
from dlm_eval.options import (
    cast_options,
    check_options,
    default_of,
    option,
    option_names,
    parse_options,
    speed_options,
    value_error,
)

# Settings that are not named at their defaults, so that answers of older journals stay known.
LATER = {"step_texts": False, "align_inputs_to_blocks": True}
PER_STEP = ("even", "carry")  # schedules that write at least one token per step


@dataclass(frozen=True, kw_only=True)
class DecodeSettings:
    """How open positions are filled. `resolve` builds one from settings by name."""

    strategy: Strategy
    steps: int | None = option(
        None,
        least=1,
        help="steps for the whole hole, shared evenly among its blocks; None: one per token (10 "
        "for models of process 'uniform', 200 for"
        " 'gaussian', 48 a canvas for 'canvas')",
        speed=True,
    )
    steps_per_block: int | None = option(
        None, least=1, help="steps for each block, in place of steps", speed=True
    )
    block_length: int | None = option(
        None,
        least=1,
        help="open positions that are filled before the next ones (semi-autoregressive); None: the "
        "whole hole, or the model's own"
        " block",
    )
    align_inputs_to_blocks: bool = option(
        True,
        help="whether the model's own blocks are counted from position 0; else from the end of the "
        "prompt (E2D2)",
    )
    schedule: Literal["even", "carry", "linear", "cosine", "timestep"] | None = option(
        None, help="tokens per step; None is the strategy's own"
    )
    eps: float = option(1e-3, least=0, below=1, help="end of the 'timestep' grid")
    batch_mean_quota: tuple[int, ...] = option(
        (),
        help="lengths of the holes that shared a batch in Dream's code, which uses the mean of "
        "their open positions for all quotas;"
        " empty: each hole has its own quota (schedule 'timestep')",
    )
    temperature: float = option(
        0.0,
        least=0,
        help="0 writes the most probable token, otherwise one is drawn at this temperature",
    )
    top_p: float = option(
        1.0, above=0, most=1, help="draws from the nucleus of this probability only; 1 is off"
    )
    top_k: int = option(0, least=0, help="draws from the k most probable tokens only; 0 is off")
    top_p_rule: TopPRule = option(
        "inclusive",
        help="whether the token with which the probability first exceeds top_p is kept "
        "('inclusive') or dropped ('exclusive': MDLM, BD3LM,"
        " ReMDM); 'after_top_k' is 'inclusive' among the top_k most probable (SDAR, LLaDA2, "
        "WeDLM), not before them (Dream)",
    )
    logits_temp: float = option(
        1.0,
        above=0,
        help="divides the logits first (DiffuLLaMA): probabilities change, the best token does not",
    )
    confidence_from: Literal["raw", "sampling"] = option(
        "raw",
        help="whether confidence is read from the model's own distribution ('raw', LLaDA) or from "
        "the tempered, restricted one that tokens"
        " are drawn from ('sampling': Dream, SDAR)",
    )
    guidance: float = option(
        0.0,
        least=0,
        help="weight w of classifier-free guidance, 0 for none; the unconditional pass sees only "
        "mask tokens in place of the given text",
    )
    guidance_convention: Literal["llada", "dream"] = option(
        "llada",
        help="'llada' adds (w + 1), 'dream' w times the difference of conditional and "
        "unconditional logits to the latter",
    )
    logits_eos_inf: bool = option(False, help="the end-of-text token cannot be written")
    confidence_eos_eot_inf: bool = option(
        False,
        help="end tokens count as probability 0 when positions are chosen; they can still be "
        "written, but last",
    )
    allow_mask: bool = option(
        True,
        help="whether the mask token can itself be written (LLaDA's and Dream's code allow it)",
    )
    samples: int = option(
        1, least=1, help="fillings that are drawn; the best is kept (forwards counts all)"
    )
    rerank: Literal["probability", "score"] = option(
        "probability",
        help="the best sample has the highest mean log-probability of its tokens: when they were "
        "written ('probability'), or given"
        " the whole filling ('score'; one more row for each sample)",
    )
    length_beam: int = option(
        0,
        least=0,
        help="number of lengths from the model's length head; each is filled, and the filling with "
        "the highest mean log-probability"
        " is kept (DiffusionLLM); 0 fills the hole as it is",
    )
    lengths: tuple[int, ...] = option(
        (),
        least=1,
        help="lengths that are tried for a hole of unknown length, as [8,16,32]; each is filled, and "
        "the filling with the highest mean log-probability is kept; empty: the hole as it is",
    )
    cache: DecodeCache = option(
        Exact(),
        help="KV cache: 'exact' (causal and block-causal models; changes no token), 'none', or an "
        "approximate one for full attention: 'prefix' and 'dual' (Fast-dLLM), 'dllm' (dLLM-Cache), "
        "'dkv' (dKV-Cache), 'd2' (d2Cache)",
    )
    until: tuple[str, ...] = option(
        (), help="stop strings; text from the first one on is not visible"
    )
    early_exit: bool = option(
        True,
        help="stop when all visible text is final; open positions stay blank (off by default with "
        "step_texts)",
    )
    step_texts: bool = option(
        False,
        help="keep with the answer what the text would be after each step if all its candidates were "
        "written, for a vote over steps (`--vote` sets it)",
    )

    def __post_init__(self) -> None:
        check_options(self, "decode")
        if self.batch_mean_quota and (
            self.schedule != "timestep" or min(self.batch_mean_quota) < 1
        ):
            allowed = "lengths of at least 1, under schedule 'timestep'"
            raise value_error("decode batch_mean_quota", list(self.batch_mean_quota), allowed)
        if taken := [name for name in option_names(type(self.strategy)) if name in TAKEN]:
            raise UserError(
                f"decode strategy '{self.strategy.name}': option '{taken[0]}' is the name of a "
                "general setting; choose another"
            )
        if self.length_beam and self.lengths:
            raise UserError("decode length_beam and lengths exclude each other; give one of them")
        self.strategy.refuse(self)
        if self.step_texts:
            self._check_step_texts()
        if self.cache.approximate and self.guidance:
            raise UserError(
                f"decode cache '{self.cache.name}' and guidance '{self.guidance}' exclude each other; "
                "leave one out"
            )
        if self.steps is not None and self.steps_per_block is not None:
            raise UserError("decode steps and steps_per_block exclude each other; give one of them")

    def _check_step_texts(self) -> None:
        """Raises UserError if not every step has candidates of all open positions."""
        if (reason := self.strategy.why_no_step_texts) is not None:
            raise UserError(
                f"decode step_texts (--vote) is not possible with strategy '{self.strategy.name}': "
                f"{reason}"
            )
        if self.cache.approximate:
            raise UserError(
                f"decode step_texts (--vote) and cache '{self.cache.name}' exclude each other: its steps "
                "do not compute all open positions; leave one out"
            )
        if self.early_exit:
            raise UserError(
                "decode step_texts (--vote) and early_exit exclude each other, since all steps have a "
                "vote; leave one out"
            )

    @property
    def guidance_factor(self) -> float:
        """Factor f of guided logits u + f (c - u); 1 means unguided."""
        if self.guidance == 0:
            return 1.0
        return self.guidance + (self.guidance_convention == "llada")

    @property
    def is_random(self) -> bool:
        """Whether answers depend on random numbers."""
        return self.temperature > 0 or self.strategy.is_random

    @property
    def uses_own_length(self) -> bool:
        """Whether a hole is filled at its own length, and not at one that is predicted or tried."""
        return not (self.length_beam or self.lengths)

    def finds_length(self, fixed: bool) -> bool:
        """Returns whether the text's length is decided while it is written, and not told.

        It is if lengths are predicted or tried, or if the strategy decides it and the hole has one
        length for all documents. A hole as long as the document's answer tells it to any strategy.

        Args:
            fixed: whether the task's holes have the same length for all documents.
        """
        return not self.uses_own_length or (fixed and self.strategy.finds_length)

    @property
    def schedule_in_use(self) -> str | None:
        """The schedule that is used, or None."""
        return self.schedule or self.strategy.default_schedule

    @property
    def approximation(self) -> str:
        """What changes tokens to save time, for tables; "" if nothing does."""
        return f"approximate cache {self.cache.name}" if self.cache.approximate else ""

    def identity(self) -> dict[str, Any]:
        """Returns all settings by name, those of strategy and cache too, for result files and
        journal keys.
        """
        general = {name: vars(self)[name] for name in FIELDS}
        for name, usual in LATER.items():
            if general[name] == usual:
                del general[name]
        return {**self.strategy.identity(), **general, **self.cache.identity()}

    def check(self, length: int, block: int | None = None) -> None:
        """Raises UserError if the settings do not fit a hole of `length` open positions.

        Under `length_beam` and `lengths` they are adapted to each length (`fitted`).

        Args:
            length: number of open positions (an empty hole fits all settings).
            block: block length of a block-causal model, whose blocks are at absolute positions,
                else None.
        """
        if length == 0:
            return
        if block is not None and block % (self.block_length or block):
            allowed = f"{block}, the block of this model, or a divisor of it"
            raise value_error("decode block_length", self.block_length, allowed)
        if not self.uses_own_length:
            return
        if self.steps is not None and self.steps > length and self.schedule_in_use in PER_STEP:
            raise value_error("decode steps", self.steps, f"at most the {length} open positions")
        if block is not None or self.block_length is None:
            return
        # without a schedule, the last block may be shorter
        if length % self.block_length and self.schedule_in_use is not None:
            raise value_error(
                "decode block_length",
                self.block_length,
                f"a divisor of the {length} open positions",
            )
        blocks = -(-length // self.block_length)
        if self.steps is not None and self.steps % blocks:
            raise value_error("decode steps", self.steps, f"a multiple of the {blocks} blocks")

    def check_process(self, process: str) -> None:
        """Raises UserError if a changed setting has no meaning for models of `process`."""
        if process not in self.strategy.processes:
            raise not_for(self.strategy, process)
        defaults = {
            own.name: default_of(own) for part in (self, self.strategy) for own in fields(part)
        }
        defaults["cache"] = Exact.name
        values = self.identity()
        for name in self.strategy.unused_settings(process):
            if values[name] != defaults[name]:
                raise UserError(
                    f"decode {name} '{values[name]}' means nothing to a model of process "
                    f"'{process}'; leave it out"
                )

    def canonical(self, length: int, process: str, block: int | None) -> DecodeSettings:
        """Returns the simplest settings with the same answer for a hole of `length` positions.

        `steps` equal to the number of tokens becomes None, and samples that would all be equal
        become one. `block` is as in `check`.
        """
        if not self.is_random:
            self = replace(self, samples=1, rerank="probability")
        whole = length % (self.block_length or length) == 0
        one_per_token = self.strategy.default_steps(process) is None
        own = self.uses_own_length
        redundant = self.steps == length and whole and one_per_token and block is None and own
        return replace(self, steps=None) if redundant else self

    def fitted(self, length: int) -> DecodeSettings:
        """Returns the settings adapted to a hole of `length` positions.

        Even schedules get at most one step per token. A block length that does not divide the hole
        is replaced by the whole hole.
        """
        steps, block = self.steps, self.block_length
        if block is not None and length % block:
            block = None
        if steps is not None and self.schedule_in_use in PER_STEP:
            blocks = length // block if block else 1
            steps = max(1, min(steps, length) // max(blocks, 1)) * max(blocks, 1)
        return replace(self, steps=steps, block_length=block)

    def why_no_checkpoint(self, process: str) -> str | None:
        """Returns why an interrupted canvas must start again instead of resuming, or None."""
        if (reason := self.strategy.why_no_checkpoint(process)) is not None:
            return reason
        if self.cache.lasts == "canvas":
            return f"cache={self.cache.name}"
        if self.length_beam:
            return "length_beam"
        if self.lengths:
            return "lengths"
        return "several samples" if self.samples > 1 and self.is_random else None


FIELDS = tuple(name for name in option_names(DecodeSettings) if name not in ("strategy", "cache"))
GENERAL = (*FIELDS, "cache", *CACHE_OPTIONS)  # settings that do not belong to a strategy
# names that a strategy cannot give to an option
TAKEN = (*GENERAL, "strategy", "preset", "gen_length")


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


# -- layers ----------------------------------------------------------------------------------------


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
