"""Published settings by name: the file presets.yaml."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from dlm_eval.errors import unknown_name_error
from dlm_eval.models.authors import GROUPS, Audience, authors_choice

__all__ = ["GROUPS", "Preset", "authors_preset", "preset_settings", "presets"]
TABLE = Path(__file__).with_name("presets.yaml")


@dataclass(frozen=True, kw_only=True)
class Preset(Audience):
    """Decode settings that someone published.

    Attributes:
        settings: decode settings; `gen_length` is the length of the hole.
    """

    settings: Mapping[str, Any]


@cache
def presets() -> dict[str, Preset]:
    """Returns the presets by name."""
    import yaml

    rows = yaml.safe_load(TABLE.read_text(encoding="utf-8"))
    found = {}
    for name, row in rows.items():
        values: dict[str, Any] = {
            k: tuple(value) if isinstance(value, list) else value for k, value in row.items()
        }
        found[name] = Preset(name=name, **values)
    return found


def preset_settings(name: str) -> dict[str, Any]:
    """Returns the settings of a preset.

    Raises:
        UserError: there is no such preset; the message has the nearest name.
    """
    if name not in presets():
        raise unknown_name_error("--decode preset", name, ("authors", *presets()))
    return dict(presets()[name].settings)


def authors_preset(checkpoint: str, task: str, family: str = "") -> str:
    """Returns the name of the decode preset that the authors of `checkpoint` use for `task`
    (`authors_choice`).
    """
    return authors_choice(presets(), checkpoint, task, family, "--decode")
