"""Merge decode settings: built-in defaults < task YAML < command line.

YAMLs for autoregressive models have `temperature: 0.0`, `do_sample: false` and the like. These do
not apply to a diffusion sampler and are ignored. A YAML that sets our sampler's temperature writes
`decode_temperature`.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from dlm_eval.decoding import (
    DecodeSettings,
    default_strategy,
    expand,
    fit_task,
    overridden,
    resolve,
    setting_names,
)
from dlm_eval.decoding.caches import CACHE_OPTIONS, Exact, cache_class
from dlm_eval.decoding.presets import authors_preset
from dlm_eval.decoding.strategy import STEPS, STRATEGIES, users_of
from dlm_eval.errors import UserError, unknown_name_error
from dlm_eval.harness.requests import HOLE, Hole, Length
from dlm_eval.models import checkpoints, process_of, strategy_of
from dlm_eval.models.denoiser import Denoiser
from dlm_eval.options import option_names
from dlm_eval.printable import counted
from dlm_eval.settings import typed_texts

log = logging.getLogger(__name__)
# Number of open positions if neither the task nor the user sets it. A model with fewer than 512
# positions uses half of them.
DEFAULT_LENGTH = 256
LENGTH_KEYS = ("gen_length", "max_gen_toks", "max_new_tokens", "max_tokens")
STOP_KEYS = ("until", "stop")  # two names of one setting: lm-eval's, and that of most APIs
SCHEDULED = ("schedule", "batch_mean_quota")  # a schedule, and what belongs to it
AR_KEYS = (
    "do_sample", "temperature", "top_p", "top_k", "min_p", "num_beams", "num_return_sequences", "repetition_penalty",
    "length_penalty", "early_stopping", "use_cache", "min_length", "min_new_tokens", "max_length", "presence_penalty",
    "frequency_penalty", "seed", "typical_p", "n", "best_of", "no_repeat_ngram_size",
)  # fmt: skip


@dataclass(frozen=True)
class Request:
    """The settings of one generate_until request, without autoregressive defaults.

    Attributes:
        hole: the hole to fill.
        until: stop strings.
        layers: decode settings of the process, the task and the user, with presets expanded.
        preset: preset in effect (with 'authors' resolved), or None.
        replaced: the task's settings that the model's process, or its default strategy, cannot use.
            Their defaults replace them.
        plans: (length, whether the length is fixed) -> plan (`DecodePlans`). Requests of one task
            share them.
    """

    hole: Hole
    until: tuple[str, ...]
    layers: tuple[Mapping[str, Any], ...]
    preset: str | None = None
    replaced: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    plans: dict[tuple[int, bool], DecodePlan] = dataclasses.field(
        default_factory=dict, compare=False, repr=False
    )


@dataclass(frozen=True)
class DecodeOptions:
    """Converts requests to decode settings.

    Attributes:
        user: the user's settings, which override all others.
        checkpoint: named checkpoint, for `preset=authors`.
        default_length: number of open positions if no length is set.
        process: the model's process, which determines the default strategy.
        family: the model's family, for presets of a whole family.
        strategy: the model's default strategy; empty for that of its process.
    """

    user: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    checkpoint: str = ""
    default_length: int = DEFAULT_LENGTH
    process: str = "absorbing"
    family: str = ""
    strategy: str = ""

    @classmethod
    def of(
        cls, user: Mapping[str, Any], model: Denoiser, default_length: int | None = None
    ) -> DecodeOptions:
        """Returns the options for requests to `model`."""
        facts = model.describe()
        checkpoint, family = (str(facts.get(name) or "") for name in ("checkpoint", "family"))
        length = default_length or min(DEFAULT_LENGTH, max(1, model.max_length // 2))
        strategy = default_strategy(model.process, model)
        return cls(user, checkpoint, length, model.process, family, strategy)

    @classmethod
    def before_loading(
        cls,
        user: Mapping[str, Any],
        name: str,
        arguments: Mapping[str, Any],
        default_length: int = DEFAULT_LENGTH,
    ) -> DecodeOptions:
        """Returns the options for requests to a model that is not loaded.

        Args:
            name: of the model (`--model`).
            arguments: its options (`--model_args`).
        """
        process, strategy = process_of(name, arguments) or "absorbing", strategy_of(name)
        known = checkpoints().get(str(arguments.get("checkpoint") or name))
        checkpoint, family = (known.name, known.family) if known else ("", "")
        return cls(user, checkpoint, default_length, process, family, strategy)

    def __post_init__(self) -> None:
        known = user_keys(self.user)
        for key in self.user:
            if key not in known:
                raise unknown_name_error("--decode", key, known)

    @property
    def usual_strategy(self) -> str:
        """The strategy of a request that names none."""
        return self.strategy or default_strategy(self.process)

    @property
    def kind(self) -> str:
        """The kind of model, in warnings."""
        if self.usual_strategy != default_strategy(self.process):
            return f"a model with strategy '{self.usual_strategy}'"
        return f"a model of process '{self.process}'"

    def request(self, arguments: Mapping[str, Any], task: str = "") -> Request:
        """Returns the settings of a request from its gen_kwargs and the user's settings.

        Raises:
            UserError: a key is unknown.
        """
        own: dict[str, Any] = {}
        known = [name for name in setting_names(arguments, self.user) if name != "until"]
        for key, value in arguments.items():
            name = key.removeprefix("decode_")
            if (
                isinstance(value, Hole)
                or key in STOP_KEYS
                or (key in AR_KEYS and key not in LENGTH_KEYS)
            ):
                continue
            if name not in (*known, *LENGTH_KEYS, "preset"):
                raise unknown_name_error(
                    "generation_kwargs", key, (*known, *LENGTH_KEYS, "until", "preset")
                )
            own[name] = value
        if self.user.get("preset") == "authors":  # the authors' settings replace the task's
            own = {key: value for key, value in own.items() if key in LENGTH_KEYS}
        elif self.user.get("preset") is not None:  # one preset replaces another whole
            own.pop("preset", None)
        usual = self.usual_strategy
        base = {"strategy": usual}
        named = [self._named(layer, task) for layer in (own, self.user)]
        named[0] = _without_options(named[0], named[1], usual)
        fitting, replaced = fit_task(_expanded(named[0]), self.process)
        if usual != default_strategy(self.process) and not _strategy(fitting, named[1]):
            kept = _usable(fitting, usual)  # of a task that is written for other models
            replaced |= {key: value for key, value in fitting.items() if key not in kept}
            fitting = kept
        if replaced:
            named[0] = fitting  # these are no longer the preset's settings
        layers = (base, fitting, _expanded(named[1]))
        return Request(
            hole=arguments.get(HOLE) or Hole(Length(_length(layers) or self.default_length)),
            until=_texts(_stop(arguments))
            if _stop(self.user) is None
            else _typed(_stop(self.user)),
            layers=tuple(
                {k: v for k, v in layer.items() if k not in (*LENGTH_KEYS, *STOP_KEYS)}
                for layer in layers
            ),
            preset=next(
                (str(layer["preset"]) for layer in reversed(named) if layer.get("preset")), None
            ),
            replaced=replaced,
        )

    def _named(self, layer: Mapping[str, Any], task: str) -> Mapping[str, Any]:
        if layer.get("preset") != "authors":
            return layer
        return {**layer, "preset": authors_preset(self.checkpoint, task, self.family)}

    def resolved(self, ask: Request) -> DecodeSettings:
        """Returns the settings of a request before the length of its hole is known.

        Without randomness all samples are equal, so only one is drawn.
        """
        settings = resolve(*ask.layers)
        return settings if settings.is_random else dataclasses.replace(settings, samples=1)

    def settings(self, ask: Request, length: int) -> DecodeSettings:
        """Returns the resolved settings for a hole of `length` tokens.

        If the length depends on the document (oracle lengths, several holes), the settings are adapted: at most
        one step per token, and no block length that does not divide the hole. Otherwise the hole
        must fit the settings exactly. If other lengths are tried, nothing depends on its own.
        """
        settings = dataclasses.replace(self.resolved(ask), until=ask.until)
        if ask.hole.sets(length) or not settings.uses_own_length:
            settings.check(length)
            return settings
        return settings.fitted(length)


@dataclass(frozen=True)
class DecodePlan:
    """How a task's holes of one length are decoded.

    Attributes:
        job: settings of the job, in canonical form.
        draws: whether answers depend on random numbers.
        described: entries for the record of a request.
    """

    job: DecodeSettings
    draws: bool
    described: Mapping[str, Any]


class DecodePlans:
    """The decode settings of a run, resolved once for each task and length."""

    def __init__(self, options: DecodeOptions, model: Denoiser) -> None:
        self._options, self._model = options, model
        self._asks: dict[tuple[str, str], Request] = {}

    def ask(self, arguments: Mapping[str, Any], task: str) -> Request:
        """Returns the settings of a request of `task` (`DecodeOptions.request`)."""
        shared = {key: value for key, value in arguments.items() if key != HOLE}
        key = (task, repr(shared))
        if key not in self._asks:
            self._asks[key] = self._options.request(shared, task)
        hole = arguments.get(HOLE)
        return self._asks[key] if hole is None else dataclasses.replace(self._asks[key], hole=hole)

    def plan(self, ask: Request, length: int) -> DecodePlan:
        """Returns the plan for a hole of `length` tokens (`DecodeOptions.settings`)."""
        key = (length, ask.hole.sets(length))
        if key not in ask.plans:
            ask.plans[key] = self._planned(ask, length)
        return ask.plans[key]

    def _planned(self, ask: Request, length: int) -> DecodePlan:
        settings, process = self._options.settings(ask, length), self._model.process
        described: dict[str, Any] = {
            "decode": settings.identity(),
            "strategy": settings.strategy.name,
            "steps": settings.steps or (length if settings.uses_own_length else None),
            "block_length": settings.block_length,
            "finds_length": settings.finds_length(ask.hole.sets(length)),
        }
        if settings.approximation:
            described["approximation"] = settings.approximation
        if ask.preset is not None:
            described["preset"] = ask.preset
        if ask.replaced:
            described["replaced"] = dict(ask.replaced)
        job = settings.canonical(length, process, self._model.block_length)
        return DecodePlan(job, settings.is_random, described)


def check_requests(options: DecodeOptions, tasks: Mapping[str, Any]) -> None:
    """Warns of settings that are not used, each once for all its tasks.

    Raises:
        UserError: the generation settings of a task's YAML have an unknown name or an impossible
            length.
    """
    told: dict[str, list[str]] = {}
    for name, task in tasks.items():
        if task.OUTPUT_TYPE != "generate_until":
            continue
        if options.user.get("preset") == "authors" and not options.checkpoint:
            continue  # the checkpoint is known once the model is loaded
        try:
            ask = options.request(task.config.generation_kwargs or {}, name)
            settings = resolve(*ask.layers)
        except UserError as error:
            raise UserError(f"task '{name}': {error}") from error
        if reason := settings.why_no_checkpoint(options.process):
            log.info(
                "task '%s': an unfinished answer starts again after an interruption (%s)",
                name,
                reason,
            )
        for line in _unused(options, task, ask, settings):
            told.setdefault(line, []).append(name)
    for line, names in told.items():
        more = f" and {counted(len(names) - 1, 'other')}" if len(names) > 1 else ""
        log.warning("task '%s'%s: %s", names[0], more, line)


def _unused(options: DecodeOptions, task: Any, ask: Request, settings: DecodeSettings) -> list[str]:
    """Returns a warning for each setting of a task or the user that is not used."""
    found = steps_without_effect(options.user, settings)
    if ask.replaced:
        listed = ", ".join(f"{key}={value}" for key, value in ask.replaced.items())
        found.append(f"{options.kind} cannot use the task's {listed}; its own defaults are used")
    if not settings.is_random:
        counts = {"repeats": task.config.repeats, "samples": settings.samples}
        found += [equal_answers(name, count) for name, count in counts.items() if count > 1]
    return found


def steps_without_effect(user: Mapping[str, Any], settings: DecodeSettings) -> list[str]:
    """Returns a warning for each of the user's settings of steps that `settings` do not use."""
    if not settings.strategy.ignores_steps or settings.schedule_in_use is not None:
        return []
    return [
        f"{name}={user[name]} has no effect with strategy '{settings.strategy.name}', which decides by "
        "itself how many tokens a step writes"
        for name in STEPS
        if str(user.get(name)).lower() != "none"
    ]


def equal_answers(setting: str, count: int) -> str:
    """Returns the warning that `count` answers to a document would be equal."""
    return f"{setting}={count} has no effect at temperature 0, since all answers are equal; one is drawn"


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
    usual = DecodeOptions.before_loading({}, model, {}).usual_strategy if model else None
    whole = _without_options(entry, user, usual)
    if whole is not entry and user.get("schedule") is None:
        strategy = STRATEGIES.find(str(_strategy(user)), "decode strategy")
        lost = STEPS if strategy.ignores_steps and strategy.default_schedule is None else ()
        whole = {key: value for key, value in whole.items() if key not in lost}
    return replaced_by(whole, user)


def _strategy(*layers: Mapping[str, Any]) -> str | None:
    """Returns the strategy of the last layer that names one, or None."""
    named = (expand(layer).get("strategy") for layer in reversed(layers))
    return next((str(name) for name in named if name is not None), None)


def length_of(decode: Mapping[str, Any]) -> int | None:
    """Returns the number of tokens that decode settings or their preset ask for; None without one.

    Raises:
        UserError: it is no whole number above 0.
    """
    authors = decode.get("preset") == "authors"  # which differ by model and task
    return _length([{**decode, "preset": None} if authors else _expanded(decode)])


def _without_options(
    task: Mapping[str, Any], user: Mapping[str, Any], usual: str | None = None
) -> Mapping[str, Any]:
    """Returns a task's settings; if the user names another strategy, without the strategy of the task,
    its options and its schedule, and without what the user's refuses.

    Args:
        usual: the strategy of a task that names none; None if it is not known.
    """
    ours, theirs = _strategy(task) or usual, _strategy(user)
    if theirs in (None, ours):
        return task
    usable = _usable(_expanded(task), str(theirs))
    return {
        key: value
        for key, value in usable.items()
        if key not in ("strategy", *SCHEDULED) and not users_of(key)
    }


def _usable(task: Mapping[str, Any], strategy: str) -> dict[str, Any]:
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


def _expanded(layer: Mapping[str, Any]) -> dict[str, Any]:
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


def _length(layers: Sequence[Mapping[str, Any]]) -> int | None:
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
