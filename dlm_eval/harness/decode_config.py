"""Decode settings of each request: built-in defaults < task YAML < command line.

YAMLs for autoregressive models have `temperature: 0.0`, `do_sample: false` and the like. These do
not apply to a diffusion sampler and are ignored. A YAML that sets our sampler's temperature writes
`decode_temperature`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from dlm_eval.decoding import DecodeSettings, default_strategy, fit_task, resolve
from dlm_eval.decoding.presets import authors_preset
from dlm_eval.errors import unknown_name_error
from dlm_eval.harness.decode_layers import (
    LENGTH_KEYS,
    STOP_KEYS,
    expanded,
    length_in,
    stop_texts,
    strategy_in,
    task_layer,
    usable,
    user_keys,
    without_options,
)
from dlm_eval.harness.requests import HOLE, Hole, Length
from dlm_eval.models import checkpoints, process_of, strategy_of
from dlm_eval.models.denoiser import Denoiser

# Number of open positions if neither the task nor the user sets it. A model with fewer than 512
# positions uses half of them.
DEFAULT_LENGTH = 256


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
        own = task_layer(arguments, self.user)
        if self.user.get("preset") == "authors":  # the authors' settings replace the task's
            own = {key: value for key, value in own.items() if key in LENGTH_KEYS}
        elif self.user.get("preset") is not None:  # one preset replaces another whole
            own.pop("preset", None)
        usual = self.usual_strategy
        base = {"strategy": usual}
        named = [self._named(layer, task) for layer in (own, self.user)]
        named[0] = without_options(named[0], named[1], usual)
        fitting, replaced = fit_task(expanded(named[0]), self.process)
        if usual != default_strategy(self.process) and not strategy_in(fitting, named[1]):
            kept = usable(fitting, usual)  # of a task that is written for other models
            replaced |= {key: value for key, value in fitting.items() if key not in kept}
            fitting = kept
        if replaced:
            named[0] = fitting  # these are no longer the preset's settings
        layers = (base, fitting, expanded(named[1]))
        return Request(
            hole=arguments.get(HOLE) or Hole(Length(length_in(layers) or self.default_length)),
            until=stop_texts(arguments, self.user),
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
