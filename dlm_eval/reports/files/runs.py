"""A run as reports read it: its scores, its settings, and every document of its tasks.

    results_*.json + samples_*.jsonl   (or a baseline file)   -> Run -> TaskRun -> Document

A result file gives scores and settings; the samples files beside it give the documents. Files are
untrusted, see `result_file` and `samples_file`.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dlm_eval.errors import UserError
from dlm_eval.reports.files.content import Content
from dlm_eval.reports.files.corpus import CorpusScore, corpus_scores
from dlm_eval.reports.files.find import find_run, shown_path
from dlm_eval.reports.files.json_values import listed, nested
from dlm_eval.reports.files.measures import Measure, measures_of
from dlm_eval.reports.files.result_file import ResultFile, read_whole, rows_of
from dlm_eval.reports.files.row import Row
from dlm_eval.reports.files.samples_file import Document, documents_of, read_samples, samples_beside
from dlm_eval.reports.files.settings import DIGESTS, environment, run_settings, task_settings

Samples = Callable[[str, str], "dict[str, Document] | None"]  # of a task and its kind


@dataclass(frozen=True)
class TaskRun:
    """One task of a run.

    Attributes:
        name: name of the task.
        rows: its scores, headline first.
        documents: key -> document; None if the run has no samples file.
        measures: "metric,filter" -> measure, of metrics that are means over documents.
        settings: name -> value of everything that was set for this task.
        digests: configuration, fingerprint and scoring, as far as they are known.
        generates: whether its answers are generated text.
        infill: whether the length of an answer is given by the task.
        corpus: the functions of all documents that give its headline, as a baseline has them; of a
            run they are found from the documents when they are needed (`corpus_scores`).
        dataset: what the task loads: a hub id, a folder, or the name of a file format.
    """

    name: str
    rows: tuple[Row, ...]
    documents: Mapping[str, Document] | None
    measures: Mapping[str, Measure]
    settings: Mapping[str, str]
    digests: Mapping[str, str]
    generates: bool = False
    infill: bool = False
    corpus: tuple[CorpusScore, ...] = ()
    dataset: str | None = None

    @property
    def headline(self) -> Row:
        """The score that stands for the task."""
        return self.rows[0]

    @functools.cached_property
    def corpus_scores(self) -> tuple[CorpusScore, ...]:
        """The functions of all documents that give the headline; none if it is a mean."""
        if self.headline.measure in self.measures:
            return ()
        return self.corpus or corpus_scores(self.headline, self.documents or {})

    def score(self, like: Row) -> Row | None:
        """Returns the score of the same metric and filter; None if there is none."""
        own = (row for row in self.rows if (row.metric, row.filter) == (like.metric, like.filter))
        return next(own, None)

    def errors(self) -> dict[str, str]:
        """Returns key -> reason of documents without answer or score."""
        found = (self.documents or {}).items()
        return {key: document.error for key, document in found if document.error is not None}


@dataclass(frozen=True)
class Run:
    """A run with its tasks.

    Attributes:
        source: the file, relative to the working directory if it is below it.
        model, date: name of the model; start in UTC; None if unknown.
        settings: name -> value of settings of the whole run.
        environment: name -> version, device ...
        batch_invariant: whether answers are independent of the batch: "True", "False", "unknown".
        missing: parts of the results that the run could not compute.
        tasks: name -> task, without groups.
        groups: name -> group of tasks as one task, whose documents are those of all its tasks.
    """

    source: str
    model: str | None
    date: str | None
    settings: Mapping[str, str]
    environment: Mapping[str, str]
    batch_invariant: str
    missing: tuple[str, ...]
    tasks: Mapping[str, TaskRun]
    groups: Mapping[str, TaskRun] = field(default_factory=dict)


def read_run(path: Path) -> Run:
    """Returns the run of a result file, or the newest run below a folder.

    Raises:
        UserError: there is no such run, or one of its files is broken.
    """
    file = find_run(path)
    try:
        content, rows = read_whole(file, shown_path(file))
    except ValueError as reason:
        raise UserError(f"run '{file}' cannot be read: {reason}") from reason

    def samples(task: str, kind: str) -> dict[str, Document] | None:
        beside = samples_beside(file, task)
        if beside is None:
            return None
        try:
            return read_samples(beside, kind)
        except ValueError as reason:
            raise UserError(f"samples file '{beside}' cannot be read: {reason}") from reason

    return _run(content, rows, shown_path(file), samples)


def run_of(results: Mapping[str, Any], source: str = "results") -> Run:
    """Returns the run of results in memory, as `evaluate` returns them.

    Raises:
        UserError: they are no results.
    """
    from dlm_eval.harness.results import json_value

    whole = json_value(results)  # as it would be read from files
    tasks = nested(whole, "samples")

    def samples(task: str, kind: str) -> dict[str, Document] | None:
        return documents_of(tasks[task], kind) if isinstance(tasks.get(task), list) else None

    try:
        content = Content(whole)
        return _run(content, rows_of(content, source), source, samples)
    except ValueError as reason:
        raise UserError(f"{source} cannot be read: {reason}") from reason


def _run(content: Content, found: ResultFile, source: str, samples: Samples) -> Run:
    rows: dict[str, list[Row]] = {}
    for row in found.rows:
        rows.setdefault(row.task, []).append(row)
    tasks = {
        name: _task(content, name, tuple(own), samples)
        for name, own in rows.items()
        if not content.is_group(name)
    }
    first = found.rows[0] if found.rows else None
    invariant = content.part("dlm_eval", "environment").get("batch_invariant", "unknown")
    return Run(
        source=source,
        model=first.who if first else None,
        date=first.date if first else None,
        settings=run_settings(content),
        environment=environment(content),
        batch_invariant=str(invariant),
        missing=tuple(_missing(content, rows)),
        tasks=tasks,
        groups={
            name: _group(name, own, [tasks[t] for t in content.tasks[name] if t in tasks])
            for name, own in rows.items()
            if content.is_group(name)
        },
    )


def _missing(content: Content, scored: Mapping[str, Sequence[Row]]) -> list[str]:
    """Returns the parts of the results that the run could not compute.

    A task whose documents all failed has no score, and thus no row.
    """
    named = map(str, listed(content.part("dlm_eval").get("missing")))
    unscored = (
        name
        for name in content.part("dlm_eval", "cost")
        if name != "total" and name not in scored and name not in content.part("group_subtasks")
    )
    return [*named, *(f"scores of {name}" for name in unscored)]


def _task(content: Content, task: str, rows: tuple[Row, ...], samples: Samples) -> TaskRun:
    how, config = content.part("dlm_eval", "tasks", task), content.part("configs", task)
    kind = str(config.get("output_type") or "generate_until")
    dataset = config.get("dataset_path")
    documents = samples(task, kind)
    return TaskRun(
        name=task,
        rows=rows,
        documents=documents,
        measures=measures_of(rows, documents or {}),
        settings=task_settings(content, task),
        digests={name: str(how[name]) for name in DIGESTS if how.get(name)},
        generates=kind == "generate_until",
        infill="infill" in nested(config, "metadata"),
        dataset=dataset if isinstance(dataset, str) else None,
    )


def _group(name: str, rows: Sequence[Row], tasks: Sequence[TaskRun]) -> TaskRun:
    """Returns a group as one task. Its scores are paired if they are means over all documents, that
    is, if the group weights its tasks by their size.
    """
    documents = {
        f"{task.name} {key}": each for task in tasks for key, each in (task.documents or {}).items()
    }
    return TaskRun(
        name=name,
        rows=tuple(rows),
        documents=documents if all(task.documents for task in tasks) else None,
        measures=measures_of(tuple(rows), documents),
        settings={},
        digests={},
        generates=all(task.generates for task in tasks),
        infill=any(task.infill for task in tasks),
    )
