"""One lm-eval model class per family and checkpoint, created on demand
(`lm_eval_patches.register_models`).
"""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from functools import cache
from typing import Any

from dlm_eval.budget import make_engine
from dlm_eval.decoding import setting_names
from dlm_eval.errors import UserError
from dlm_eval.harness.canvas_jobs import Options
from dlm_eval.harness.decode_config import DecodeOptions
from dlm_eval.harness.decode_layers import LENGTH_KEYS
from dlm_eval.harness.lm import DiffusionLM
from dlm_eval.likelihood import Estimator, parse_estimator
from dlm_eval.models import checkpoints, known_families, load_model, option_names
from dlm_eval.workers import InProcess

log = logging.getLogger(__name__)
# Names of these settings in other harnesses.
ALIASES = {"cfg": "guidance", "mc_num": "max_forwards"}


class RegisteredLM(DiffusionLM):
    """A DiffusionLM built from lm-eval's model_args, with estimator and decode settings in them."""

    checkpoint = ""

    def __init__(self, **arguments: Any) -> None:
        model_args, estimator, decode, run = split_arguments(arguments)
        model = load_model(self.checkpoint, **place(self.checkpoint, model_args))
        options = Options(estimator, DecodeOptions.of(decode, model), int(run.get("seed") or 0))
        super().__init__(
            model, InProcess(make_engine(model, run.get("batch_size") or "auto")), options
        )

    @classmethod
    def create_from_arg_obj(
        cls, arg_dict: dict[str, Any], additional_config: dict[str, Any] | None = None
    ) -> RegisteredLM:
        """Returns the model; `arg_dict` overrides lm-eval's own batch_size and device."""
        extra = {
            k: v
            for k, v in (additional_config or {}).items()
            if v is not None and k not in arg_dict
        }
        return cls(**arg_dict, **extra)

    @classmethod
    def create_from_arg_string(
        cls, arg_string: str, additional_config: dict[str, Any] | None = None
    ) -> RegisteredLM:
        """Returns the model for 'key=value,key=value'."""
        from dlm_eval.settings import parse_pairs

        return cls.create_from_arg_obj(
            dict(parse_pairs(arg_string, "model_args")), additional_config
        )


def split_arguments(
    arguments: Mapping[str, Any],
) -> tuple[dict[str, Any], Estimator, dict[str, Any], dict[str, Any]]:
    """Returns (model options, estimator, decode settings, {batch_size, seed}) of a flat mapping.

    Raises:
        UserError: a setting is given under two names.
    """
    model: dict[str, Any] = {}
    decode: dict[str, Any] = {}
    run: dict[str, Any] = {}
    estimator, own = "auto", {}
    for key, value in arguments.items():
        name = ALIASES.get(key, key)
        if name != key and name in arguments:
            raise UserError(f"model_args: '{key}' and '{name}' are the same setting; give one")
        if name == "estimator":
            estimator = str(value)
        elif name == "max_forwards":
            own["max_forwards"] = value
        elif name in ("batch_size", "seed"):
            run[name] = value
        elif name in setting_names() or name in LENGTH_KEYS or name == "preset":
            decode[name] = value
        elif name != "max_batch_size":
            model[name] = value
    return model, parse_estimator(estimator, own), decode, run


def place(name: str, model_args: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the options of model `name` with a device that exists.

    lm-eval passes its default 'cuda:0' on every machine. As in lm-eval's `hf`, a CUDA device that
    does not exist is replaced by the best one, with a warning.
    """
    import torch

    device = model_args.get("device")
    if device is None:
        return dict(model_args)
    others = {key: value for key, value in model_args.items() if key != "device"}
    if "device" not in option_names(name):
        if not str(device).startswith(("cpu", "auto")):
            log.warning("model '%s' has no option device; '%s' is ignored", name, device)
        return others
    wanted = re.fullmatch(r"cuda(?::(\d+))?", str(device))
    count = torch.cuda.device_count()
    if wanted is None or int(wanted[1] or 0) < count:
        return dict(model_args)
    log.warning(
        "device '%s' is not on this machine; model '%s' runs on %s",
        device,
        name,
        "cuda" if count else "cpu",
    )
    return {**others, "device": "auto"}


@cache
def _class(name: str) -> type[RegisteredLM]:
    return type(name, (RegisteredLM,), {"checkpoint": name, "__module__": __name__})


def __getattr__(name: str) -> type[RegisteredLM]:
    if name in known_families() or name in checkpoints():
        return _class(name)
    raise AttributeError(name)
