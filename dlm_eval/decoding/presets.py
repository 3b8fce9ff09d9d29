"""Published settings by name: the file presets.yaml."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import cache
from pathlib import Path
from typing import Any

from dlm_eval.errors import UserError, unknown_name_error

TABLE = Path(__file__).with_name("presets.yaml")


# `task` of a preset -> lm-eval's and our names of this benchmark as a task that generates.
GROUPS = {
    "arc": ("arc_challenge*", "arc_easy*"),
    "bbh": ("bbh*", "leaderboard_bbh*"),
    "gpqa": ("gpqa*", "leaderboard_gpqa*"),
    "gsm8k": ("gsm8k", "gsm8k_c*", "gsm8k_platinum*"),
    "humaneval": (
        "humaneval",
        "humaneval_plus",
        "humaneval_instruct*",
        "humaneval_64*",
        "humaneval_chat*",
    ),
    "ifeval": ("ifeval*", "leaderboard_ifeval*"),
    "lambada": ("lambada*",),
    "math": ("math*", "minerva_math*", "hendrycks_math*", "leaderboard_math*"),
    "mbpp": ("mbpp*",),
    "mmlu": ("mmlu*",),
    "mmlu_pro": ("mmlu_pro*", "leaderboard_mmlu_pro*"),
    "translation": ("iwslt*", "wmt*"),
    "triviaqa": ("triviaqa*",),
}
# `task` of a preset -> why neither lm-eval nor dlm_eval has a task that generates for it.
TASK_MISSING = {
    "hellaswag": "lm-eval's hellaswag scores likelihoods; no task generates the letter",
    "sudoku*": "planning tasks are not implemented yet",
    "countdown*": "planning tasks are not implemented yet",
    "trip*": "planning tasks are not implemented yet",
}


@dataclass(frozen=True)
class Preset:
    """Settings that someone published.

    Attributes:
        name: value of --decode preset=.
        settings: decode settings; `gen_length` is the length of the hole.
        source: where they were published.
        checkpoints: the checkpoints they are for; empty if any model can use them.
        families: the families they are for, if they are for all checkpoints of a family.
        task: the task they are for (a key of `GROUPS`, or a pattern of task names), or None for
            all.
    """

    name: str
    settings: Mapping[str, Any]
    source: str
    checkpoints: tuple[str, ...] = ()
    families: tuple[str, ...] = ()
    task: str | None = None

    @property
    def task_missing(self) -> str:
        """Why no task generates for this preset; "" if one does."""
        return TASK_MISSING.get(self.task or "", "")

    def fits(self, task: str) -> int:
        """Returns how specific the preset is to `task`.

        That is the length of the matching pattern, 0 if it is for all tasks, and -1 if it is for
        others.
        """
        if self.task is None:
            return 0
        patterns = GROUPS.get(self.task, (self.task,))
        return max((len(pattern) for pattern in patterns if fnmatchcase(task, pattern)), default=-1)


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
        found[name] = Preset(name, **values)
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
    """Returns the name of the preset that the authors of `checkpoint` use for `task`, else of their
    general one.

    Of several that are equally specific the first in the file is used.

    Raises:
        UserError: they published none.
    """
    own = [preset for preset in presets().values() if checkpoint in preset.checkpoints]
    own = own or [preset for preset in presets().values() if family in preset.families]
    best = max(own, key=lambda preset: preset.fits(task), default=None)
    if best is not None and best.fits(task) >= 0:
        return best.name
    if not (checkpoint or own) and (named := _named_checkpoints(family)):
        raise UserError(
            "--decode preset 'authors' needs the name of the checkpoint, which a folder does not "
            "contain; add checkpoint=NAME to"
            f" --model_args; allowed: {', '.join(named)}"
        )
    tasks = ", ".join(dict.fromkeys(preset.task for preset in own if preset.task))
    known = (
        f"they have settings for {tasks}"
        if tasks
        else "'dlm-eval ls presets' lists whose settings are known"
    )
    what = f"checkpoint '{checkpoint or family}'" + (f" and task '{task}'" if task else "")
    raise UserError(f"--decode preset 'authors' is not known for {what}; {known}")


def _named_checkpoints(family: str) -> list[str]:
    """Returns the checkpoints of `family` that have their own presets."""
    from dlm_eval.models import checkpoints

    with_settings = {name for preset in presets().values() for name in preset.checkpoints}
    return [
        name
        for name, entry in checkpoints().items()
        if entry.family == family and name in with_settings
    ]
