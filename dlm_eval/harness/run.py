"""A run from settings to saved results: tasks, then the model, then lm-eval's evaluator, then the files.

Order matters: whatever can be wrong with names, data, options or the output directory shows before a weight is loaded.
"""

from __future__ import annotations

import gc
import logging
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dlm_eval.errors import DlmEvalError, RunError, UserError
from dlm_eval.harness.checks import Ask, check_settings, check_tasks, settle_unsafe, take_sandbox
from dlm_eval.harness.code_tasks import said, ways
from dlm_eval.harness.contained import contained
from dlm_eval.harness.models import Loaded, adapt, load
from dlm_eval.harness.run_settings import RunSettings, output_directory, run_settings
from dlm_eval.harness.stock_code import code_eval_replaced, note_ahead
from dlm_eval.harness.tasks import load_tasks
from dlm_eval.journal import Journal
from dlm_eval.models import given
from dlm_eval.output import safe_log
from dlm_eval.redaction import redact_values
from dlm_eval.stopping import last_duty

if TYPE_CHECKING:
    from dlm_eval.engine import Cost
    from dlm_eval.harness.guard import Guard
    from dlm_eval.models.denoiser import Denoiser


@dataclass(frozen=True)
class Finished:
    """A run's results, where they were saved (None if nothing was to be saved), samples that erred, and what could not be had besides."""

    results: dict[str, Any]
    file: Path | None
    errors: int
    missing: tuple[str, ...] = ()


def evaluate(model: str | Denoiser, tasks: Any, **settings: Any) -> dict[str, Any]:
    """Runs an evaluation; returns lm-eval's results dict with our block under 'dlm_eval' and the samples under 'samples'.

    Args:
        model: family, named checkpoint, lm-eval model, or a denoiser (of `load_model`, of `wrap` or of your own).
        tasks: names, globs, YAML paths, configurations (mappings) or lm-eval's task objects.
        settings: see `RunSettings`.

    Raises:
        UserError: a setting that is not allowed.
        RunError: results could not be saved.
    """
    if isinstance(model, str):
        return run(run_settings({"model": model, "tasks": tasks, **settings})).results
    if elsewhere := sorted({"model_args", "device", "devices", "engine"} & settings.keys()):
        raise UserError(f"{elsewhere[0]} is not possible with a model object, which runs in this process as it is")
    with given(model) as name:
        return run(run_settings({"model": name, "tasks": tasks, **settings})).results


def run(settings: RunSettings, ask: Ask | None = None, shared: Loaded | None = None) -> Finished:
    """Runs an evaluation.

    Args:
        settings: what to run.
        ask: asks the user whether generated code may run, for tasks that need it; None where nobody can be asked.
        shared: the model of `settings`, loaded before (`open_model`), whose journal is used too; None loads it for this run alone.
    """
    with safe_log():
        return _run(settings, ask, shared)


def _run(settings: RunSettings, ask: Ask | None, shared: Loaded | None) -> Finished:
    start = time.perf_counter()
    check_settings(settings)
    home = output_directory(settings.output_path) if settings.output_path else None
    metadata = {**settings.model_args, **settings.metadata}
    tasks = load_tasks(
        list(settings.tasks),
        include_path=settings.include_path,
        data_dir=settings.data_dir,
        metadata=metadata,
        seeds=settings.seeds,
    )
    tasks = settle_unsafe(tasks, settings, ask)
    check_tasks(tasks, settings)
    take_sandbox(tasks, settings)
    results: dict[str, Any] = {}
    unkept: list[str] = []
    try:
        with ExitStack() as stack:
            loaded = stack.enter_context(open_model(settings, home)) if shared is None else adapt(shared, settings)
            stack.enter_context(contained(settings.verbosity == "DEBUG"))
            stack.enter_context(code_eval_replaced())
            results, errors = _evaluate(loaded, tasks, settings, start)
    except RunError as error:
        if not results:
            raise
        unkept.append(f"the last answers in the journal ({error})")  # which closes behind the results
    missing = [*results["dlm_eval"].get("missing", ()), *unkept]
    file = _save(results, loaded, settings, start, missing) if settings.output_path else None
    return Finished(results, file, errors, tuple(missing))


@contextmanager
def open_model(settings: RunSettings, home: Path | None) -> Iterator[Loaded]:
    """Yields the model of a run with the journal in `home`; closes both. Runs that differ in their settings alone may share it (`run`).

    Raises:
        UserError: an option or checkpoint that cannot be used.
    """
    journal = Journal(home / "journal.sqlite") if home and settings.resume else None
    with ExitStack() as stack:
        if journal is not None:
            stack.callback(journal.close)
            stack.enter_context(last_duty(journal.commit))
        loaded = load(settings, journal)
        stack.callback(loaded.close)
        if loaded.ours:
            stack.enter_context(last_duty(loaded.lm.pool.close))
        gc.freeze()  # model and libraries stay: to look through them for garbage again and again is a tenth of the harness's time
        stack.callback(gc.unfreeze)
        yield loaded


@dataclass(frozen=True)
class _Preloaded:
    """As much of lm-eval's TaskManager as its evaluator needs once the tasks are there."""

    tasks: dict[str, Any]
    task_index: Mapping[str, Any]

    def load(self, _: Any) -> dict[str, Any]:
        return self.tasks


def _evaluate(loaded: Loaded, tasks: dict[str, Any], settings: RunSettings, start: float) -> tuple[dict[str, Any], int]:
    """Returns lm-eval's results with our block, and the number of documents that erred."""
    from dlm_eval.harness.guard import Guard
    from dlm_eval.harness.ordered import by_order

    if loaded.ours:
        loaded.lm.by_order = frozenset(name for name, task in tasks["tasks"].items() if by_order(task))
    guard = Guard(settings.seeds[3])
    before = loaded.lm.pool.cost() if loaded.ours else None  # runs that shared the model have run rows too
    running = {} if settings.predict_only else ways(tasks["tasks"])
    for name, task in tasks["tasks"].items():
        if name in running:
            note_ahead(name, task)
        guard.watch(name, task, lambda: _records(loaded))
    results = _answers_and_scores(loaded, tasks, settings, guard)
    device = loaded.lm.pool.cost() - before if before is not None else None
    return _with_block(results, loaded, tasks, settings, guard, running, device, start)


def _records(loaded: Loaded) -> list[Any]:
    return list(loaded.lm.records) if loaded.ours else []


def _answers_and_scores(loaded: Loaded, tasks: dict[str, Any], settings: RunSettings, guard: Guard) -> dict[str, Any]:
    """Returns what lm-eval's evaluator makes of the tasks; once all is answered, results without scores if it fails.

    Raises:
        RunError: it failed before all was answered.
    """
    from lm_eval import simple_evaluate

    from dlm_eval.harness.guard import reason_of
    from dlm_eval.harness.results import unscored

    try:
        with guard.aggregating():
            outcome = simple_evaluate(
                model=loaded.lm,
                tasks=list(tasks["tasks"]),
                task_manager=_Preloaded(tasks, {}),
                gen_kwargs=None if loaded.ours else dict(settings.gen_kwargs) or None,
                **_options(settings),
            )
    except DlmEvalError:
        raise
    except Exception as error:
        if not _answered(tasks["tasks"]):
            raise RunError(f"the run failed: {reason_of(error)} (--verbosity DEBUG shows where)") from error
        with guard.adding("all scores"):
            raise
        outcome = unscored(tasks["tasks"])
    return dict(outcome)


def _with_block(
    results: dict[str, Any],
    loaded: Loaded,
    tasks: dict[str, Any],
    settings: RunSettings,
    guard: Guard,
    running: Mapping[str, Any],
    device: Cost | None,
    start: float,
) -> tuple[dict[str, Any], int]:
    """Returns the results with costs, identities and errors, fit to be written, and the number of documents that erred.

    Args:
        results: of lm-eval's evaluator.
        loaded: the model.
        tasks: lm-eval's task dictionary.
        settings: of the run.
        guard: what it kept from ending the run.
        running: how the tasks that run code ran it, by name.
        device: what the device ran; None for models of lm-eval's own.
        start: of the run, on the clock of `time.perf_counter`.
    """
    from dlm_eval.harness.block import block, public, spreads
    from dlm_eval.harness.identity import digests
    from dlm_eval.harness.plain import make_plain, unmet
    from dlm_eval.harness.results import attach_costs, count_errors, nameable, public_results
    from dlm_eval.harness.saving import plain

    make_plain(results)
    results["config"] |= {
        "model": settings.model,
        "model_args": public(settings.model_args),
        "gen_kwargs": dict(settings.gen_kwargs),
    }
    results["configs"] = nameable(results["configs"])
    records = _records(loaded)
    with guard.adding("costs of the samples"):
        attach_costs(results, records, guard.reason)
    errors = count_errors(results)
    named = {
        name: digests(name, task, loaded, settings, results["samples"].get(name, ()))
        for name, task in tasks["tasks"].items()
    }
    with guard.adding("which settings the journal's answers have"):
        _note_settings(loaded, tasks, settings, records)
    ours = block(loaded, settings, records, errors, device, time.perf_counter() - start, named)
    results["dlm_eval"] = ours
    for name, notes in guard.notes().items():
        ours["tasks"].setdefault(name, {}).update(notes)
    if running:
        ours["environment"]["sandbox"] = said(running)
    with guard.adding("the estimator's part of standard errors"):
        ours |= spreads(tasks, results)
    ours["unmet_aggregates"] = unmet(tasks["groups"], results["results"])
    if guard.missing:
        ours["missing"] = guard.missing
    try:
        return public_results(results), sum(errors.values())
    except Exception:  # of an object that a task put into its metrics
        return public_results(plain(results)), sum(errors.values())


def _note_settings(loaded: Loaded, tasks: dict[str, Any], settings: RunSettings, records: list[Any]) -> None:
    """Notes in the journal with which settings its answers were asked for; with --score_only says which are absent."""
    from dlm_eval.harness.asked import note_asked, say_absent
    from dlm_eval.harness.identity import asked_with

    if not loaded.ours or loaded.lm.journal is None:
        return
    for name, task in tasks["tasks"].items():
        asked = asked_with(name, task, loaded, settings)
        if settings.score_only:
            say_absent(loaded.lm.journal, name, asked, records)
        else:
            note_asked(loaded.lm.journal, name, asked)


def _answered(tasks: Mapping[str, Any]) -> bool:
    """Returns whether the model has answered every request of the tasks."""
    asked = [vars(task).get("_instances") or () for task in tasks.values()]
    return all(requests and all(request.resps for request in requests) for requests in asked)


def _options(settings: RunSettings) -> dict[str, Any]:
    """Returns the arguments of lm-eval's evaluator that are settings of ours."""
    from dlm_eval.harness.identity import multiturn

    random, numpy, torch, fewshot = settings.seeds
    samples = {name: sorted(set(numbers)) for name, numbers in (settings.samples or {}).items()}
    same = (
        "num_fewshot",
        "limit",
        "bootstrap_iters",
        "write_out",
        "apply_chat_template",
        "predict_only",
        "batch_size",
        "device",
    )
    return {
        **{name: getattr(settings, name) for name in same},
        "samples": samples or None,
        "log_samples": True,
        "system_instruction": system_instruction(settings),
        "fewshot_as_multiturn": multiturn(settings),
        "random_seed": random,
        "numpy_random_seed": numpy,
        "torch_random_seed": torch,
        "fewshot_random_seed": fewshot,
        "confirm_run_unsafe_code": True,  # settled before (checks.py)
    }


def system_instruction(settings: RunSettings) -> str | None:
    """Returns the system instruction; lm-eval glues it to the prompt without a separator where there is no chat template."""
    text = settings.system_instruction
    return text if text is None or settings.apply_chat_template or text.endswith("\n") else text + "\n\n"


def _save(results: dict[str, Any], loaded: Loaded, settings: RunSettings, start: float, missing: list[str]) -> Path:
    from dlm_eval.harness.identity import multiturn
    from dlm_eval.harness.saving import save

    kept = results if settings.log_samples else {key: value for key, value in results.items() if key != "samples"}
    config = {
        "system_instruction": redact_values(settings.system_instruction),
        "chat_template": redact_values(loaded.lm.chat_template(settings.apply_chat_template))
        if settings.apply_chat_template
        else None,
        "fewshot_as_multiturn": multiturn(settings),
        "start_time": start,
    }
    assert settings.output_path is not None
    with _pushes_noted(missing):
        return save(kept, settings.output_path, loaded.name, settings.hf_hub_log_args, config)


@contextmanager
def _pushes_noted(missing: list[str]) -> Iterator[None]:
    """Notes what lm-eval's tracker could not push to the hub: it says so in the log alone."""

    class Noting(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if record.levelno >= logging.WARNING and record.getMessage().startswith("Could not"):
                missing.append(f"on the hub ({record.getMessage()})")

    handler, logger = Noting(), logging.getLogger("lm_eval.loggers.evaluation_tracker")
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)
