"""A run as reports read it: its scores, its settings, and every document of its tasks.

    results_*.json + samples_*.jsonl   (or a baseline file)   -> Run -> TaskRun -> Document

A result file gives scores and settings; the samples files beside it give the documents. Files are
untrusted, see `result_file` and `samples_file`.
"""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dlm_eval.errors import UserError
from dlm_eval.printable import counted
from dlm_eval.redaction import redact
from dlm_eval.reports.files.find import find_result_files, shown_path
from dlm_eval.reports.files.result_file import (
    ResultFile,
    Row,
    flat_groups,
    load_document,
    nested,
    rows_of,
)
from dlm_eval.reports.files.samples_file import (
    Document,
    digest,
    documents_of,
    read_samples,
    samples_beside,
)

log = logging.getLogger(__name__)

MOST_SETTINGS = 5000  # names of settings that are compared
LONGEST = 200  # characters of a setting's value
RELATIVE = 1e-6  # largest difference between a score and the mean of its documents
# Settings of the run that say how it was carried out, or that the tasks' resolved settings repeat.
_NO_SETTING = ("decode", "gen_kwargs", "batch_size", "num_fewshot", "fewshot_as_multiturn")
# Parts of a task's YAML that are compared. Prompts are compared by their digests.
_OF_YAML = (
    "doc_to_text", "doc_to_target", "doc_to_choice", "description", "target_delimiter",
    "fewshot_delimiter", "gen_prefix", "generation_kwargs", "repeats", "metric_list", "filter_list",
    "process_results", "metadata",
)  # fmt: skip
_OF_TASK = ("documents", "kind")  # facts of a task that are no settings
_DIGESTS = ("configuration", "fingerprint", "scoring")
_ENVIRONMENT = (
    "dlm_eval", "git", "python", "torch", "transformers", "lm_eval", "datasets", "numpy",
    "device_name", "threads", "system",
)  # fmt: skip
# Facts that differ between commits and do not make another environment.
OF_THE_CODE = ("dlm_eval", "git")


@dataclass(frozen=True)
class Measure:
    """One metric of a task as a mean over documents.

    Attributes:
        name: "metric,filter".
        scale: "mean" if the score is the mean of `values`; "nats" if it is a perplexity and
            `values` are log-likelihoods in nats (per document, word or byte).
        sign: 1 if higher values are better, -1 if lower ones are.
        values: key of the document -> value.
    """

    name: str
    scale: str
    sign: int
    values: Mapping[str, float]

    @property
    def binary(self) -> bool:
        """Whether every document is right (1) or wrong (0)."""
        return set(self.values.values()) <= {0.0, 1.0}


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
    dataset: str | None = None

    @property
    def headline(self) -> Row:
        """The score that stands for the task."""
        return self.rows[0]

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


def find_run(path: Path) -> Path:
    """Returns the result file of `path`: the file itself, or the newest one below a folder.

    Raises:
        UserError: there is none, or the newest cannot be read.
    """
    if os.path.isfile(path):
        return path
    times: dict[Path, float] = {}
    broken: dict[Path, str] = {}
    for file in find_result_files([path]):
        try:
            times[file] = rows_of(load_document(file), "").time
        except (ValueError, OSError, RecursionError, MemoryError) as reason:
            log.warning("%s is skipped: %s", repr(str(file)), reason)
            broken[file] = str(reason)
    if not times:
        raise UserError(f"path '{path}' holds no results_*.json with scores")
    newest = max(times, key=lambda file: (times[file], str(file)))
    for file, why in broken.items():
        if file.name > newest.name:  # names have the time: an older run would pass in its place
            raise UserError(f"run '{file}' is the newest, and cannot be read: {why}")
    if len(times) > 1:
        log.warning(
            "%s holds %s; the newest is taken: %s", path, counted(len(times), "run"), newest
        )
    return newest


def read_run(path: Path) -> Run:
    """Returns the run of a result file, or the newest run below a folder.

    Raises:
        UserError: there is no such run, or one of its files is broken.
    """
    file = find_run(path)
    try:
        document = load_document(file)
        found = rows_of(document, shown_path(file))
    except OSError as error:
        raise UserError(f"run '{file}' cannot be read: {error.strerror or error}") from error
    except (ValueError, RecursionError, MemoryError) as reason:
        raise UserError(f"run '{file}' cannot be read: {reason}") from reason

    def samples(task: str, kind: str) -> dict[str, Document] | None:
        beside = samples_beside(file, task)
        if beside is None:
            return None
        try:
            return read_samples(beside, kind)
        except ValueError as reason:
            raise UserError(f"samples file '{beside}' cannot be read: {reason}") from reason

    return _run(document, found, shown_path(file), samples)


def run_of(results: Mapping[str, Any], source: str = "results") -> Run:
    """Returns the run of results in memory, as `evaluate` returns them.

    Raises:
        UserError: they are no results.
    """
    from dlm_eval.harness.results import json_value

    document = json_value(results)  # as it would be read from files
    samples = nested(document, "samples")

    def of_task(task: str, kind: str) -> dict[str, Document] | None:
        rows = samples.get(task)
        return documents_of(rows, kind) if isinstance(rows, list) else None

    try:
        return _run(document, rows_of(document, source), source, of_task)
    except ValueError as reason:
        raise UserError(f"{source} cannot be read: {reason}") from reason


def _run(document: dict[str, Any], found: ResultFile, source: str, samples: Any) -> Run:
    groups, leaves = nested(document, "group_subtasks"), flat_groups(document)
    rows: dict[str, list[Row]] = {}
    for row in found.rows:
        rows.setdefault(row.task, []).append(row)
    block = nested(document, "dlm_eval")
    costs = nested(block, "cost")
    # A task whose documents all failed has no score, and thus no row.
    unscored = [name for name in costs if name != "total" and name not in rows]
    missing = block.get("missing")
    tasks = {}
    for task, scores in rows.items():
        if not groups.get(task):
            tasks[task] = _task(document, task, tuple(scores), samples)
    first = found.rows[0] if found.rows else None
    return Run(
        source=source,
        model=(first.checkpoint or first.model) if first else None,
        date=first.date if first else None,
        settings=_run_settings(document),
        environment=_environment(document),
        batch_invariant=str(nested(block, "environment").get("batch_invariant", "unknown")),
        missing=(
            *(str(part) for part in (missing if isinstance(missing, list) else [])),
            *(f"scores of {name}" for name in unscored if name not in groups),
        ),
        tasks=tasks,
        groups={
            name: _group(
                name, tuple(scores), [tasks[leaf] for leaf in leaves[name] if leaf in tasks]
            )
            for name, scores in rows.items()
            if groups.get(name)
        },
    )


def _task(document: dict[str, Any], task: str, rows: tuple[Row, ...], samples: Any) -> TaskRun:
    how, config = nested(document, "dlm_eval", "tasks", task), nested(document, "configs", task)
    kind = str(config.get("output_type") or "generate_until")
    dataset = config.get("dataset_path")
    documents = samples(task, kind)
    settings = {k: v for k, v in how.items() if k not in (*_DIGESTS, *_OF_TASK)}
    settings = flat({
        **settings,
        "num_fewshot": how.get("num_fewshot", nested(document, "n-shot").get(task)),
        "version": nested(document, "versions").get(task),
        "yaml": {key: config.get(key) for key in _OF_YAML if config.get(key) is not None},
    })  # fmt: skip
    return TaskRun(
        name=task,
        rows=rows,
        documents=documents,
        measures=measures_of(rows, documents or {}),
        settings=settings,
        digests={name: str(how[name]) for name in _DIGESTS if how.get(name)},
        generates=kind == "generate_until",
        infill="infill" in nested(config, "metadata"),
        dataset=dataset if isinstance(dataset, str) else None,
    )


def _group(name: str, rows: tuple[Row, ...], tasks: Sequence[TaskRun]) -> TaskRun:
    """Returns a group as one task. Its scores are paired if they are means over all documents, that
    is, if the group weights its tasks by their size.
    """
    documents = {
        f"{task.name} {key}": each for task in tasks for key, each in (task.documents or {}).items()
    }
    return TaskRun(
        name=name,
        rows=rows,
        documents=documents if all(task.documents for task in tasks) else None,
        measures=measures_of(rows, documents),
        settings={},
        digests={},
        generates=all(task.generates for task in tasks),
        infill=any(task.infill for task in tasks),
    )


def measures_of(rows: tuple[Row, ...], documents: Mapping[str, Document]) -> dict[str, Measure]:
    """Returns the metrics whose score is reproduced by the documents' values.

    A score can be any function of the documents (F1 over all, BLEU). It is only taken as a mean
    if the mean is the score.
    """
    found = {}
    for row in rows:
        name = f"{row.metric},{row.filter or 'none'}"
        values = {key: document.values.get(name) for key, document in documents.items()}
        measure = _measure(row, name, {k: v for k, v in values.items() if v is not None})
        if measure is not None:
            found[name] = measure
    return found


def _measure(row: Row, name: str, values: Mapping[str, Any]) -> Measure | None:
    numbers = {key: value for key, value in values.items() if isinstance(value, float)}
    pairs = {key: value for key, value in values.items() if isinstance(value, tuple)}
    if numbers and not pairs:
        mean = math.fsum(numbers.values()) / len(numbers)
        if _close(mean, row.value):
            return Measure(name, "mean", -1 if row.higher_is_better is False else 1, numbers)
        if _close(_exp(-mean), row.value):
            return Measure(name, "nats", 1, numbers)
    if pairs and not numbers:
        weight = math.fsum(weight for _, weight in pairs.values()) / len(pairs)
        nats = {key: value / weight for key, (value, _) in pairs.items()}
        mean = math.fsum(nats.values()) / len(nats)
        if _close(_exp(-mean), row.value) or _close(-mean / math.log(2), row.value):
            return Measure(name, "nats", 1, nats)
    return None


def _close(value: float, score: float) -> bool:
    return math.isclose(value, score, rel_tol=RELATIVE, abs_tol=1e-9)


def _exp(value: float) -> float:
    return math.exp(value) if value < 700 else math.inf


def _run_settings(document: dict[str, Any]) -> dict[str, str]:
    names = ("system_instruction", "fewshot_as_multiturn", "chat_template_sha")
    prompted = {name: document.get(name) or None for name in names}
    block = nested(document, "dlm_eval", "settings")
    if block:
        kept = {key: value for key, value in block.items() if key not in _NO_SETTING}
        return flat({**prompted, **kept})
    config = {
        key: value
        for key, value in nested(document, "config").items()
        if key not in ("batch_size", "batch_sizes", "device", "use_cache", "bootstrap_iters")
    }
    return flat({**redact(config), **prompted})  # dlm_eval writes no secrets; others do


def _environment(document: dict[str, Any]) -> dict[str, str]:
    found = nested(document, "dlm_eval", "environment")
    if not found:
        names = {"transformers": "transformers_version", "lm_eval": "lm_eval_version"}
        found = {name: document.get(key) for name, key in names.items()}
    return flat({name: found.get(name) for name in _ENVIRONMENT if found.get(name) is not None})


def flat(value: Mapping[str, Any], above: str = "") -> dict[str, str]:
    """Returns nested settings as dotted name -> value as text; null and empty values are left out."""
    found: dict[str, str] = {}
    for key, item in value.items():
        name = f"{above}{key}"
        if isinstance(item, dict) and item:
            if name.count(".") < 6:
                found.update(flat(item, f"{name}."))
        elif item is not None and item != [] and item != {} and item != "":
            text = item if isinstance(item, str) else repr(item)
            found[name[:LONGEST]] = text if len(text) <= LONGEST else f"{text[:60]}… {digest(text)}"
        if len(found) > MOST_SETTINGS:
            break
    return found
