"""Whose word counts when several say how to decode: the task's YAML, then the user.

YAMLs written for autoregressive models carry `temperature: 0.0`, `do_sample: false` and the like. They say nothing about a diffusion sampler, so
they never override one: a YAML that means our sampler writes `decode_temperature`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from dlm_eval.decoding import DecodeSettings, default_strategy, expand, resolve
from dlm_eval.decoding.presets import authors_preset
from dlm_eval.errors import UserError, unknown
from dlm_eval.harness.requests import Hole
from dlm_eval.models.denoiser import Denoiser
from dlm_eval.settings import split_commas

DEFAULT_LENGTH = 256  # open positions where neither task nor user names a length (half the model's positions where it has fewer than 512)
OUR_KEYS = tuple(field.name for field in dataclasses.fields(DecodeSettings) if field.name != "until")
LENGTH_KEYS = ("gen_length", "max_gen_toks", "max_new_tokens", "max_tokens")
INFILL_KEYS = ("infill_suffix", "infill_length", "infill_reference", "infill_measure")
AR_KEYS = [
    "do_sample",
    "temperature",
    "top_p",
    "top_k",
    "min_p",
    "num_beams",
    "num_return_sequences",
    "repetition_penalty",
    "length_penalty",
    "early_stopping",
    "use_cache",
    "min_length",
    "min_new_tokens",
    "max_length",
    "presence_penalty",
    "frequency_penalty",
    "seed",
    "typical_p",
    "n",
    "best_of",
    "no_repeat_ngram_size",
]


@dataclass(frozen=True)
class Request:
    """What one generate_until request asks for, its autoregressive defaults set aside.

    Attributes:
        hole: what to write into.
        until: stop strings.
        layers: decode settings: the process's strategy, the task's, and then the user's, presets expanded.
        preset: name of the strongest layer's preset ('authors' made out), or None.
    """

    hole: Hole
    until: tuple[str, ...]
    layers: tuple[Mapping[str, Any], ...]
    preset: str | None = None


@dataclass(frozen=True)
class DecodeOptions:
    """How requests become decode settings.

    Attributes:
        user: the user's settings; the strongest.
        checkpoint: named checkpoint whose authors' settings `preset=authors` means.
        default_length: open positions where nobody names a length.
        process: the model's, which says what strategy is its default.
        family: the model's, for settings that are those of all its checkpoints.
    """

    user: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    checkpoint: str = ""
    default_length: int = DEFAULT_LENGTH
    process: str = "absorbing"
    family: str = ""

    @classmethod
    def of(cls, user: Mapping[str, Any], model: Denoiser, default_length: int = DEFAULT_LENGTH) -> DecodeOptions:
        """Returns the options for requests to `model`."""
        facts = model.describe()
        return cls(
            user, str(facts.get("checkpoint") or ""), default_length, model.process, str(facts.get("family") or "")
        )

    def __post_init__(self) -> None:
        for key in self.user:
            if key not in (*OUR_KEYS, *LENGTH_KEYS, "preset", "until"):
                raise unknown("--decode", key, (*OUR_KEYS, "gen_length", "preset", "until"))

    def request(self, arguments: Mapping[str, Any], task: str = "") -> Request:
        """Returns what a request's gen_kwargs and the user say together; `arguments` is left as it is.

        Raises:
            UserError: an unknown key.
        """
        own: dict[str, Any] = {}
        for key, value in arguments.items():
            name = key.removeprefix("decode_")
            if key in INFILL_KEYS or key == "until" or (key in AR_KEYS and key not in LENGTH_KEYS):
                continue
            if name not in (*OUR_KEYS, *LENGTH_KEYS, "preset"):
                raise unknown("generation_kwargs", key, (*OUR_KEYS, *LENGTH_KEYS, *INFILL_KEYS, "until", "preset"))
            own[name] = value
        if self.user.get("preset") == "authors":  # their settings, not a mixture with the task's
            own = {key: value for key, value in own.items() if key in LENGTH_KEYS}
        base = {"strategy": default_strategy(self.process)}
        named = [self._named(layer, task) for layer in (own, self.user)]
        layers = (base, *map(expand, named))
        return Request(
            hole=Hole(
                length=str(arguments.get("infill_length") or _length(layers) or self.default_length),
                suffix=str(arguments.get("infill_suffix") or ""),
                references=_texts(arguments.get("infill_reference")),
                measure=str(arguments.get("infill_measure", "alone")),
            ),
            until=_texts(layers[-1].get("until", arguments.get("until"))),
            layers=tuple({k: v for k, v in layer.items() if k not in (*LENGTH_KEYS, "until")} for layer in layers),
            preset=next((str(layer["preset"]) for layer in reversed(named) if layer.get("preset")), None),
        )

    def _named(self, layer: Mapping[str, Any], task: str) -> Mapping[str, Any]:
        if layer.get("preset") != "authors":
            return layer
        return {**layer, "preset": authors_preset(self.checkpoint, task, self.family)}

    def settings(self, ask: Request, length: int) -> DecodeSettings:
        """Returns the resolved settings for a hole of `length` tokens.

        A hole whose length the document decides (oracle lengths) takes what fits of settings made for a fixed one: no more even steps than
        tokens, no block length that does not divide it. A hole of fixed length must fit them exactly.
        """
        settings = dataclasses.replace(resolve(*ask.layers), until=ask.until)
        if ask.hole.length == str(length):
            settings.check(length)
            return settings
        return settings.fitted(length)


def check_requests(options: DecodeOptions, tasks: Mapping[str, Any]) -> None:
    """Raises UserError where the generation settings in a task's YAML have unknown names or a length that cannot be."""
    for name, task in tasks.items():
        try:
            if task.OUTPUT_TYPE == "generate_until" and options.user.get("preset") != "authors":
                options.request(task.config.generation_kwargs or {}, name)
        except UserError as error:
            raise UserError(f"task '{name}': {error}") from error


def user_layer(gen_kwargs: Mapping[str, Any], decode: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the user's layer: --decode above --gen_kwargs (whose `do_sample` says nothing about our samplers)."""
    return {**{k.removeprefix("decode_"): v for k, v in gen_kwargs.items() if k != "do_sample"}, **decode}


def is_ours(key: str) -> bool:
    """Returns whether a generation argument is one that only a diffusion language model understands."""
    return (
        key in INFILL_KEYS
        or key.startswith("decode_")
        or (key in (*OUR_KEYS, "preset", "gen_length") and key not in AR_KEYS)
    )


def _length(layers: Sequence[Mapping[str, Any]]) -> int | None:
    """Returns the strongest word on the number of tokens, or None."""
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


def _texts(value: Any) -> tuple[str, ...]:
    if value is None:
        return ()
    if isinstance(value, str):
        bracketed = value.startswith("[") and value.endswith("]")
        return tuple(split_commas(value[1:-1])) if bracketed else (value,)
    if isinstance(value, Sequence):
        return tuple(str(item) for item in value)
    raise UserError(f"generation_kwargs '{value}' is not allowed; it must be a text or a list of texts")
