"""Warnings of decode settings that are not used, before a run begins."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from dlm_eval.decoding import DecodeSettings, resolve
from dlm_eval.decoding.strategy import STEPS
from dlm_eval.errors import UserError
from dlm_eval.harness.decode_config import DecodeOptions, Request
from dlm_eval.printable import counted

log = logging.getLogger(__name__)


def check_requests(options: DecodeOptions, tasks: Mapping[str, Any]) -> None:
    """Warns of settings that are not used, each once for all its tasks.

    Raises:
        UserError: the generation settings of a task's YAML have an unknown name or an impossible
            length.
    """
    told: dict[str, list[str]] = {}
    for name, task in tasks.items():
        if task.OUTPUT_TYPE != "generate_until":
            continue
        if options.user.get("preset") == "authors" and not options.checkpoint:
            continue  # the checkpoint is known once the model is loaded
        try:
            ask = options.request(task.config.generation_kwargs or {}, name)
            settings = resolve(*ask.layers)
        except UserError as error:
            raise UserError(f"task '{name}': {error}") from error
        if reason := settings.why_no_checkpoint(options.process):
            log.info(
                "task '%s': an unfinished answer starts again after an interruption (%s)",
                name,
                reason,
            )
        for line in _unused(options, task, ask, settings):
            told.setdefault(line, []).append(name)
    for line, names in told.items():
        more = f" and {counted(len(names) - 1, 'other')}" if len(names) > 1 else ""
        log.warning("task '%s'%s: %s", names[0], more, line)


def _unused(options: DecodeOptions, task: Any, ask: Request, settings: DecodeSettings) -> list[str]:
    """Returns a warning for each setting of a task or the user that is not used."""
    found = steps_without_effect(options.user, settings)
    if ask.replaced:
        listed = ", ".join(f"{key}={value}" for key, value in ask.replaced.items())
        found.append(f"{options.kind} cannot use the task's {listed}; its own defaults are used")
    if not settings.is_random:
        counts = {"repeats": task.config.repeats, "samples": settings.samples}
        found += [equal_answers(name, count) for name, count in counts.items() if count > 1]
    return found


def steps_without_effect(user: Mapping[str, Any], settings: DecodeSettings) -> list[str]:
    """Returns a warning for each of the user's settings of steps that `settings` do not use."""
    if not settings.strategy.ignores_steps or settings.schedule_in_use is not None:
        return []
    return [
        f"{name}={user[name]} has no effect with strategy '{settings.strategy.name}', which decides by "
        "itself how many tokens a step writes"
        for name in STEPS
        if str(user.get(name)).lower() != "none"
    ]


def equal_answers(setting: str, count: int) -> str:
    """Returns the warning that `count` answers to a document would be equal."""
    return f"{setting}={count} has no effect at temperature 0, since all answers are equal; one is drawn"
