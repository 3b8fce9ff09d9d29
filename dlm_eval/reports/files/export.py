"""Results in other formats: JSON, Parquet, and the Hugging Face Hub's evaluation results.

The Hub shows a score on the page of a model if its repository has a file `.eval_results/*.yaml`
(https://huggingface.co/docs/hub/eval-results). `huggingface_hub` defines the entries.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from dlm_eval.errors import UserError
from dlm_eval.harness.file_names import file_name
from dlm_eval.printable import counted
from dlm_eval.redaction import redact_values
from dlm_eval.reports.files.load import Results
from dlm_eval.reports.files.row import WITHOUT_LENGTH, Row
from dlm_eval.reports.files.runs import Run, TaskRun
from dlm_eval.reports.files.write import write_files

if TYPE_CHECKING:
    import pandas
    from huggingface_hub import EvalResultEntry

FRAMES = ("runs", "scores", "samples")
HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
log = logging.getLogger(__name__)


def write_json(results: Results, path: Path) -> None:
    """Writes one JSON object with the lists `runs`, `scores` and `samples`; NaN becomes null."""
    lists = {name: frame.to_json(orient="records") for name, frame in _frames(results)}
    whole = ",\n".join(f'"{name}": {rows}' for name, rows in lists.items())
    write_files({path: f"{{{whole}}}\n"})


def write_parquet(results: Results, folder: Path) -> None:
    """Writes `runs.parquet`, `scores.parquet` and `samples.parquet`."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, frame in _frames(results):
            frame.to_parquet(folder / f"{name}.parquet")
    except (OSError, ValueError) as error:  # ValueError: a path with a NUL
        raise UserError(
            f"output '{folder}' cannot be written: {getattr(error, 'strerror', None) or error}"
        ) from error


def _frames(results: Results) -> Iterator[tuple[str, pandas.DataFrame]]:
    """Yields the name of each frame, and the frame without secrets."""
    for name in FRAMES:
        yield name, vars(results)[name].apply(_without_secrets)


def _without_secrets(column: pandas.Series) -> pandas.Series:
    return column.map(redact_values) if column.dtype.kind == "O" else column


@dataclass(frozen=True)
class HubOptions:
    """How scores are named on the Hub.

    Attributes:
        datasets: task -> (id of the benchmark's dataset, id of the task in it), for tasks whose own
            dataset is not the benchmark's.
        source_url, source_name: link to where the scores come from, and its text; "" for none.
    """

    datasets: Mapping[str, tuple[str, str]]
    source_url: str = ""
    source_name: str = ""

    @classmethod
    def of(cls, datasets: Sequence[str], source_url: str, source_name: str) -> HubOptions:
        """Returns the options of the command line.

        Raises:
            UserError: a dataset is not TASK=OWNER/NAME[:TASK_ID], the link is none, or a text has
                no link.
        """
        found = {}
        for text in datasets:
            task, _, place = text.partition("=")
            name, _, inner = place.partition(":")
            if not task or not HUB_ID.fullmatch(name):
                raise UserError(
                    f"--dataset '{text}' is not allowed; it must be TASK=OWNER/NAME or"
                    " TASK=OWNER/NAME:TASK_ID"
                )
            found[task] = name, inner or task
        if source_url and not re.match(r"https?://\S+$", source_url):
            raise UserError(f"--source_url '{source_url}' is not allowed; it must be a link")
        if source_name and not source_url:
            raise UserError("--source_name needs --source_url")
        return cls(found, source_url, source_name)


def write_eval_results(runs: Sequence[Run], folder: Path, options: HubOptions) -> list[Path]:
    """Writes one YAML file per model and task, for `.eval_results/` of the model's repository.

    The file has the task's headline metric; a fraction is written in percent. Not written, with a
    warning: scores of a part of the documents, and tasks without a dataset on the Hub. Of several
    runs the newest counts.

    Returns:
        The files.

    Raises:
        UserError: no score can be written, or the folder cannot.
    """
    import yaml
    from huggingface_hub import eval_result_entries_to_yaml

    written: dict[Path, str] = {}
    for run in sorted(runs, key=lambda run: run.date or ""):
        for task in run.tasks.values():
            if reason := _unfit(task, options):
                log.warning("%s, %s is left out: %s", run.source, task.name, reason)
                continue
            path = folder / file_name(run.model or "unknown") / f"{file_name(task.name)}.yaml"
            if path in written:
                log.warning("%s: a newer run of %s replaces an older one", path, task.name)
            entries = eval_result_entries_to_yaml([_entry(run, task, options)])
            written[path] = yaml.safe_dump(entries, sort_keys=False, allow_unicode=True)
    write_files(written)
    if not written:
        raise UserError(f"none of {counted(len(runs), 'run')} has a score for the Hub")
    return list(written)


def _unfit(task: TaskRun, options: HubOptions) -> str:
    """Returns why a task's score cannot be shown on the Hub; "" if it can."""
    row = task.headline
    if row.n is None or row.n_total is None or row.n < row.n_total:
        return f"it has {row.n} of {row.n_total} documents"
    if task.name not in options.datasets and not HUB_ID.fullmatch(task.dataset or ""):
        what = f"its dataset '{task.dataset}' is" if task.dataset else "its documents are"
        return f"{what} not on the Hub; give --dataset {task.name}=OWNER/NAME"
    return ""


def _entry(run: Run, task: TaskRun, options: HubOptions) -> EvalResultEntry:
    from huggingface_hub import EvalResultEntry

    row = task.headline
    dataset, inner = options.datasets.get(task.name, (task.dataset, task.name))
    return EvalResultEntry(
        dataset_id=str(dataset),
        task_id=inner,
        value=round(100 * row.value, 4) if row.unit == "fraction" else row.value,
        date=run.date,
        source_url=options.source_url or None,
        source_name=options.source_name or None,
        notes=_notes(run, row),
    )


def _notes(run: Run, row: Row) -> str:
    """Returns what a reader needs to judge a score."""
    metric = row.metric if row.filter in (None, "none") else f"{row.metric} ({row.filter})"
    error = row.stderr
    if error is not None and row.unit == "fraction":
        error = 100 * error
    parts = {
        "": f"dlm_eval {run.environment.get('dlm_eval', '')}".strip(),
        "metric": metric,
        "standard error": None if error is None else f"{error:.3g}",
        "documents": row.n,
        "shots": row.shots,
        "likelihood": row.estimator,
        "strategy": row.strategy,
        "approximation": row.approximation,
        "steps": row.steps,
        "gen_length": row.gen_length,
        "block_length": row.block_length,
        "forwards per sample": row.forwards_per_sample,
        "computed positions per sample": row.computed_per_sample,
        WITHOUT_LENGTH: row.finds_length,
        "configuration": (row.configuration or "")[:12] or None,
    }
    return "; ".join(
        f"{name} {value}".strip() for name, value in parts.items() if value is not None
    )
