"""`quantization=`: weights in fewer bits while they load, through transformers' own quantization
configs.

    quantization=bitsandbytes-4bit:bnb_4bit_quant_type=nf4:bnb_4bit_compute_dtype=bfloat16
    quantization=torchao:int8-weight-only    quantization=quanto:int8    quantization=hqq:nbits=4

The name is transformers' name of the method, then its config's options by name; a part without '='
is the value of the config's first option.
"""

from __future__ import annotations

import inspect
from functools import partial
from typing import Any

import yaml

from dlm_eval.errors import UserError, unknown_name_error
from dlm_eval.models.loading import first_line

SETTING = "model_args quantization"
BITS = {"bitsandbytes-4bit": {"load_in_4bit": True}, "bitsandbytes-8bit": {"load_in_8bit": True}}


def quantization_config(text: str, place: Any) -> Any:
    """Returns transformers' quantization config of `text`, once its backend says that it can run.

    Args:
        text: NAME[:VALUE][:option=value ...].
        place: the device_map that the weights load with.

    Raises:
        UserError: an unknown name or option, a value that the method refuses, a backend that is not
            installed or not for this device.
    """
    from transformers.quantizers import AutoHfQuantizer

    name, *parts = [part.strip() for part in text.split(":")]
    kind = _kind(name)
    if name == "torchao" and parts and "=" not in parts[0]:
        parts, kind = parts[1:], partial(_torchao, parts[0])
    known = _options(kind)
    options = dict(_pair(part, known) for part in parts)
    try:
        config = kind(**{**BITS.get(name.replace("_", "-"), {}), **options})
        AutoHfQuantizer.from_config(config, pre_quantized=False).validate_environment(
            device_map=place
        )
    except UserError:
        raise
    except Exception as error:  # each backend has kinds of its own for what it lacks
        raise UserError(f"{SETTING} '{text}' cannot be used here: {first_line(error)}") from None
    return config


def _kind(name: str) -> Any:
    from transformers.quantizers.auto import AUTO_QUANTIZATION_CONFIG_MAPPING

    kinds = {key.replace("_", "-"): kind for key, kind in AUTO_QUANTIZATION_CONFIG_MAPPING.items()}
    if name.replace("_", "-") not in kinds:
        raise unknown_name_error(SETTING, name, sorted(kinds))
    return kinds[name.replace("_", "-")]


def _options(kind: Any) -> list[str]:
    """Returns the options that a config takes, the first one first."""
    if isinstance(kind, partial):
        return _options(_torchao_type(kind.args[0]))
    taken = inspect.signature(kind).parameters.values()
    return [one.name for one in taken if one.kind != inspect.Parameter.VAR_KEYWORD]


def _pair(part: str, known: list[str]) -> tuple[str, Any]:
    option, equals, value = part.partition("=")
    if not equals and known:
        option, value = known[0], part
    if option not in known:
        raise unknown_name_error(f"{SETTING} option", option, known)
    return option, yaml.safe_load(value)


def _torchao(name: str, **options: Any) -> Any:
    """Returns transformers' config around torchao's of that name with `options`."""
    from transformers import TorchAoConfig

    return TorchAoConfig(_torchao_type(name)(**options))


def _torchao_type(name: str) -> Any:
    """Returns torchao's config class of that name: 'int8-weight-only' is Int8WeightOnlyConfig.

    Raises:
        UserError: torchao is not installed, or has none of that name.
    """
    try:
        from torchao import quantization
    except ImportError:
        raise UserError(
            f"{SETTING} 'torchao' needs the package torchao; install it: pip install torchao"
        ) from None
    kinds = {_plain(key): key for key in dir(quantization) if key.endswith("Config")}
    if _plain(name) not in kinds:
        raise unknown_name_error(f"{SETTING} torchao", name, kinds.values())
    return getattr(quantization, kinds[_plain(name)])


def _plain(name: str) -> str:
    return name.lower().replace("-", "").replace("_", "").removesuffix("config")
