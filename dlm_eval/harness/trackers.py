"""`--report_to`: a run's results in Weights & Biases, Trackio or TensorBoard.

The first two use lm-eval's loggers and their arguments (`--wandb_args`, `--trackio_args`).
TensorBoard gets the same numbers as scalars. Results are saved before, so an error of a tracker
affects only its report.
"""

from __future__ import annotations

import importlib.util
import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dlm_eval.errors import UserError, unknown_name_error
from dlm_eval.harness.lm_eval_patches import public_command_line
from dlm_eval.harness.results import metrics_of
from dlm_eval.output import one_line
from dlm_eval.redaction import learn, redact

TRACKERS = ("wandb", "trackio", "tensorboard")  # each needs the package of the same name

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Reports:
    """The trackers that get the results.

    Attributes:
        names: of the trackers.
        arguments: lm-eval's wandb_args, wandb_config_args and trackio_args.
    """

    names: tuple[str, ...] = ()
    arguments: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    def send(self, results: Mapping[str, Any], log_samples: bool, folder: Path) -> list[str]:
        """Sends the results (TensorBoard writes to `folder`); returns the reports that failed, and
        why.
        """
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
    """Returns the trackers to use. As in lm-eval, arguments for a tracker enable it.

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
            raise UserError(f"--report_to '{name}' needs the package {name}; install it: pip install {name}")
    return Reports(tuple(dict.fromkeys(names)), {key: value for key, value in arguments.items() if value})


def _log(logger: Any, results: Mapping[str, Any], log_samples: bool) -> None:
    logger.post_init({key: value for key, value in results.items() if key != "samples"})
    logger.log_eval_result()
    if log_samples:
        logger.log_eval_samples({task: [_unsaved(s) for s in samples] for task, samples in results["samples"].items()})
    getattr(logger, "finish", lambda: logger.run.finish())()


def _unsaved(sample: Mapping[str, Any]) -> dict[str, Any]:
    """Returns a sample with its arguments as a list, as lm-eval's loggers expect; saving turns them
    into a mapping.
    """
    arguments = sample["arguments"]
    return {
        **sample,
        "arguments": [list(a.values()) for a in arguments.values()] if isinstance(arguments, dict) else arguments,
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
            parts = {f"{metric},{pipeline}": value for (metric, pipeline), value in metrics_of(figures).items()}
            for name, value in {**figures, **parts}.items():
                if isinstance(value, (int, float)):
                    found[f"{task}/{name.removesuffix(',none').replace(',', '.')}"] = float(value)
    return found
