"""A run from settings to saved results.

The steps are: load the tasks, open the model, run lm-eval's evaluator, write the files. Errors in
names, data, options and the output directory are found before the weights are loaded.
"""

from __future__ import annotations

import functools
import logging
import textwrap
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from lm_eval import simple_evaluate

from dlm_eval.errors import DlmEvalError, RunError, UserError
from dlm_eval.harness import lm_eval_patches as patches
from dlm_eval.harness.blocks import cut_tasks
from dlm_eval.harness.checks import (
    Ask,
    check_sample_numbers,
    check_settings,
    check_tasks,
    confirm_unsafe,
    start_sandbox,
)
from dlm_eval.harness.code_tasks import ways
from dlm_eval.harness.lm import by_order
from dlm_eval.harness.model_kind import Loaded
from dlm_eval.harness.open_model import open_model
from dlm_eval.harness.repeats import drop_from_samples, repeat_answers
from dlm_eval.harness.result_text import EvaluationResults
from dlm_eval.harness.results import (
    attach_costs,
    count_errors,
    json_value,
    jsonable_config,
    make_plain,
    public_results,
    unscored,
)
from dlm_eval.harness.run_metadata import public_arguments, run_metadata
from dlm_eval.harness.run_settings import RunSettings, output_directory, run_settings, settings_docs
from dlm_eval.harness.sample_errors import SampleErrors, reason_of
from dlm_eval.harness.sampling_errors import add_sampling_errors
from dlm_eval.harness.saving import save
from dlm_eval.harness.tasks import load_tasks
from dlm_eval.harness.unread_metadata import notes as unread_notes
from dlm_eval.harness.unread_metadata import unread
from dlm_eval.harness.votes import add_to_samples, vote_over_steps
from dlm_eval.models import given
from dlm_eval.output import safe_log
from dlm_eval.redaction import redact, redact_values
from dlm_eval.variables import streams

if TYPE_CHECKING:
    from dlm_eval.models.denoiser import Denoiser


log = logging.getLogger(__name__)
# Settings that are no keyword of `evaluate`: its own arguments, and what is for the command line.
NOT_IN_PYTHON = ("model", "tasks", "shard")


@dataclass(frozen=True)
class Finished:
    """A finished run.

    Attributes:
        results: lm-eval's results with our block.
        file: the results file; None if nothing was saved.
        errors: number of failed samples.
        missing: parts of the results that could not be computed or saved, with reasons.
    """

    results: dict[str, Any]
    file: Path | None
    errors: int
    missing: tuple[str, ...] = ()


def evaluate(
    model: str | Denoiser | None = None, tasks: Any = None, suite: Any = None, **settings: Any
) -> dict[str, Any]:
    """Runs an evaluation; returns lm-eval's results, with our block under 'dlm_eval' and samples
    under 'samples'. With `dry_run`, nothing is run, and the plan is returned (`Plan.plain`).

    Args:
        model: family, named checkpoint, lm-eval model, or a denoiser (from `load_model`, `wrap` or
            your own). None, with a suite, is the suite's first model.
        tasks: names, globs, YAML paths, configurations (mappings) or lm-eval's task objects. With a
            suite, names or globs of its entries.
        suite: name or YAML file of a suite. `settings` then replace those of its entries, and the
            figures of all entries are returned, with the results of each run under 'runs'
            (`SuiteFinished.plain`).
        settings: settings of the run by name, as below; those of the command line without `--`.

    Raises:
        UserError: a setting is not allowed.
        RunError: results could not be saved.
    """
    if "shard" in settings:
        raise UserError(
            "shard is for the command line (`dlm-eval run --shard`, then `dlm-eval merge`)"
        )
    asked = {"tasks": tasks, "suite": suite, **settings}
    if model is None or isinstance(model, str):
        return _evaluated({"model": model, **asked})
    if elsewhere := sorted({"model_args", "device", "devices", "engine"} & settings.keys()):
        raise UserError(
            f"{elsewhere[0]} is not possible with a model object, which runs in this process as it "
            "is"
        )
    with given(model) as name:
        return _evaluated({"model": name, **asked})


def _with_settings(doc: str | None) -> str:
    """Returns a docstring with all settings of `evaluate` at its end."""
    named = {key: said for key, said in settings_docs().items() if key not in NOT_IN_PYTHON}
    lines = [
        textwrap.fill(f"{key}: {said}", 96, initial_indent=" " * 8, subsequent_indent=" " * 12)
        for key, said in named.items()
    ]
    return "\n".join([(doc or "").rstrip(), "", "    Settings:", *lines, ""])


evaluate.__doc__ = _with_settings(evaluate.__doc__)


def _evaluated(values: Mapping[str, Any]) -> dict[str, Any]:
    if values["suite"] is not None:
        from dlm_eval.harness.suite_run import plan_suite, run_suite

        if values.get("dry_run"):
            raise UserError("dry_run with a suite is for the command line (--suite --dry_run)")
        return run_suite(plan_suite(values)).plain()
    settings = run_settings({key: value for key, value in values.items() if key != "suite"})
    if settings.dry_run:
        from dlm_eval.harness.dry_run import dry_run

        return dry_run(settings).plain()
    return EvaluationResults(run(settings).results)


# A function that is called with the model and the tasks after all answers and before the filters.
Answered = Callable[[Loaded, Mapping[str, Any]], None]


def run(
    settings: RunSettings,
    ask: Ask | None = None,
    shared: Loaded | None = None,
    answered: Answered | None = None,
    suite: Mapping[str, Any] | None = None,
) -> Finished:
    """Runs an evaluation.

    Args:
        ask: asks the user whether generated code may run, for tasks that need it; None if the user
            cannot be asked.
        shared: the model of `settings` with its journal, if it is already open (`open_model`); None
            opens it for this run.
        answered: called after all requests are answered. The run ends if it raises DlmEvalError.
        suite: what the results say about the suite that the run is part of (`suite_run.mark`).
    """
    with safe_log():
        return _run(settings, ask, shared, answered, suite)


def _run(
    settings: RunSettings,
    ask: Ask | None,
    shared: Loaded | None,
    answered: Answered | None,
    suite: Mapping[str, Any] | None,
) -> Finished:
    start = time.perf_counter()
    check_settings(settings)
    home = (
        output_directory(settings.output_path)
        if settings.output_path and not settings.dry_run
        else None
    )
    tasks = confirm_unsafe(tasks_of(settings), settings, ask)
    check_tasks(tasks, settings)
    if suite is None:  # another run of a suite may read it
        for note in unread_notes(unread(tasks["tasks"], settings.metadata)):
            log.warning("%s", note)
    if not settings.dry_run:
        start_sandbox(tasks, settings)
    results: dict[str, Any] = {}
    unkept: list[str] = []
    try:
        with ExitStack() as stack:
            opened = shared or stack.enter_context(open_model(settings, home))
            loaded = opened.under(
                settings, frozenset(name for name, task in tasks["tasks"].items() if by_order(task))
            )
            stack.enter_context(patches.evaluating(settings.verbosity == "DEBUG"))
            check_sample_numbers(cut_tasks(tasks["tasks"], loaded), settings.chosen)
            results, errors = _evaluate(loaded, tasks, settings, start, answered)
            if suite is not None:
                results["dlm_eval"]["suite"] = redact(suite)
    except RunError as error:
        if not results:
            raise
        # The journal is closed only after the results are made.
        unkept.append(f"the last answers in the journal ({error})")
    missing = [*results["dlm_eval"].get("missing", ()), *unkept]
    file = _save(results, loaded, settings, start, missing) if settings.output_path else None
    return Finished(results, file, errors, tuple(missing))


def tasks_of(settings: RunSettings, names: Sequence[Any] = ()) -> dict[str, Any]:
    """Returns lm-eval's task dictionary of a run, restricted to `names` if they are given."""
    loaded = load_tasks(
        names or settings.tasks,
        include_path=settings.include_path,
        data_dir=settings.data_dir,
        metadata={**settings.model_args, **settings.metadata},
        seeds=settings.seeds,
    )
    repeat_answers(loaded["tasks"], settings.repeats)
    vote_over_steps(loaded["tasks"], settings.weights)
    return loaded


def _evaluate(
    loaded: Loaded,
    tasks: dict[str, Any],
    settings: RunSettings,
    start: float,
    answered: Answered | None,
) -> tuple[dict[str, Any], int]:
    """Returns lm-eval's results with our block, and the number of failed documents."""
    errors = SampleErrors(settings.seeds[3], scorer_seed=settings.seeds[0])
    # The cost of earlier runs with this model.
    before = loaded.pool.cost()
    running = ways(tasks["tasks"]) if settings.scores else {}
    after = functools.partial(answered, loaded, tasks["tasks"]) if answered is not None else None
    patches.prepare_tasks(tasks["tasks"], errors, lambda: loaded.records, running, after)
    results = _answers_and_scores(loaded, tasks, settings, errors)
    device = loaded.pool.cost() - before + loaded.spent.device if loaded.ours else None
    drop_from_samples(results)
    add_to_samples(results)
    with errors.adding("standard errors over samples"):
        add_sampling_errors(results, tasks["tasks"])
    make_plain(results)
    results["config"] |= {
        "model": settings.model,
        "model_args": public_arguments(settings.model_args),
        "gen_kwargs": dict(settings.gen_kwargs),
    }
    results["configs"] = jsonable_config(results["configs"])
    for config in results["configs"].values():  # lm-eval passes the model's arguments to every task
        if isinstance(metadata := config.get("metadata"), dict):
            given = metadata.keys() & {*settings.model_args, *settings.metadata}
            metadata |= public_arguments({key: metadata[key] for key in given})
    with errors.adding("costs of the samples"):
        attach_costs(
            results, loaded.records, errors.reason, settings.chosen, settings.log_trajectories
        )
    seconds = time.perf_counter() - start + loaded.spent.wall_seconds
    results["dlm_eval"] = run_metadata(
        results, loaded, tasks, settings, errors, running, device, seconds
    )
    failed = sum(count_errors(results).values())
    try:
        return public_results(results), failed
    except Exception:  # a task may put any object into its metrics
        return public_results(json_value(results)), failed


def _answers_and_scores(
    loaded: Loaded, tasks: dict[str, Any], settings: RunSettings, errors: SampleErrors
) -> dict[str, Any]:
    """Returns the results of lm-eval's evaluator.

    If it fails after all requests are answered, the results have no scores.

    Raises:
        RunError: it failed before all requests were answered.
    """
    try:
        with ExitStack() as stack:
            stack.callback(errors.tell_counts)
            if loaded.ours:
                stack.callback(loaded.lm.stop)
            ahead = loaded.lm.ahead if loaded.ours and streams() else None
            stack.enter_context(patches.asking(list(tasks["tasks"].values()), errors, ahead))
            outcome = simple_evaluate(
                model=loaded.lm,
                tasks=list(tasks["tasks"]),
                # lm-eval uses nothing else of a manager.
                task_manager=SimpleNamespace(load=lambda _: tasks, task_index={}),
                gen_kwargs=None if loaded.ours else dict(settings.gen_kwargs) or None,
                **_options(settings),
            )
    except DlmEvalError:
        raise
    except Exception as error:
        if not _answered(tasks["tasks"]):
            raise RunError(
                f"the run failed: {reason_of(error)} (--verbosity DEBUG shows where)"
            ) from error
        with errors.adding("all scores"):
            raise
        outcome = unscored(tasks["tasks"], settings.chosen)
    return dict(outcome)


def _answered(tasks: Mapping[str, Any]) -> bool:
    """Returns whether the model has answered every request of the tasks."""
    asked = [vars(task).get("_instances") or () for task in tasks.values()]
    return all(requests and all(request.resps for request in requests) for requests in asked)


def _options(settings: RunSettings) -> dict[str, Any]:
    """Returns the arguments of lm-eval's evaluator that come from the settings."""
    random, numpy, torch, fewshot = settings.seeds
    same = (
        "num_fewshot", "limit", "bootstrap_iters", "write_out", "apply_chat_template", "predict_only", "batch_size", "device",
    )  # fmt: skip
    return {
        **{name: getattr(settings, name) for name in same},
        "samples": settings.chosen or None,
        "log_samples": True,
        "system_instruction": settings.system_text,
        "fewshot_as_multiturn": settings.multiturn,
        "random_seed": random,
        "numpy_random_seed": numpy,
        "torch_random_seed": torch,
        "fewshot_random_seed": fewshot,
        "confirm_run_unsafe_code": True,  # checked before (checks.py)
    }


def _save(
    results: dict[str, Any], loaded: Loaded, settings: RunSettings, start: float, missing: list[str]
) -> Path:
    kept = (
        results
        if settings.log_samples
        else {key: value for key, value in results.items() if key != "samples"}
    )
    config = {
        "system_instruction": redact_values(settings.system_instruction),
        "chat_template": redact_values(loaded.lm.chat_template(settings.apply_chat_template))
        if settings.apply_chat_template
        else None,
        "fewshot_as_multiturn": settings.multiturn,
        "start_time": start,
    }
    assert settings.output_path is not None
    with patches.failed_pushes(missing):
        return save(kept, settings.output_path, loaded.name, settings.hf_hub_log_args, config)
