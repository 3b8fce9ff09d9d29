"""Results as pandas data frames: runs, scores and samples."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dlm_eval.errors import UserError
from dlm_eval.reports.files.baseline import is_baseline, read_baseline
from dlm_eval.reports.files.find import find_result_files
from dlm_eval.reports.files.row import Row
from dlm_eval.reports.files.runs import Run, TaskRun, read_run

if TYPE_CHECKING:
    import pandas

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Results:
    """Data frames of result files. `source` names the file in each.

    Attributes:
        runs: one row per run: source, model, date, batch_invariant, `setting:NAME`,
            `environment:NAME`.
        scores: one row per score, with the columns of the long leaderboard (docs/reference/leaderboard-tables.md).
        samples: one row per document: source, task, key, doc_id, `score:METRIC`, cost, answer,
            margin, error, prompt, target, response (a list of texts).
    """

    runs: pandas.DataFrame
    scores: pandas.DataFrame
    samples: pandas.DataFrame


def load_results(paths: str | Path | Sequence[str | Path]) -> Results:
    """Returns the runs, scores and samples of result files and baselines: of every run.

    A folder gives all runs below it, also older ones of the same settings, as `dlm-eval view --all`
    and `leaderboard --all` show them. (`compare` and `check` take the newest of a folder.) `source` and
    `runs.date` tell them apart.

    Args:
        paths: result files, baselines, or folders to search for `results_*.json`. Files below a
            folder that cannot be read are skipped with a warning.

    Raises:
        UserError: a path does not exist or holds no results, or a file given by name is broken.
    """
    import pandas

    runs = load_runs(paths)
    tasks = [(run, task) for run in runs for task in run.tasks.values()]
    scores = [asdict(row) | {"source": run.source} for run in runs for row in _rows(run)]
    samples = [row for run, task in tasks for row in _sample_rows(run, task)]
    return Results(
        pandas.DataFrame([_run_row(run) for run in runs]),
        pandas.DataFrame(scores),
        pandas.DataFrame(samples),
    )


def load_runs(paths: str | Path | Sequence[str | Path]) -> list[Run]:
    """Returns the runs of result files and baselines; see `load_results`."""
    given = [paths] if isinstance(paths, (str, Path)) else list(paths)
    runs: list[Run] = []
    for path in map(Path, given):
        runs += _below(path) if os.path.isdir(path) else [_one(path)]
    if not runs:
        listed = ", ".join(repr(str(path)) for path in given)
        raise UserError(f"paths {listed} hold no results_*.json with scores")
    return runs


def _rows(run: Run) -> Iterator[Row]:
    for task in (*run.tasks.values(), *run.groups.values()):
        yield from task.rows


def _one(path: Path) -> Run:
    return read_baseline(path).run if is_baseline(path) else read_run(path)


def _below(folder: Path) -> list[Run]:
    runs = []
    for file in find_result_files([folder]):
        try:
            runs.append(read_run(file))
        except UserError as reason:
            log.warning("%s", reason)
    return runs


def _run_row(run: Run) -> dict[str, Any]:
    return {
        "source": run.source,
        "model": run.model,
        "date": run.date,
        "batch_invariant": run.batch_invariant,
        **{f"setting:{name}": value for name, value in run.settings.items()},
        **{f"environment:{name}": value for name, value in run.environment.items()},
    }


def _sample_rows(run: Run, task: TaskRun) -> list[dict[str, Any]]:
    rows = []
    for key, document in (task.documents or {}).items():
        texts = document.texts
        scores = {name: measure.values.get(key) for name, measure in task.measures.items()}
        rows.append({
            "source": run.source,
            "task": task.name,
            "key": key,
            "doc_id": document.doc_id,
            **{f"score:{name.removesuffix(',none')}": value for name, value in scores.items()},
            "forwards": document.forwards,
            "computed": document.computed,
            "tokens": document.tokens,
            "seconds": document.seconds,
            "answer": document.answer,
            "margin": document.margin,
            "margin_stderr": document.margin_stderr,
            "error": document.error,
            "prompt": texts.prompt if texts else None,
            "target": texts.target if texts else None,
            "response": list(texts.answers) if texts else None,
        })  # fmt: skip
    return rows
