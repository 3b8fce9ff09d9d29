"""Whose published settings are for which checkpoints and tasks (`preset=authors`)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase

from dlm_eval.errors import UserError
from dlm_eval.models.catalog import checkpoints

# `task` of a preset -> lm-eval's and our names of this benchmark.
GROUPS = {
    "arc": ("arc_challenge*", "arc_easy*"),
    "bbh": ("bbh*", "leaderboard_bbh*"),
    "gpqa": ("gpqa*", "leaderboard_gpqa*"),
    "gsm8k": ("gsm8k", "gsm8k_c*", "gsm8k_llada", "gsm8k_platinum*", "gsm8k_wedlm"),
    "hellaswag": ("hellaswag*",),
    "humaneval": (
        "humaneval",
        "humaneval_plus",
        "humaneval_instruct*",
        "humaneval_64*",
        "humaneval_chat*",
        "humaneval_llada",
        "humaneval_wedlm",
        "humaneval_plus_wedlm",
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


@dataclass(frozen=True, kw_only=True)
class Audience:
    """Whose published settings they are, and for what.

    Attributes:
        name: value of `preset=`.
        source: where they were published.
        checkpoints: the checkpoints they are for; empty if any model can use them.
        families: the families they are for, if they are for all checkpoints of a family.
        task: the task they are for (a key of `GROUPS`, or a pattern of task names), or None for
            all.
    """

    name: str
    source: str
    checkpoints: tuple[str, ...] = ()
    families: tuple[str, ...] = ()
    task: str | None = None

    def fits(self, task: str) -> int:
        """Returns how specific the preset is to `task`.

        That is the length of the matching pattern, 0 if it is for all tasks, and -1 if it is for
        others.
        """
        if self.task is None:
            return 0
        patterns = GROUPS.get(self.task, (self.task,))
        return max((len(pattern) for pattern in patterns if fnmatchcase(task, pattern)), default=-1)


def authors_choice(
    known: Mapping[str, Audience], checkpoint: str, task: str, family: str, option: str
) -> str:
    """Returns the name of the preset that the authors of `checkpoint` use for `task`, else of their
    general one.

    Of several that are equally specific the first in the file is used.

    Args:
        known: the presets by name.
        option: the option that a message names.

    Raises:
        UserError: they published none.
    """
    own = [preset for preset in known.values() if checkpoint in preset.checkpoints]
    own = own or [preset for preset in known.values() if family in preset.families]
    best = max(own, key=lambda preset: preset.fits(task), default=None)
    if best is not None and best.fits(task) >= 0:
        return best.name
    if not (checkpoint or own) and (named := _named_checkpoints(known, family)):
        raise UserError(
            f"{option} preset 'authors' needs the name of the checkpoint, which a folder does not "
            "contain; add checkpoint=NAME to"
            f" --model_args; allowed: {', '.join(named)}"
        )
    tasks = ", ".join(dict.fromkeys(preset.task for preset in own if preset.task))
    listed = (
        f"they have settings for {tasks}"
        if tasks
        else "'dlm-eval ls presets' lists whose settings are known"
    )
    what = f"checkpoint '{checkpoint or family}'" + (f" and task '{task}'" if task else "")
    raise UserError(f"{option} preset 'authors' is not known for {what}; {listed}")


def _named_checkpoints(known: Mapping[str, Audience], family: str) -> list[str]:
    """Returns the checkpoints of `family` that have their own presets."""
    with_settings = {name for preset in known.values() for name in preset.checkpoints}
    return [
        name
        for name, entry in checkpoints().items()
        if entry.family == family and name in with_settings
    ]
