"""Checks of a run's settings and tasks before the weights are loaded."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from dlm_eval.budget import parse_batch_size
from dlm_eval.errors import UserError, unknown_name_error
from dlm_eval.harness.blocks import BlockTask
from dlm_eval.harness.code_tasks import Way, ways
from dlm_eval.harness.lm import BY_ORDER, by_order
from dlm_eval.harness.open_model import kind_of
from dlm_eval.harness.requirements import check_loaded_metrics
from dlm_eval.harness.run_settings import RunSettings
from dlm_eval.harness.saving import check_tracker
from dlm_eval.harness.tasks import check_fewshot
from dlm_eval.variables import check_variables

log = logging.getLogger(__name__)
Ask = Callable[[list[str]], bool]


def check_settings(settings: RunSettings) -> None:
    """Raises UserError for settings that are wrong for every task."""
    _refuse_launchers()
    check_variables()
    check_options(settings)
    check_tracker(settings.hf_hub_log_args)


def check_tasks(loaded: Mapping[str, Any], settings: RunSettings) -> None:
    """Raises UserError if settings do not fit the tasks, or a task's settings the model."""
    tasks = loaded["tasks"]
    check_fewshot(loaded, settings.num_fewshot)
    kind_of(settings.model).check_tasks(settings, tasks)
    for name in settings.samples or {}:
        if name not in tasks:
            raise unknown_name_error("--samples task", name, tasks)
    # The blocks of texts are numbered when the model's tokenizer is there.
    whole = {name: task for name, task in tasks.items() if not isinstance(task, BlockTask)}
    check_sample_numbers(whole, settings.samples or {})
    _check_early_stop(tasks, settings)
    if settings.scores:
        check_loaded_metrics(tasks)


def _refuse_launchers() -> None:
    """Raises UserError under torchrun or accelerate launch: each process would run every task."""
    processes = os.environ.get("WORLD_SIZE", "1")
    if processes not in ("", "0", "1"):
        raise UserError(
            f"WORLD_SIZE '{processes}' (torchrun, accelerate launch) is not supported; start one"
            f" process: dlm-eval ... --devices gpu:{processes}"
        )


def check_options(settings: RunSettings) -> None:
    """Parses settings whose errors would otherwise appear only after the weights are loaded."""
    parse_batch_size(settings.batch_size or "auto")
    kind_of(settings.model).check_options(settings)


def confirm_unsafe(tasks: dict[str, Any], settings: RunSettings, ask: Ask | None) -> dict[str, Any]:
    """Returns the tasks that may run.

    Generated code runs only if the user confirms it, by the option or when asked. Without
    confirmation, an explicitly named task is an error, and a group member is skipped with a
    warning. A task that would run generated code outside the sandbox is always an error, unless the
    user confirms that too.
    """
    found = ways(tasks["tasks"])
    refuse_unsandboxed(found, settings)
    unsafe = list(found)
    if (
        not unsafe
        or settings.confirm_run_unsafe_code
        or not settings.scores
        or (ask is not None and ask(unsafe))
    ):
        return tasks
    named = [name for name in unsafe if name in settings.tasks]
    if named or len(unsafe) == len(tasks["tasks"]):
        raise UserError(
            f"--tasks {', '.join(named or unsafe)} runs generated code (in a sandbox); add"
            " --confirm_run_unsafe_code to allow it"
        )
    log.warning(
        "skipped: %s (runs generated code, in a sandbox; add --confirm_run_unsafe_code to include "
        "it)",
        ", ".join(unsafe),
    )
    for name in unsafe:
        del tasks["tasks"][name]
        for group in tasks["groups"].values():
            group.pop(name)
    tasks["group_map"] = {name: group.child_names for name, group in tasks["groups"].items()}
    return tasks


def refuse_unsandboxed(found: Mapping[str, Way], settings: RunSettings) -> None:
    """Raises UserError for tasks that run generated code outside the sandbox, unless both options
    allow it.
    """
    outside = {name: way.reason for name, way in found.items() if not way.sandboxed}
    if not outside or not settings.scores:
        return
    reasons = "; ".join(dict.fromkeys(outside.values()))
    if settings.unsandboxed and settings.confirm_run_unsafe_code:
        log.warning(
            "UNSANDBOXED: %s: generated code runs with no protection: %s",
            ", ".join(outside),
            reasons,
        )
        return
    raise UserError(
        f"--tasks {', '.join(outside)} would run generated code outside the sandbox: {reasons};"
        " leave it out, or add"
        " --unsandboxed and --confirm_run_unsafe_code to run it with no protection"
    )


def start_sandbox(tasks: Mapping[str, Any], settings: RunSettings) -> None:
    """Starts the sandbox if one of the tasks of `load_tasks` will run generated code.

    Raises:
        UserError: this machine does not provide the requested sandbox.
    """
    if not settings.scores or not any(way.sandboxed for way in ways(tasks["tasks"]).values()):
        return
    from dlm_eval import sandbox

    try:
        sandbox.use(None if settings.sandbox == "auto" else settings.sandbox)
    except sandbox.Unavailable as error:
        raise UserError(f"--sandbox '{settings.sandbox}' is not allowed: {error}") from error


def check_sample_numbers(tasks: Mapping[str, Any], samples: Mapping[str, Sequence[int]]) -> None:
    """Raises UserError if --samples names a document that a task does not have."""
    for name in tasks.keys() & samples.keys():
        numbers, count = samples[name], len(tasks[name].eval_docs)
        if max(numbers) >= count:
            raise UserError(
                f"--samples {name} '{max(numbers)}' is not allowed; the task has documents 0 to "
                f"{count - 1}"
            )


def _check_early_stop(tasks: Mapping[str, Any], settings: RunSettings) -> None:
    if settings.parsed_estimator.needs_question and not any(
        by_order(task) for task in tasks.values()
    ):
        raise UserError(
            f"--estimator '{settings.estimator}' is not allowed: stop_at_error_rate is for"
            " multiple choice scored by"
            f" {', '.join(sorted(BY_ORDER))}, and none of {', '.join(tasks)} is"
        )
