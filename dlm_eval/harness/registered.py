"""One lm-eval model class per family and checkpoint, made when it is asked for (see `registry`)."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from functools import cache
from typing import Any

from dlm_eval.budget import make_engine
from dlm_eval.errors import UserError
from dlm_eval.harness.decode_options import DEFAULT_LENGTH, LENGTH_KEYS, OUR_KEYS, DecodeOptions
from dlm_eval.harness.lm import DiffusionLM, Options
from dlm_eval.models import checkpoints, families, load_model
from dlm_eval.pool import InProcess
from dlm_eval.scoring import EstimatorSettings, parse_estimator

ALIASES = {"cfg": "guidance", "mc_num": "samples"}  # how other harnesses call the same settings


class RegisteredLM(DiffusionLM):
    """A DiffusionLM made from lm-eval's model_args: the model's own options, the estimator's and the decoder's in one mapping."""

    checkpoint = ""

    def __init__(self, **arguments: Any) -> None:
        model_args, estimator, decode, run = split_arguments(arguments)
        model = load_model(self.checkpoint, **model_args)
        length = min(DEFAULT_LENGTH, max(1, model.max_length // 2))
        options = Options(estimator, DecodeOptions.of(decode, model, length), int(run.get("seed") or 0))
        super().__init__(model, InProcess(make_engine(model, run.get("batch_size") or "auto")), options)

    @classmethod
    def create_from_arg_obj(
        cls, arg_dict: dict[str, Any], additional_config: dict[str, Any] | None = None
    ) -> RegisteredLM:
        """Returns the model; what `arg_dict` says stands before lm-eval's own batch_size and device."""
        extra = {k: v for k, v in (additional_config or {}).items() if v is not None and k not in arg_dict}
        return cls(**arg_dict, **extra)

    @classmethod
    def create_from_arg_string(cls, arg_string: str, additional_config: dict[str, Any] | None = None) -> RegisteredLM:
        """Returns the model for 'key=value,key=value'."""
        from dlm_eval.settings import parse_pairs

        return cls.create_from_arg_obj(dict(parse_pairs(arg_string, "model_args")), additional_config)


def split_arguments(
    arguments: Mapping[str, Any],
) -> tuple[dict[str, Any], EstimatorSettings, dict[str, Any], dict[str, Any]]:
    """Returns (model options, estimator, decode settings, batch_size and seed) of one flat mapping.

    Raises:
        UserError: a setting given under two names.
    """
    model: dict[str, Any] = {}
    decode: dict[str, Any] = {}
    run: dict[str, Any] = {}
    estimator, samples = "auto", None
    for key, value in arguments.items():
        name = ALIASES.get(key, key)
        if name != key and name in arguments:
            raise UserError(f"model_args: '{key}' and '{name}' are the same setting; give one")
        if name == "estimator":
            estimator = str(value)
        elif name == "samples":
            samples = value
        elif name in ("batch_size", "seed"):
            run[name] = value
        elif name in OUR_KEYS or name in LENGTH_KEYS or name == "preset":
            decode[name] = value
        elif name != "max_batch_size":
            model[name] = value
    settings = parse_estimator(estimator)
    if samples is not None:
        settings = dataclasses.replace(settings, samples=int(samples))
    if model.get("device") and str(model["device"]).startswith("cuda"):
        model["device"] = _available(str(model["device"]))
    return model, settings, decode, run


def _available(device: str) -> str:
    """Returns `device`, or 'auto' where lm-eval's own default 'cuda:0' was passed on a machine without CUDA."""
    import torch

    return device if torch.cuda.is_available() else "auto"


@cache
def _class(name: str) -> type[RegisteredLM]:
    return type(name, (RegisteredLM,), {"checkpoint": name, "__module__": __name__})


def __getattr__(name: str) -> type[RegisteredLM]:
    if name in families() or name in checkpoints():
        return _class(name)
    raise AttributeError(name)
