"""Saves results to files and sends them to trackers (`--report_to`).

lm-eval's own tracker writes the files, so that lm-eval's tools can read them. It ignores errors and
does not write atomically. It therefore writes to a staging directory, where the files are checked
and then moved.

Weights & Biases and Trackio use lm-eval's loggers and their arguments (`--wandb_args`,
`--trackio_args`). TensorBoard gets the same numbers as scalars. Results are saved first, so an
error of a tracker affects only its report.
"""

from __future__ import annotations

import importlib.util
import inspect
import json
import logging
import os
import re
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dlm_eval.errors import RunError, UserError, unknown_name_error
from dlm_eval.harness.file_names import file_name
from dlm_eval.harness.lm_eval_patches import public_command_line
from dlm_eval.harness.results import json_value, metrics_of
from dlm_eval.output import one_line
from dlm_eval.redaction import learn, redact
from dlm_eval.settings import shown

DATED = re.compile(r"[0-9]{4}-[0-9-]+T[0-9.-]+\.jsonl")  # lm-eval's suffix after a task's name

log = logging.getLogger(__name__)
TRACKERS = ("wandb", "trackio", "tensorboard")  # each needs the package of the same name


def check_tracker(arguments: Mapping[str, Any]) -> None:
    """Raises UserError for --hf_hub_log_args that would make the tracker fail after the run."""
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
            raise UserError(
                f"--hf_hub_log_args {key} '{shown(value)}' is not allowed; it must be {kind}"
            )
    if (
        arguments.get("push_results_to_hub") or arguments.get("push_samples_to_hub")
    ) and not arguments.get("token"):
        raise UserError(
            "--hf_hub_log_args: push_results_to_hub and push_samples_to_hub need token=..."
        )


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
        RunError: a file could not be written (full disk, lost directory). No partial files remain.
    """
    try:
        return _save(results, output_path, model_name, tracker_args, config)
    except _Incomplete as error:
        log.debug("results are written in plain form", exc_info=error)
        return _save(json_value(results), output_path, model_name, tracker_args, config)


class _Incomplete(RunError):
    """The tracker's files are incomplete, usually since JSON cannot represent some results."""


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
        raise RunError(
            f"results cannot be written to {output_path}: {error.strerror or error}"
        ) from error
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
            (lines,) = [
                f for f in staging.rglob("*.jsonl") if DATED.fullmatch(f.name.removeprefix(start))
            ]
            with lines.open(encoding="utf-8") as stream:
                count = sum(1 for _ in stream)
            if count != len(rows):
                raise ValueError(f"{count} of {len(rows)} samples of {task} were written")
    except (OSError, ValueError) as error:
        raise _Incomplete(f"results could not be saved: {error}") from error


def _move(staging: Path, home: Path) -> Path:
    """Moves the files into place. The results file is last, so that its samples always exist."""
    files = sorted(
        (f for f in staging.rglob("*") if f.is_file()), key=lambda f: f.suffix == ".json"
    )
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


@dataclass(frozen=True)
class Reports:
    """The trackers that get the results.

    Attributes:
        names: names of the trackers.
        arguments: lm-eval's wandb_args, wandb_config_args and trackio_args.
    """

    names: tuple[str, ...] = ()
    arguments: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    def send(self, results: Mapping[str, Any], log_samples: bool, folder: Path) -> list[str]:
        """Sends the results; writes scalars to `folder`. Returns failed reports, with reasons."""
        failed = []
        for name in self.names:
            try:
                if name == "tensorboard":
                    _write_scalars(results, folder / "tensorboard")
                else:
                    with public_command_line():
                        _log(self._logger(name), results, log_samples)
            except (Exception, SystemExit) as error:  # the results are saved, so this is not fatal
                log.warning("reporting to %s failed: %s: %s", name, type(error).__name__, error)
                failed.append(one_line(f"the report to {name} ({type(error).__name__}: {error})"))
        return failed

    def _logger(self, name: str) -> Any:
        from lm_eval.loggers import TrackioLogger, WandbLogger

        given = {key: dict(value) for key, value in self.arguments.items()}
        if "config" in given.get("wandb_args", {}):
            given["wandb_args"]["config"] = redact(given["wandb_args"]["config"])
        if "wandb_config_args" in given:
            given["wandb_config_args"] = redact(given["wandb_config_args"])
        if name == "wandb":
            return WandbLogger(given.get("wandb_args"), given.get("wandb_config_args"))
        return TrackioLogger(given.get("trackio_args"))


def parse_reports(report_to: Any, arguments: Mapping[str, Any]) -> Reports:
    """Returns the trackers to use. As in lm-eval, a tracker's arguments also enable it.

    Raises:
        UserError: a tracker is unknown, or its package is not installed.
    """
    learn(arguments)
    parts = report_to.split(",") if isinstance(report_to, str) else report_to or ()
    names = [str(part).strip() for part in parts if str(part).strip() not in ("", "none")]
    names += [name for name in ("wandb", "trackio") if arguments.get(f"{name}_args")]
    for name in names:
        if name not in TRACKERS:
            raise unknown_name_error("--report_to", name, TRACKERS)
    for name in names:
        found = importlib.util.find_spec(name)
        if found is None or found.origin is None:  # a folder is not the package
            raise UserError(
                f"--report_to '{name}' needs the package {name}; install it: pip install {name}"
            )
    return Reports(
        tuple(dict.fromkeys(names)), {key: value for key, value in arguments.items() if value}
    )


def _log(logger: Any, results: Mapping[str, Any], log_samples: bool) -> None:
    logger.post_init({key: value for key, value in results.items() if key != "samples"})
    logger.log_eval_result()
    if log_samples:
        logger.log_eval_samples(
            {task: [_unsaved(s) for s in samples] for task, samples in results["samples"].items()}
        )
    getattr(logger, "finish", lambda: logger.run.finish())()


def _unsaved(sample: Mapping[str, Any]) -> dict[str, Any]:
    """Returns a sample as lm-eval's loggers need it: arguments as a list; saving made a mapping."""
    arguments = sample["arguments"]
    return {
        **sample,
        "arguments": [list(a.values()) for a in arguments.values()]
        if isinstance(arguments, dict)
        else arguments,
    }


def _write_scalars(results: Mapping[str, Any], folder: Path) -> None:
    from torch.utils.tensorboard import SummaryWriter

    with SummaryWriter(str(folder)) as writer:
        for name, value in scalars(results).items():
            writer.add_scalar(name, value)


def scalars(results: Mapping[str, Any]) -> dict[str, float]:
    """Returns "task/metric" and "task/cost" -> value."""
    found = {}
    for kind in (results["results"], results["dlm_eval"]["cost"]):
        for task, figures in kind.items():
            parts = {
                f"{metric},{pipeline}": value
                for (metric, pipeline), value in metrics_of(figures).items()
            }
            for name, value in {**figures, **parts}.items():
                if isinstance(value, (int, float)):
                    found[f"{task}/{name.removesuffix(',none').replace(',', '.')}"] = float(value)
    return found
