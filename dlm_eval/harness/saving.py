"""Result files, written atomically.

lm-eval's own tracker writes the files, so that lm-eval's tools can read them. It ignores errors and
writes in place, so it writes to a staging directory first. The files are checked there and then
moved.
"""

from __future__ import annotations

import inspect
import json
import logging
import os
import re
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from dlm_eval.errors import RunError, UserError, unknown_name_error
from dlm_eval.harness.results import json_value
from dlm_eval.printable import valid_unicode
from dlm_eval.rng import digest
from dlm_eval.settings import shown

LONGEST = 150  # maximum bytes of a task's or model's name in a file name (255 with the date)
NOT_IN_FILES = re.compile(r"[\x00-\x1f\x7f-\x9f/\\\[\]*?\"<>|:\u2028\u2029\u202a-\u202e]|^\.+")
DATED = re.compile(r"[0-9]{4}-[0-9-]+T[0-9.-]+\.jsonl")  # lm-eval's suffix after a task's name

log = logging.getLogger(__name__)


def check_tracker(arguments: Mapping[str, Any]) -> None:
    """Raises UserError for --hf_hub_log_args that would make lm-eval's tracker fail after the run."""
    from lm_eval.loggers import EvaluationTracker

    known = {
        name: parameter.default
        for name, parameter in inspect.signature(EvaluationTracker).parameters.items()
        if name != "output_path"
    }
    for key, value in arguments.items():
        if key not in known:
            raise unknown_name_error("--hf_hub_log_args", key, known)
        if not isinstance(value, type(known[key])):
            kind = "true or false" if isinstance(known[key], bool) else "text"
            raise UserError(f"--hf_hub_log_args {key} '{shown(value)}' is not allowed; it must be {kind}")
    if (arguments.get("push_results_to_hub") or arguments.get("push_samples_to_hub")) and not arguments.get("token"):
        raise UserError("--hf_hub_log_args: push_results_to_hub and push_samples_to_hub need token=...")


def file_name(name: str, most: int = LONGEST) -> str:
    """Returns the name of a task or model for a file name.

    Characters that are not allowed are replaced; the name then ends in a hash.
    """
    kept = NOT_IN_FILES.sub("_", valid_unicode(name)).encode()[:most].decode(errors="ignore")
    return name if kept == name else f"{kept}-{digest(name)[:8]}"


def save(
    results: Mapping[str, Any],
    output_path: str,
    model_name: str,
    tracker_args: Mapping[str, Any],
    config: Mapping[str, Any],
) -> Path:
    """Writes results_*.json and samples_*.jsonl atomically through lm-eval's tracker; returns the
    results file.

    Raises:
        RunError: something could not be written (full disk, lost directory). No partial files are
            left.
    """
    try:
        return _save(results, output_path, model_name, tracker_args, config)
    except _Incomplete as error:
        log.debug("results are written in plain form", exc_info=error)
        return _save(json_value(results), output_path, model_name, tracker_args, config)


class _Incomplete(RunError):
    """The tracker did not write everything; usually JSON cannot represent a part of the results."""


def _save(
    results: Mapping[str, Any],
    output_path: str,
    model_name: str,
    tracker_args: Mapping[str, Any],
    config: Mapping[str, Any],
) -> Path:
    from lm_eval.loggers import EvaluationTracker

    target = Path(output_path)
    home = target.parent if target.suffix == ".json" else target
    try:
        home.mkdir(parents=True, exist_ok=True)
        staging = Path(tempfile.mkdtemp(prefix=".saving-", dir=home))
    except OSError as error:
        raise RunError(f"results cannot be written to {output_path}: {error.strerror or error}") from error
    try:
        inside = staging / target.name if target.suffix == ".json" else staging
        tracker = EvaluationTracker(**{**tracker_args, "output_path": str(inside)})
        tracker.general_config_tracker.log_experiment_args(
            model_source="dlm_eval",
            model_args=f"pretrained={model_name}",
            system_instruction=config.get("system_instruction"),
            chat_template=config.get("chat_template"),
            fewshot_as_multiturn=bool(config.get("fewshot_as_multiturn")),
        )
        tracker.general_config_tracker.start_time = config["start_time"]
        folder = file_name(str(tracker.general_config_tracker.model_name_sanitized))
        tracker.general_config_tracker.model_name_sanitized = folder
        body = {key: value for key, value in results.items() if key != "samples"}
        samples = results.get("samples")
        tracker.save_results_aggregated(results=body, samples=samples)
        for task, rows in (samples or {}).items():
            tracker.save_results_samples(task_name=file_name(task), samples=rows)
        _check(staging, samples)
        return _move(staging, home)
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def _check(staging: Path, samples: Mapping[str, Sequence[Any]] | None) -> None:
    """Checks the written files."""
    try:
        (file,) = [f for f in staging.rglob("*.json") if f.is_file()]
        json.loads(file.read_text(encoding="utf-8"))
        for task, rows in (samples or {}).items():
            start = f"samples_{file_name(task)}_"
            (lines,) = [f for f in staging.rglob("*.jsonl") if DATED.fullmatch(f.name.removeprefix(start))]
            with lines.open(encoding="utf-8") as stream:
                count = sum(1 for _ in stream)
            if count != len(rows):
                raise ValueError(f"{count} of {len(rows)} samples of {task} were written")
    except (OSError, ValueError) as error:
        raise _Incomplete(f"results could not be saved: {error}") from error


def _move(staging: Path, home: Path) -> Path:
    """Moves the files into place, the results file last, so that its samples always exist."""
    files = sorted((f for f in staging.rglob("*") if f.is_file()), key=lambda f: f.suffix == ".json")
    try:
        for file in files:
            with file.open("rb") as stream:
                os.fsync(stream.fileno())
            place = home / file.relative_to(staging)
            place.parent.mkdir(parents=True, exist_ok=True)
            os.replace(file, place)
    except OSError as error:
        raise RunError(f"results could not be saved: {error.strerror or error}") from error
    return home / files[-1].relative_to(staging)
