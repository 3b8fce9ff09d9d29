"""The runs of a sweep, after all checks that need no model.

options -> tasks that generate text -> grid of decode settings -> `Plan` -> combinations, baseline first
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from dlm_eval.decoding.filling import refuse_settings
from dlm_eval.errors import UserError, unknown_name_error
from dlm_eval.harness.checks import refuse_unsandboxed, start_sandbox
from dlm_eval.harness.code_tasks import ways
from dlm_eval.harness.decode_config import DecodeOptions
from dlm_eval.harness.open_model import kind_of
from dlm_eval.harness.requests import HOLE
from dlm_eval.harness.run import tasks_of
from dlm_eval.harness.run_settings import RunSettings, run_settings
from dlm_eval.harness.tasks import check_fewshot
from dlm_eval.models import process_of
from dlm_eval.models.denoiser import Denoiser
from dlm_eval.output import one_line
from dlm_eval.printable import counted
from dlm_eval.reports.sweep.baseline import baseline_settings, one_token
from dlm_eval.reports.sweep.grid import grid
from dlm_eval.reports.sweep.points import words_of
from dlm_eval.settings import parse_pairs
from dlm_eval.variables import check_variables

log = logging.getLogger(__name__)
# Options that have the same meaning in `run` and are passed to it.
PASSED = (
    "model", "model_args", "limit", "num_fewshot", "batch_size", "device", "devices", "seed", "data_dir", "include_path", "apply_chat_template",
    "system_instruction", "metadata", "confirm_run_unsafe_code", "unsandboxed", "sandbox", "output_path", "verbosity", "resume",
)  # fmt: skip


@dataclass(frozen=True)
class Plan:
    """The runs of a sweep.

    Attributes:
        settings: settings of every run. `tasks` are those that generate text; `decode` is empty.
        grid: combinations of decode settings.
        fixed: decode settings that all combinations share.
        question: task name -> the question that it asks; templates of one question share it.
        metrics: task name -> reported metric.
        baseline: whether to run the baseline.
        arguments: task name -> generation settings of its YAML.
    """

    settings: RunSettings
    grid: list[dict[str, str]]
    fixed: dict[str, str]
    question: dict[str, str]
    metrics: dict[str, str]
    baseline: bool
    arguments: dict[str, Mapping[str, Any]]

    def fitting(self, model: Denoiser) -> tuple[list[tuple[dict[str, Any], bool]], list[str]]:
        """Returns those of `combinations` that `model` can use, and a line about each of the others.

        Raises:
            UserError: it can use no point of the grid.
        """
        fitting, reasons = [], []
        for decode, baseline in self.combinations(model):
            try:
                self._refuse(model, decode, baseline)
                fitting.append((decode, baseline))
            except UserError as error:
                reasons.append(str(error))
        if all(baseline for _, baseline in fitting):
            others = f" (nor {counted(len(reasons) - 1, 'other')})" if len(reasons) > 1 else ""
            raise UserError(reasons[0] + others)
        return fitting, [one_line(f"left out: {reason}") for reason in reasons]

    def _refuse(self, model: Denoiser, decode: Mapping[str, Any], baseline: bool) -> None:
        options = DecodeOptions.of({**self.fixed, **decode}, model)
        for name, arguments in self.arguments.items():
            settings = options.resolved(options.request(arguments, name))
            try:
                refuse_settings(model, settings)
            except UserError as error:
                title = "baseline" if baseline else words_of(decode)
                raise UserError(f"{error} (task {name}, {title})") from error

    def combinations(self, model: Denoiser) -> list[tuple[dict[str, Any], bool]]:
        """Returns (decode settings, whether they are the baseline) of each run, baseline first."""
        first: list[tuple[dict[str, Any], bool]] = []
        if self.baseline and model.process == "absorbing":
            first = [({**baseline_settings(self.fixed), **one_token(model)}, True)]
        elif self.baseline:
            log.warning(
                "no baseline: a model of process '%s' has no one-token-per-step decoder",
                model.process,
            )
        return [*first, *((point, False) for point in self.grid)]


def make_plan(given: Mapping[str, Any]) -> Plan:
    """Returns the runs of a sweep, after all checks that need no model.

    Args:
        given: the options of the command line, by name.

    Raises:
        UserError: a setting, task, metric or combination is wrong.
    """
    settings = _run_settings(given)
    kind_of(settings.model)
    check_variables()
    points = grid(given["decode"])
    fixed = parse_pairs(",".join(given["decode_fixed"] or ()), "--decode_fixed")
    twice = [key for key in fixed if any(key in point for point in points)]
    if twice:
        raise UserError(f"--decode_fixed {twice[0]} is in the grid of --decode too; give it once")
    tasks, left = _writing_tasks(settings)
    question = _questions(tasks, bool(given["templates"]) or given["sweep"] == "templates")
    _check_y_max(given["y_max"], question)
    metrics = {name: _metric(task, name, given["metric"]) for name, task in tasks.items()}
    process = process_of(settings.model, settings.model_args)
    for point in points:
        _check({**fixed, **point}, tasks, settings, words_of(point))
    if not given["no_baseline"] and process in (None, "absorbing"):
        _check({**fixed, **baseline_settings(fixed)}, tasks, settings, "baseline")
    settings = dataclasses.replace(settings, tasks=_specs(settings, tasks, left))
    arguments = {name: task.config.generation_kwargs or {} for name, task in tasks.items()}
    return Plan(settings, points, fixed, question, metrics, not given["no_baseline"], arguments)


def _run_settings(given: Mapping[str, Any]) -> RunSettings:
    words = ",".join((*given["tasks"], *given["templates"])).split(",")
    names = [word.strip() for word in words if word.strip()]
    settings = run_settings({**{key: given[key] for key in PASSED}, "tasks": names})
    if str(settings.output_path).endswith(".json"):
        raise UserError(
            f"--output_path '{settings.output_path}' is not allowed; a sweep needs a folder"
        )
    return settings


def _questions(tasks: Mapping[str, Any], as_templates: bool) -> dict[str, str]:
    """Returns the question that each task asks: one for all, or its own."""
    if as_templates and len(tasks) < 2:
        raise UserError(
            "--templates needs at least two wordings of a question; add tasks to --tasks or "
            "--templates"
        )
    shared = f"{next(iter(tasks))} in {len(tasks)} wordings"
    return {name: shared if as_templates else name for name in tasks}


def _check_y_max(y_max: float | None, question: Mapping[str, str]) -> None:
    if y_max is not None and len(set(question.values())) > 1:
        raise UserError(
            f"--y_max '{y_max:g}' is of one task, but there are {len(question)}; sweep them one by "
            "one"
        )
    if y_max is not None and not 0 < y_max <= 100:
        raise UserError(
            f"--y_max '{y_max:g}' is not allowed; it must be above 0 and at most 100 (percent)"
        )


def _writing_tasks(settings: RunSettings) -> tuple[dict[str, Any], list[str]]:
    """Returns the tasks that generate text, by name, and the names of the other tasks, which do not
    depend on decode settings.
    """
    loaded = tasks_of(settings)
    check_fewshot(loaded, settings.num_fewshot)
    found = ways(loaded["tasks"])
    refuse_unsandboxed(found, settings)
    if settings.confirm_run_unsafe_code:
        start_sandbox(loaded, settings)
    unsafe = [] if settings.confirm_run_unsafe_code else list(found)
    writing = {
        name: task for name, task in loaded["tasks"].items() if task.OUTPUT_TYPE == "generate_until"
    }
    kept = {name: task for name, task in writing.items() if name not in unsafe}
    left = [name for name in loaded["tasks"] if name not in kept]
    if not kept:
        reason = (
            "run generated code; add --confirm_run_unsafe_code to allow it"
            if set(left) == set(unsafe)
            else "generate no text, so decode settings have no effect on them"
        )
        raise UserError(f"--tasks {', '.join(left)} {reason}")
    if left:
        log.warning(
            "skipped: %s (they generate no text, or would run generated code)", ", ".join(left)
        )
    return kept, left


def _specs(settings: RunSettings, kept: Mapping[str, Any], left: Sequence[str]) -> tuple[str, ...]:
    """Returns task names for `run`.

    The user's names are returned if they name only kept tasks, since a YAML file may have no other
    name. Otherwise the names of the kept tasks are returned.
    """
    if not left:
        return settings.tasks
    specs: list[str] = []
    for spec in settings.tasks:
        names = tasks_of(settings, [spec])["tasks"]
        specs += (
            [spec]
            if all(name in kept for name in names)
            else [name for name in names if name in kept]
        )
    return tuple(dict.fromkeys(specs))


def _metric(task: Any, name: str, wanted: str | None) -> str:
    names = [str(entry["metric"]) for entry in task.config.metric_list or ()]
    if wanted is not None and wanted not in names:
        raise unknown_name_error(f"--metric of task {name}", wanted, names)
    return wanted or names[0]


def _check(
    decode: Mapping[str, Any], tasks: Mapping[str, Any], run: RunSettings, title: str
) -> None:
    """Raises UserError if settings do not fit the model's process or a task's own length."""
    process = process_of(run.model, run.model_args)
    # 0: no length is set.
    options = DecodeOptions.before_loading(decode, run.model, run.model_args, 0)
    if decode.get("preset") == "authors":
        return  # they depend on the checkpoint
    for name, task in tasks.items():
        hole = getattr(task, "infill", None)
        named = hole.any_hole() if hole is not None else None
        ask = options.request(
            {**(task.config.generation_kwargs or {}), **({HOLE: named} if named else {})}, name
        )
        try:
            settings = options.settings(ask, (ask.hole.length.tokens or 0) if hole is None else 0)
            if process is not None:
                settings.check_process(process)
        except UserError as error:
            raise UserError(f"{error} (task {name}, {title})") from error
