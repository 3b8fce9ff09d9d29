"""Who says how to decode: `--decode k=v,...`, task YAMLs and presets become one `DecodeSettings`.

layers (weakest first) -> each layer's preset under its own keys -> DecodeSettings -> checked against the hole's length
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dlm_eval.decoding.presets import preset_settings
from dlm_eval.decoding.settings import DecodeSettings
from dlm_eval.settings import from_mapping


def expand(layer: Mapping[str, Any]) -> dict[str, Any]:
    """Returns a layer with its `preset`, if any, replaced by the preset's settings; the layer's own keys are
    stronger."""
    own = {key: value for key, value in layer.items() if key != "preset"}
    return {**preset_settings(str(layer["preset"])), **own} if layer.get("preset") else own


def resolve(*layers: Mapping[str, Any], length: int | None = None) -> DecodeSettings:
    """Returns the settings of `layers`, the weakest first; each layer's own keys are stronger than its preset.

    Args:
        layers: settings by name (texts are cast; `steps` may be 'length'), each with an optional `preset`. A preset's `gen_length` is for those
            who open holes and is set aside here.
        length: open positions to check against, where known.

    Raises:
        UserError: an unknown key, or a value that is not allowed; one line with the nearest name.
    """
    merged: dict[str, Any] = {}
    for layer in layers:
        own = expand(layer)
        if layer.get("preset"):
            own.pop("gen_length", None)
        merged.update(own)
    if merged.get("steps") == "length":
        merged["steps"] = None
    settings = from_mapping(DecodeSettings, merged, "decode")
    if length is not None:
        settings.check(length)
    return settings
