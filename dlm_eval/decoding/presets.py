"""Published settings by name: the file presets.yaml."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from dlm_eval.errors import UserError, unknown

TABLE = Path(__file__).with_name("presets.yaml")


@dataclass(frozen=True)
class Preset:
    """Settings that someone published.

    Attributes:
        name: what --decode preset= takes.
        settings: decode settings; `gen_length` is the hole that goes with them.
        source: where they were published.
        checkpoints: whose they are; none for a procedure that any model can follow.
        task: what they are for, or None for all.
    """

    name: str
    settings: Mapping[str, Any]
    source: str
    checkpoints: tuple[str, ...] = ()
    task: str | None = None


@cache
def presets() -> dict[str, Preset]:
    """Returns the presets by name."""
    import yaml

    rows = yaml.safe_load(TABLE.read_text(encoding="utf-8"))
    return {
        name: Preset(name, row["settings"], row["source"], tuple(row.get("checkpoints", ())), row.get("task"))
        for name, row in rows.items()
    }


def preset_settings(name: str) -> dict[str, Any]:
    """Returns the settings of a preset.

    Raises:
        UserError: no such preset; the message has the nearest name.
    """
    if name not in presets():
        raise unknown("--decode preset", name, presets())
    return dict(presets()[name].settings)


def authors_preset(checkpoint: str, task: str) -> str:
    """Returns the name of the preset that the authors of `checkpoint` use for `task`, else of their general one.

    Raises:
        UserError: they published none.
    """
    own = [preset for preset in presets().values() if checkpoint in preset.checkpoints]
    for wanted in ([p for p in own if p.task and task.startswith(p.task)], [p for p in own if p.task is None]):
        if wanted:
            return wanted[0].name
    names = ", ".join(sorted({name for preset in presets().values() for name in preset.checkpoints}))
    raise UserError(
        f"--decode preset 'authors' is not known for checkpoint '{checkpoint}' and task '{task}'; there are settings for {names}"
    )
