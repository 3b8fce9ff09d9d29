"""Baselines: a small file with what `check` needs of a run, meant to be committed.

A baseline is gzipped JSON lines. The first line has the run's settings, environment and scores.
Each other line is one document: digests of document, prompt and answer, its scores and its cost. It
has no text of a document. A baseline reads back as a `Run` without texts, so it can be compared
like any run.
"""

from __future__ import annotations

import gzip
import io
import json
import os
import zlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from dlm_eval.errors import UserError
from dlm_eval.redaction import redact
from dlm_eval.reports.files.corpus import CorpusScore
from dlm_eval.reports.files.corpus_functions import FUNCTIONS
from dlm_eval.reports.files.find import shown_path
from dlm_eval.reports.files.measures import Measure
from dlm_eval.reports.files.row import Row
from dlm_eval.reports.files.runs import Run, TaskRun, read_run
from dlm_eval.reports.files.samples_file import LARGEST, MOST_ID, Document
from dlm_eval.reports.files.write import write_files

FORMAT, VERSION = "dlm_eval baseline", 2
KNOWN = (1, VERSION)  # files of version 1 have no `corpus`
MAGIC = b"\x1f\x8b"
MOST_BYTES = 512 << 20  # unpacked
MOST_LINE = 64 << 20  # bytes
MOST_DOCUMENTS = 2_000_000
# Columns of a document's line; `values` has one item per measure of the task, then one list of
# statistics for each function that gives its headline if that is no mean.
COLUMNS = (
    "task",
    "key",
    "doc_id",
    "prompt",
    "answer",
    "margin",
    "margin_stderr",
    "forwards",
    "tokens",
    "values",
)
_ROW = (
    "task",
    "metric",
    "filter",
    "value",
    "stderr",
    "n",
    "shots",
    "higher_is_better",
    "headline",
    "unit",
    "approximation",
    "finds_length",
)
DIGITS = 6  # of margins, in nats


@dataclass(frozen=True)
class Noise:
    """What two runs of one configuration differ by on a task.

    Attributes:
        n: common documents.
        difference: of their headline scores.
        flips: documents whose score changed.
        answers: documents whose answer changed.
    """

    n: int
    difference: float
    flips: int
    answers: int


@dataclass(frozen=True)
class Baseline:
    """A stored run.

    Attributes:
        run: the run; its documents have no texts.
        noise: task -> what two runs of this configuration differed by, if it was measured.
    """

    run: Run
    noise: Mapping[str, Noise] = field(default_factory=dict)


def is_baseline(path: Path) -> bool:
    """Returns whether a file begins like a gzip file."""
    try:
        with path.open("rb") as file:
            return file.read(2) == MAGIC
    except (OSError, ValueError):  # ValueError: a path with a NUL
        return False


def open_run(path: Path) -> Run:
    """Returns the run of a result file, of the newest one below a folder, or of a baseline.

    Raises:
        UserError: there is no such run, or a file is broken.
    """
    if os.path.isfile(path) and is_baseline(path):
        return read_baseline(path).run
    return read_run(path)


def save_baseline(baseline: Baseline, path: Path) -> int:
    """Writes a baseline atomically; returns its size in bytes. Equal runs give equal files.

    Raises:
        UserError: the run has errors or no documents, or the file cannot be written.
    """
    _check_whole(baseline.run)
    buffer = io.BytesIO()
    with gzip.GzipFile(fileobj=buffer, mode="wb", mtime=0, filename="") as packed:
        for line in _lines(baseline):
            packed.write(json.dumps(line, separators=(",", ":")).encode() + b"\n")
    write_files({path: buffer.getvalue()})
    return len(buffer.getvalue())


def _check_whole(run: Run) -> None:
    if run.missing:
        raise UserError(f"run '{run.source}' is no baseline: it lacks {run.missing[0]}")
    if not run.tasks:
        raise UserError(f"run '{run.source}' is no baseline: it has no scores")
    for task in run.tasks.values():
        if not task.documents:
            raise UserError(
                f"run '{run.source}' is no baseline: task '{task.name}' has no samples file (run it "
                "with --log_samples)"
            )
        if errors := task.errors():
            raise UserError(
                f"run '{run.source}' is no baseline: {len(errors)} of {len(task.documents)} "
                f"documents of task '{task.name}' have errors ({next(iter(errors.values()))})"
            )


def _lines(baseline: Baseline) -> Iterator[Any]:
    run = baseline.run
    yield redact({
        "format": FORMAT,
        "version": VERSION,
        "source": run.source,
        "model": run.model,
        "date": run.date,
        "settings": dict(run.settings),
        "environment": dict(run.environment),
        "batch_invariant": run.batch_invariant,
        "columns": COLUMNS,
        "tasks": {name: _described(task, baseline) for name, task in run.tasks.items()},
    })  # fmt: skip
    for number, task in enumerate(run.tasks.values()):
        for key, document in (task.documents or {}).items():
            yield _document_line(number, key, document, task)


def _described(task: TaskRun, baseline: Baseline) -> dict[str, Any]:
    noise = baseline.noise.get(task.name)
    return {
        "rows": [{key: getattr(row, key) for key in _ROW} for row in task.rows],
        "measures": [[each.name, each.scale, each.sign] for each in task.measures.values()],
        "corpus": [[each.name, each.function] for each in task.corpus_scores],
        "settings": dict(task.settings),
        "digests": dict(task.digests),
        "generates": task.generates,
        "infill": task.infill,
        "noise": vars(noise) if noise else None,
    }


def _document_line(number: int, key: str, document: Document, task: TaskRun) -> list[Any]:
    values = [_whole(measure.values.get(key)) for measure in task.measures.values()]
    counts = [list(map(_whole, each.statistics.get(key, ()))) for each in task.corpus_scores]
    return [
        number,
        key,
        document.doc_id,
        document.prompt,
        document.answer,
        _rounded(document.margin),
        _rounded(document.margin_stderr),
        _whole(document.forwards),
        _whole(document.tokens),
        [*values, *counts],
    ]


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, DIGITS)


def _whole(value: float | None) -> float | None:
    return int(value) if value is not None and value == int(value) else value


def read_baseline(path: Path) -> Baseline:
    """Returns a baseline.

    Raises:
        UserError: the file cannot be read or is no baseline.
    """
    try:
        with gzip.open(path, "rb") as packed:
            return _read(_unpacked(packed), shown_path(path))
    except FileNotFoundError as error:
        raise UserError(
            f"baseline '{path}' does not exist; make it with `dlm-eval baseline save RUN -o FILE`"
        ) from error
    except (OSError, EOFError, zlib.error) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"baseline '{path}' cannot be read: {reason}") from error
    except (ValueError, TypeError, OverflowError, RecursionError, MemoryError) as error:
        raise UserError(
            f"baseline '{path}' cannot be read: {error or type(error).__name__}"
        ) from error


def _unpacked(packed: Any) -> Iterator[Any]:
    size = 0
    while line := packed.readline(MOST_LINE + 1):
        size += len(line)
        if size > MOST_BYTES or len(line) > MOST_LINE:
            raise ValueError(
                f"it has a line of more than {MOST_LINE >> 20} MiB, or more than "
                f"{MOST_BYTES >> 20} MiB"
            )
        yield json.loads(line)


def _read(lines: Iterable[Any], source: str) -> Baseline:
    lines = iter(lines)
    head = next(lines, None)
    if not isinstance(head, dict) or head.get("format") != FORMAT:
        raise ValueError("it is not a baseline of dlm_eval")
    if head.get("version") not in KNOWN:
        known = " and ".join(map(str, KNOWN))
        raise ValueError(f"it has format version {head.get('version')!r}; {known} are known")
    described = _typed(head.get("tasks"), dict, "tasks")
    for name, task in described.items():
        _typed(task, dict, f"task '{name}'")
    names = list(described)
    documents: list[dict[str, Document]] = [{} for _ in names]
    values: list[list[dict[str, Any]]] = [
        [{} for part in ("measures", "corpus") for _ in _entries(described[name], part)]
        for name in names
    ]
    for count, line in enumerate(lines, 2):
        if count > MOST_DOCUMENTS:
            raise ValueError(f"it has more than {MOST_DOCUMENTS} documents")
        _add(line, documents, values, count)
    tasks = {
        name: _task(name, described[name], documents[i], values[i]) for i, name in enumerate(names)
    }
    run = Run(
        source=source,
        model=_text_or_none(head.get("model")),
        date=_text_or_none(head.get("date")),
        settings=_texts(head.get("settings")),
        environment=_texts(head.get("environment")),
        batch_invariant=str(head.get("batch_invariant")),
        missing=(),
        tasks=tasks,
    )
    noise = {
        name: _noise(described[name]["noise"]) for name in names if described[name].get("noise")
    }
    return Baseline(run, noise)


def _add(
    line: Any, documents: list[dict[str, Document]], values: list[list[dict[str, Any]]], number: int
) -> None:
    if not isinstance(line, list) or len(line) != len(COLUMNS):
        raise ValueError(f"line {number} is not a document")
    task, key, doc_id, prompt, answer, margin, margin_stderr, forwards, tokens, scores = line
    known = isinstance(task, int) and not isinstance(task, bool) and 0 <= task < len(documents)
    if not known or not isinstance(scores, list) or len(scores) != len(values[task]):
        raise ValueError(f"line {number} is not a document of the baseline's tasks")
    key = _typed(key, str, f"line {number}: key")
    documents[task][key] = Document(
        key=key,
        doc_id=doc_id if type(doc_id) is int and abs(doc_id) < MOST_ID else None,
        prompt=_typed(prompt, str, f"line {number}: prompt"),
        values={},
        answer=_typed(answer, str, f"line {number}: answer"),
        margin=_finite(margin, number),
        margin_stderr=_finite(margin_stderr, number),
        forwards=_finite(forwards, number),
        tokens=_finite(tokens, number),
    )
    for place, score in enumerate(scores):
        if isinstance(score, list):
            found: Any = tuple(_finite(each, number) for each in score)
        else:
            found = _finite(score, number)
        if found not in (None, ()):
            values[task][place][key] = found


def _entries(described: Mapping[str, Any], part: str) -> list[Any]:
    """Returns a task's measures, or its scores that are no means; files of version 1 have none."""
    found: list[Any] = _typed(described.get(part, [] if part == "corpus" else None), list, part)
    return found


def _task(
    name: str, described: Any, documents: dict[str, Document], values: list[dict[str, Any]]
) -> TaskRun:
    blank: dict[str, Any] = {column.name: None for column in fields(Row)}
    rows = []
    for row in _typed(described.get("rows"), list, "rows"):
        given = {key: _typed(row, dict, "row").get(key) for key in _ROW}
        given["value"] = float(_typed(given["value"], (int, float), "value"))
        given["metric"] = _typed(given["metric"], str, "metric")
        kinds = {"filter": str, "stderr": (int, float), "n": int, "shots": str}
        for key, kind in {**kinds, "approximation": str, "finds_length": str}.items():
            if given[key] is not None:
                _typed(given[key], kind, key)
        rows.append(Row(**{**blank, **given, "task": name, "source": ""}))
    measures = {}
    entries, corpus = described["measures"], _entries(described, "corpus")
    for entry, found in zip(entries, values[: len(entries)], strict=True):
        metric, scale, sign = _typed(entry, list, "measure")
        if scale not in ("mean", "nats") or sign not in (1, -1):
            raise ValueError(f"task '{name}' has a measure of unknown scale")
        if any(isinstance(value, tuple) for value in found.values()):
            raise ValueError(f"task '{name}' has a measure with several numbers")
        if found:
            measures[_typed(metric, str, "measure")] = Measure(metric, scale, sign, found)
    if not rows or not documents:
        raise ValueError(f"task '{name}' has no scores or no documents")
    return TaskRun(
        name=name,
        rows=tuple(rows),
        documents=documents,
        measures=measures,
        corpus=tuple(map(_corpus_score, corpus, values[len(entries) :])),
        settings=_texts(described.get("settings")),
        digests=_texts(described.get("digests")),
        generates=described.get("generates") is True,
        infill=described.get("infill") is True,
    )


def _corpus_score(entry: Any, statistics: dict[str, Any]) -> CorpusScore:
    name, function = (_typed(each, str, "corpus") for each in _typed(entry, list, "corpus"))
    if function not in FUNCTIONS:
        raise ValueError(f"it has the unknown function '{function}'; known: {', '.join(FUNCTIONS)}")
    size = FUNCTIONS[function].size
    if not all(
        isinstance(own, tuple) and len(own) == size and None not in own
        for own in statistics.values()
    ):
        raise ValueError(f"the statistics of '{name}' are not {size} numbers")
    return CorpusScore(name, function, statistics)


def _noise(value: Any) -> Noise:
    found = _typed(value, dict, "noise")
    n, flips, answers = (int(_typed(found.get(k), int, k)) for k in ("n", "flips", "answers"))
    if not 0 <= max(flips, answers) <= n:
        raise ValueError("its noise floor has more changes than documents")
    return Noise(
        n, float(_typed(found.get("difference"), (int, float), "difference")), flips, answers
    )


def _typed(value: Any, kind: Any, what: str) -> Any:
    if not isinstance(value, kind) or isinstance(value, bool):
        raise ValueError(f"{what} has an unexpected value")
    return value


def _finite(value: Any, number: int) -> float | None:
    if value is None:
        return None
    found = float(_typed(value, (int, float), f"line {number}: a number"))
    if not abs(found) <= LARGEST:
        raise ValueError(f"line {number}: a number is not finite, or too large")
    return found


def _texts(value: Any) -> dict[str, str]:
    return {str(k): str(v) for k, v in _typed(value, dict, "settings").items()}


def _text_or_none(value: Any) -> str | None:
    return value if isinstance(value, str) else None
