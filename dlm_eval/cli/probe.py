"""`dlm-eval probe`: linear probes of a model's features on GLUE (harness/glue_probe.py)."""

from __future__ import annotations

import argparse
import os
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dlm_eval.cli.model_options import load_chosen, model_arguments
from dlm_eval.cli.options import add_options, path_of
from dlm_eval.errors import UserError, unknown_name_error
from dlm_eval.output import one_line, table

if TYPE_CHECKING:
    from dlm_eval.harness.glue_probe import Probed

VERSION = 1.0  # of the protocol


def add_parser(subparsers: Any) -> None:
    """Adds `probe`."""
    parser = subparsers.add_parser(
        "probe",
        help="train linear probes on a model's features and score them on GLUE",
        description="train linear probes on a frozen model's features and score them on GLUE's"
        " validation splits with its official metrics; writes a results file",
        allow_abbrev=False,
    )
    add_options(parser, "--model", "--model_args", "--data_dir", "--device")
    parser.add_argument(
        "--tasks", metavar="cola,sst2,...", help="tasks of GLUE (default: all nine)"
    )
    parser.add_argument(
        "--limit", type=int, metavar="N", help="first N examples of each split, for a trial"
    )
    parser.add_argument(
        "--batch_size", type=int, default=32, metavar="N", help="texts in a batch (default: 32)"
    )
    parser.add_argument(
        "-o",
        "--output_path",
        type=path_of("--output_path", str),
        metavar="DIR",
        help="folder of the results file (default: results)",
    )
    parser.set_defaults(main=main)


def main(args: argparse.Namespace) -> int:
    """Probes the model on each task, prints the scores and writes the results file."""
    from dlm_eval.harness.glue_probe import TASKS, probe
    from dlm_eval.harness.lm_eval_patches import local_first

    tasks = args.tasks.split(",") if args.tasks else list(TASKS)
    for task in tasks:
        if task not in TASKS:
            raise unknown_name_error("--tasks", task, TASKS)
    for name in ("limit", "batch_size"):
        value = getattr(args, name)
        if value is not None and value < 1:
            raise UserError(f"--{name} '{value}' is not allowed; it must be 1 or more")
    model = load_chosen(args.model, model_arguments(args.model_args), args.device)
    with local_first(args.data_dir):
        found = {task: probe(model, task, args.limit, args.batch_size) for task in tasks}
    print(_shown(found))
    document = _document(args, model.describe(), found)
    print(one_line(str(_write(document, Path(args.output_path or "results")))))
    return 0


def _shown(found: dict[str, Probed]) -> str:
    rows = [
        [f"glue_probe_{task}", metric, f"{value:.4f}", _spread(one, metric), one.trained_on, one.n]
        for task, one in found.items()
        for metric, value in one.scores.items()
    ]
    return table(rows, ["task", "metric", "value", "stderr", "trained on", "n"])


def _spread(one: Probed, metric: str) -> str:
    return f"{one.stderr[metric]:.4f}" if metric in one.stderr else ""


def _document(
    args: argparse.Namespace, described: dict[str, Any], found: dict[str, Probed]
) -> dict[str, Any]:
    """Returns the results file, in the layout of lm-eval's."""
    import dlm_eval
    from dlm_eval.harness.glue_probe import READING
    from dlm_eval.redaction import redact
    from dlm_eval.rng import digest

    named = {f"glue_probe_{task}": one for task, one in found.items()}
    identity = digest("glue_probe", VERSION, READING, redact(described), args.limit)
    metrics = {name: list(one.scores) for name, one in named.items()}
    return {
        "results": {name: {"alias": name, **_scores(one)} for name, one in named.items()},
        "configs": {
            name: {
                "task": name,
                "dataset_path": "nyu-mll/glue",
                "dataset_name": name.removeprefix("glue_probe_"),
                "metric_list": [{"metric": metric} for metric in metrics[name]],
                "metadata": {"version": VERSION, **READING},
            }
            for name in named
        },
        "versions": dict.fromkeys(named, VERSION),
        "n-shot": dict.fromkeys(named, 0),
        "higher_is_better": {name: dict.fromkeys(metrics[name], True) for name in named},
        "n-samples": {name: {"original": one.n, "effective": one.n} for name, one in named.items()},
        "config": {"model": args.model, "limit": args.limit},
        "date": datetime.now().timestamp(),
        "model_source": "dlm_eval",
        "model_name": str(described.get("checkpoint") or args.model),
        "dlm_eval": {
            "version": dlm_eval.__version__,
            "fingerprint": identity,
            "settings": {"model": redact(described), "limit": args.limit},
            "tasks": {
                name: {
                    "fingerprint": digest(identity, name),
                    "trained_on": one.trained_on,
                    "majority_accuracy": one.majority,
                    "truncated": one.truncated,
                }
                for name, one in named.items()
            },
        },
    }


def _scores(one: Probed) -> dict[str, float]:
    scores = {f"{metric},none": value for metric, value in one.scores.items()}
    return scores | {f"{metric}_stderr,none": value for metric, value in one.stderr.items()}


def _write(document: dict[str, Any], folder: Path) -> Path:
    import json

    from dlm_eval.harness.file_names import file_name
    from dlm_eval.reports.files.write import write_files

    where = folder / file_name(document["model_name"].replace(os.sep, "__"))
    stamp = datetime.now().isoformat().replace(":", "-")
    path = where / f"results_{stamp}.json"
    where.mkdir(parents=True, exist_ok=True)
    write_files({path: json.dumps(document, indent=2, allow_nan=False) + "\n"})
    return path
