"""Our block of a results file: model, settings, environment and cost of the run."""

from __future__ import annotations

import contextlib
import os
import platform
import subprocess
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

import dlm_eval
from dlm_eval.engine import Cost
from dlm_eval.harness.baseline import REMOTE
from dlm_eval.harness.code_tasks import Way, sandbox_entries
from dlm_eval.harness.identity import asked_with, digests, note_settings, warn_of_missing
from dlm_eval.harness.metric_errors import metric_errors, perplexity_bounds
from dlm_eval.harness.model_kind import Loaded
from dlm_eval.harness.results import (
    Record,
    cost_block,
    count_errors,
    task_settings,
    unmet_aggregates,
    unreturned_metrics,
)
from dlm_eval.harness.run_settings import RunSettings
from dlm_eval.harness.sample_errors import SampleErrors
from dlm_eval.harness.trial import scored_by_user
from dlm_eval.harness.unread_metadata import unread
from dlm_eval.redaction import redact
from dlm_eval.rng import digest
from dlm_eval.workers.messages import peak_memory

LIBRARIES = ("torch", "transformers", "lm_eval", "datasets", "numpy")


def run_metadata(
    results: Mapping[str, Any],
    loaded: Loaded,
    tasks: Mapping[str, Any],
    settings: RunSettings,
    sample_errors: SampleErrors,
    running: Mapping[str, Way],
    device: Cost | None,
    seconds: float,
) -> dict[str, Any]:
    """Returns the block 'dlm_eval' of the results; 'missing' lists parts that cannot be made.

    Args:
        results: lm-eval's results as plain data, with samples.
        device: cost on the devices in this run; None for lm-eval's own models.
    """
    records, errors = loaded.records, count_errors(results)
    named = {
        name: digests(name, task, loaded, settings, results["samples"].get(name, ()))
        for name, task in tasks["tasks"].items()
    }
    with sample_errors.adding("which settings the journal's answers have"):
        _note_settings(loaded, tasks["tasks"], settings, records)
    how, notes = task_settings(records), sample_errors.notes()
    block: dict[str, Any] = {
        "version": dlm_eval.__version__,
        "fingerprint": digest({name: task["fingerprint"] for name, task in named.items()}),
        "settings": _settings(loaded, settings),
        "tasks": {
            name: {**how.get(name, {}), **named.get(name, {}), **notes.get(name, {})}
            for name in {**named, **notes}
        },
        "cost": cost_block(records, errors, device, seconds),
        "environment": environment(
            str(loaded.lm.device or settings.device or "cpu"), loaded.pool.devices()
        ),
    }
    if settings.label is not None:
        block["label"] = settings.label
    if running:
        block["environment"]["sandbox"] = sandbox_entries(running)
    with sample_errors.adding("the estimator's part of standard errors"):
        block |= metric_errors(tasks, results)
        if bounds := perplexity_bounds(tasks, results, records):
            block["perplexity_bounds"] = bounds
    if unused := unread(tasks["tasks"], settings.metadata):
        block["unread_metadata"] = unused
    block["unmet_aggregates"] = unmet_aggregates(tasks["groups"], results["results"])
    with sample_errors.adding("metrics that no document returned"):
        # Packaged tasks declare metrics that only some of their kind have.
        own = {name: task for name, task in tasks["tasks"].items() if scored_by_user(task)}
        if unreturned := unreturned_metrics(own, results["samples"]):
            block["unreturned_metrics"] = unreturned
    if sample_errors.missing:
        block["missing"] = sample_errors.missing
    return block


def _settings(loaded: Loaded, settings: RunSettings) -> dict[str, Any]:
    """Returns the settings of a run without secrets; some exist only for our denoisers."""
    seeds = dict(zip(("python", "numpy", "torch", "fewshot"), settings.seeds, strict=True))
    described: dict[str, Any] = {"model": loaded.facts, "seed": settings.noise_seed, "seeds": seeds}
    if loaded.ours:
        described |= {
            "estimator": settings.parsed_estimator.identity(),
            "decode": dict(settings.decode),
            "overlong": settings.overlong,
            "stride": settings.stride,
        }
    described |= {
        "gen_kwargs": dict(settings.gen_kwargs),
        "num_fewshot": settings.num_fewshot,
        "apply_chat_template": settings.apply_chat_template,
        "fewshot_as_multiturn": settings.multiturn,
        "system_instruction": settings.system_instruction,
        "metadata": public_arguments(settings.metadata),
        "fewshot_seed": settings.seeds[3],
        **({} if settings.repeats is None else {"repeats": settings.repeats}),
        **({} if settings.vote is None else {"vote": settings.vote}),
    }
    return {
        **redact(described),
        "batch_size": settings.batch_size or "auto",
        "limit": settings.limit,
    }


def _note_settings(
    loaded: Loaded, tasks: Mapping[str, Any], settings: RunSettings, records: Sequence[Record]
) -> None:
    """Stores the answers' settings in the journal; with --score_only, warns of missing answers."""
    if loaded.journal is None:
        return
    for name, task in tasks.items():
        asked = asked_with(name, task, loaded, settings)
        if settings.score_only:
            warn_of_missing(loaded.journal, name, asked, records)
        else:
            note_settings(loaded.journal, name, asked)


def public_arguments(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Returns model arguments for a results file, without secrets and without paths of folders."""
    return {k: _folder_name(v) if isinstance(v, str) else v for k, v in redact(arguments).items()}


def _folder_name(text: str) -> str:
    try:
        return Path(text).resolve().name if text and Path(text).exists() else text
    except (OSError, ValueError):  # too long for a path, or with a NUL
        return text


def environment(device: str, devices: Sequence[Mapping[str, Any]] = ()) -> dict[str, Any]:
    """Returns versions, devices and machine, for the results.

    Args:
        device: device of the model if the pool has none: one of lm-eval's own models in this
            process, or a remote one.
        devices: facts about each device of the pool.
    """
    remote = device == REMOTE and not devices
    gpus = (
        [REMOTE]
        if remote
        else sorted({str(facts["name"]) for facts in devices if "cuda" in str(facts["device"])})
    )
    peak = None
    if not devices and "cuda" in device and torch.cuda.is_available():
        gpus, peak = [torch.cuda.get_device_name()], torch.cuda.max_memory_allocated()
    return {
        "dlm_eval": dlm_eval.__version__,
        "git": _git(),
        "python": platform.python_version(),
        **{library: _version(library) for library in LIBRARIES},
        "device": ", ".join(str(facts["device"]) for facts in devices) or device,
        "device_name": ", ".join(gpus) or _processor(),
        "devices": [dict(facts) for facts in devices],
        "peak_device_bytes": max((facts["peak_bytes"] for facts in devices), default=peak),
        "batch_invariant": _invariant([facts["batch_invariant"] for facts in devices]),
        "threads": torch.get_num_threads(),
        "system": platform.system(),
        "machine": {
            "processor": _processor(),
            "cores": len(os.sched_getaffinity(0))
            if hasattr(os, "sched_getaffinity")
            else os.cpu_count(),
            "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
            "peak_bytes": peak_memory(),
        },
    }


def _invariant(devices: Sequence[bool | None]) -> bool | str:
    """Returns whether answers on all devices are independent of the batch, or 'unknown'."""
    if False in devices:
        return False
    return True if devices and None not in devices else "unknown"


def _version(library: str) -> str | None:
    try:
        return version(library)
    except PackageNotFoundError:
        return None


def _processor() -> str:
    """Returns the processor's model name if the system provides it."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def _git() -> str | None:
    """Returns commit and dirty state if dlm_eval runs from its repository, else None."""
    root = Path(__file__).parents[2]
    if not (root / ".git").exists():
        return None
    try:
        run = subprocess.run(
            ["git", "describe", "--always", "--dirty"],
            cwd=root,
            capture_output=True,
            text=True,
            timeout=5,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return run.stdout.strip() or None
