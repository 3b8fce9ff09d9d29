"""A run from settings to saved results: tasks, then the model, then lm-eval's evaluator, then the files.

Order matters: whatever can be wrong with names, data, options or the output directory shows before a weight is loaded.
"""

from __future__ import annotations

import dataclasses
import gc
import logging
import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dlm_eval.errors import UserError
from dlm_eval.harness.contained import contained
from dlm_eval.harness.decode_options import DecodeOptions, check_requests, user_layer
from dlm_eval.harness.models import Loaded, adapt, check_model_name, is_ours, load
from dlm_eval.harness.run_settings import RunSettings, output_directory, run_settings
from dlm_eval.harness.tasks import check_fewshot, load_tasks, unsafe_tasks
from dlm_eval.journal import Journal
from dlm_eval.stopping import last_duty

log = logging.getLogger(__name__)
Ask = Callable[[list[str]], bool]
# Settings that only a denoiser of ours reads.
OURS_ALONE = ("estimator", "decode", "devices", "engine", "stride", "overlong", "score_only")


@dataclass(frozen=True)
class Finished:
    """A run's results and where they were saved (None where nothing was to be saved)."""

    results: dict[str, Any]
    file: Path | None
    errors: int


def evaluate(model: str, tasks: Any, **settings: Any) -> dict[str, Any]:
    """Runs an evaluation; returns lm-eval's results dict with our block under 'dlm_eval' and the samples under 'samples'.

    Args:
        model: family, named checkpoint or lm-eval model.
        tasks: names.
        settings: see `RunSettings`.

    Raises:
        UserError: a setting that is not allowed.
        RunError: results could not be saved.
    """
    return run(run_settings({"model": model, "tasks": tasks, **settings})).results


def run(settings: RunSettings, ask: Ask | None = None, shared: Loaded | None = None) -> Finished:
    """Runs an evaluation.

    Args:
        settings: what to run.
        ask: asks the user whether generated code may run, for tasks that need it; None where nobody can be asked.
        shared: the model of `settings`, loaded before (`open_model`), whose journal is used too; None loads it for this run alone.
    """
    start = time.perf_counter()
    _refuse_launchers()
    check_model_name(settings.model)
    _check_options(settings)
    home = output_directory(settings.output_path) if settings.output_path else None
    metadata = {**settings.model_args, **settings.metadata}
    tasks = load_tasks(
        list(settings.tasks), include_path=settings.include_path, data_dir=settings.data_dir, metadata=metadata
    )
    tasks = _settle_unsafe(tasks, settings, ask)
    check_fewshot(tasks, settings.num_fewshot)
    if is_ours(settings.model):
        check_requests(DecodeOptions(user_layer(settings.gen_kwargs, settings.decode)), tasks["tasks"])
    _check_sample_names(tasks, settings)
    _check_decide(tasks["tasks"], settings.estimator)
    with ExitStack() as stack:
        loaded = stack.enter_context(open_model(settings, home)) if shared is None else adapt(shared, settings)
        stack.enter_context(contained(settings.verbosity == "DEBUG"))
        results, errors = _evaluate(loaded, tasks, settings, start)
    file = _save(results, loaded, settings, start) if settings.output_path else None
    return Finished(results, file, errors)


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


def _refuse_launchers() -> None:
    """Raises UserError under torchrun or accelerate launch: every process would run everything; here one process drives and its workers serve."""
    processes = os.environ.get("WORLD_SIZE", "1")
    if processes not in ("", "0", "1"):
        raise UserError(
            f"WORLD_SIZE '{processes}' (torchrun, accelerate launch) is not supported; start one process: dlm-eval ... --devices gpu:{processes}"
        )


def _check_options(settings: RunSettings) -> None:
    """Parses what would otherwise be found wrong only after the weights are loaded."""
    from dlm_eval.budget import parse_batch_size
    from dlm_eval.decoding import check_process, resolve
    from dlm_eval.models import process_of
    from dlm_eval.scoring import parse_estimator

    parse_batch_size(settings.batch_size or "auto")
    if not is_ours(settings.model):
        return _refuse_ours(settings)
    parse_estimator(settings.estimator)
    user = {
        k: v for k, v in user_layer(settings.gen_kwargs, settings.decode).items() if (k, v) != ("preset", "authors")
    }
    process = process_of(settings.model, settings.model_args)
    options = DecodeOptions(user, process=process or "absorbing")
    ask = options.request({})
    if ask.hole.length == str(options.default_length):  # nobody named a length yet: a task may
        decode = resolve(*ask.layers)
    else:
        decode = options.settings(ask, int(ask.hole.length))
    if process is not None:
        check_process(decode, process)


def _refuse_ours(settings: RunSettings) -> None:
    """Raises UserError where lm-eval's own models would ignore a setting."""
    for field in dataclasses.fields(settings):
        if field.name in OURS_ALONE and getattr(settings, field.name) not in (field.default, {}):
            raise UserError(
                f"--{field.name} means nothing to --model '{settings.model}', which is lm-eval's own; leave it out"
            )


def _settle_unsafe(tasks: dict[str, Any], settings: RunSettings, ask: Ask | None) -> dict[str, Any]:
    """Returns the tasks that may run. Generated code runs only when the user said so: by the option, or when asked.

    A task that was named itself is an error without that word; inside a group it is left out, and said.
    """
    unsafe = unsafe_tasks(tasks)
    if not unsafe or settings.confirm_run_unsafe_code or settings.predict_only or (ask is not None and ask(unsafe)):
        return tasks
    named = [name for name in unsafe if name in settings.tasks]
    if named or len(unsafe) == len(tasks["tasks"]):
        raise UserError(
            f"--tasks {', '.join(named or unsafe)} runs generated code (in a sandbox); add --confirm_run_unsafe_code to allow it"
        )
    log.warning(
        "left out: %s (runs generated code, in a sandbox; --confirm_run_unsafe_code includes it)", ", ".join(unsafe)
    )
    for name in unsafe:
        del tasks["tasks"][name]
        for group in tasks["groups"].values():
            group.pop(name)
    tasks["group_map"] = {name: group.child_names for name, group in tasks["groups"].items()}
    return tasks


def _check_sample_names(tasks: Mapping[str, Any], settings: RunSettings) -> None:
    from dlm_eval.errors import unknown

    for name, numbers in (settings.samples or {}).items():
        if name not in tasks["tasks"]:
            raise unknown("--samples task", name, tasks["tasks"])
        count = len(tasks["tasks"][name].eval_docs)
        if max(numbers) >= count:
            raise UserError(
                f"--samples {name} '{max(numbers)}' is not allowed; the task has documents 0 to {count - 1}"
            )


def _check_decide(tasks: Mapping[str, Any], estimator: str) -> None:
    from dlm_eval.scoring import parse_estimator

    if parse_estimator(estimator).decide is not None and not any(
        task.OUTPUT_TYPE == "multiple_choice" for task in tasks.values()
    ):
        raise UserError(
            f"--estimator '{estimator}' is not allowed: decide is for multiple choice, and none of {', '.join(tasks)} is"
        )


@dataclass(frozen=True)
class _Preloaded:
    """As much of lm-eval's TaskManager as its evaluator needs once the tasks are there."""

    tasks: dict[str, Any]
    task_index: Mapping[str, Any]

    def load(self, _: Any) -> dict[str, Any]:
        return self.tasks


def _evaluate(loaded: Loaded, tasks: dict[str, Any], settings: RunSettings, start: float) -> tuple[dict[str, Any], int]:
    """Returns lm-eval's results with our block, and the number of documents that erred."""
    from lm_eval import simple_evaluate

    from dlm_eval.harness import results as files
    from dlm_eval.harness.block import block, public, spreads
    from dlm_eval.harness.guard import Guard

    guard = Guard()
    before = loaded.lm.pool.cost() if loaded.ours else None  # runs that shared the model have run rows too

    def records() -> list[Any]:
        return list(loaded.lm.records) if loaded.ours else []

    for name, task in tasks["tasks"].items():
        guard.watch(name, task, records)
    random, numpy, torch_seed, fewshot = settings.seeds
    outcome = simple_evaluate(
        model=loaded.lm,
        tasks=list(tasks["tasks"]),
        task_manager=_Preloaded(tasks, {}),
        num_fewshot=settings.num_fewshot,
        limit=settings.limit,
        samples={name: sorted(set(numbers)) for name, numbers in settings.samples.items()}
        if settings.samples
        else None,
        bootstrap_iters=settings.bootstrap_iters,
        write_out=settings.write_out,
        log_samples=True,
        system_instruction=_system(settings),
        apply_chat_template=settings.apply_chat_template,
        fewshot_as_multiturn=bool(settings.apply_chat_template)
        if settings.fewshot_as_multiturn is None
        else settings.fewshot_as_multiturn,
        gen_kwargs=None if loaded.ours else dict(settings.gen_kwargs) or None,
        predict_only=settings.predict_only,
        random_seed=random,
        numpy_random_seed=numpy,
        torch_random_seed=torch_seed,
        fewshot_random_seed=fewshot,
        confirm_run_unsafe_code=True,
        batch_size=settings.batch_size,
        device=settings.device,
    )
    results = dict(outcome)
    results["config"] |= {
        "model": settings.model,
        "model_args": public(settings.model_args),
        "gen_kwargs": dict(settings.gen_kwargs),
    }
    results["configs"] = files.nameable(results["configs"])
    files.attach_costs(results, records(), guard.reason)
    device = loaded.lm.pool.cost() - before if before is not None else None
    errors = files.count_errors(results)
    results["dlm_eval"] = block(loaded, settings, records(), errors, device, time.perf_counter() - start)
    if settings.confirm_run_unsafe_code and unsafe_tasks(tasks):
        from dlm_eval.sandbox import protections

        results["dlm_eval"]["environment"]["sandbox"] = list(protections())
    results["dlm_eval"] |= spreads(tasks, results)
    return results, sum(errors.values())


def _system(settings: RunSettings) -> str | None:
    """Returns the system instruction; lm-eval glues it to the prompt without a separator where there is no chat template."""
    text = settings.system_instruction
    return text if text is None or settings.apply_chat_template or text.endswith("\n") else text + "\n\n"


def _save(results: dict[str, Any], loaded: Loaded, settings: RunSettings, start: float) -> Path:
    from dlm_eval.harness import results as files

    kept = results if settings.log_samples else {key: value for key, value in results.items() if key != "samples"}
    config = {
        "system_instruction": settings.system_instruction,
        "chat_template": loaded.lm.chat_template(settings.apply_chat_template)
        if settings.apply_chat_template
        else None,
        "fewshot_as_multiturn": settings.fewshot_as_multiturn,
        "start_time": start,
    }
    assert settings.output_path is not None
    return files.save(kept, settings.output_path, loaded.name, settings.hf_hub_log_args, config)
