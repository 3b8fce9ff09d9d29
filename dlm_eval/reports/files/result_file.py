"""One result file, of dlm_eval or of lm-eval alone, as rows of the long leaderboard table.

    file -> JSON -> Content -> cells of the run, cells of each score -> Row

Files of lm-eval alone lack the `dlm_eval` block, so their rows have no estimator, strategy, cost or
fingerprint. Files are untrusted. A value that does not have the expected type counts as missing. A
file that is not a result file raises ValueError with the reason.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from dlm_eval.printable import valid_unicode
from dlm_eval.reports.files.content import Content
from dlm_eval.reports.files.digests import Digests
from dlm_eval.reports.files.json_values import first_text, nested, valid
from dlm_eval.reports.files.row import Row
from dlm_eval.reports.files.run_cells import named_checkpoint, run_cells, start_time
from dlm_eval.reports.files.scores import task_cells

MOST_BYTES = 64 << 20  # of a result file (samples are in other files)
MOST_SCORES = 20_000
MOST_CHARACTERS = 500  # of a cell
MOST_RESOLVED = 300  # settings of a task
LONGEST_RESOLVED = 200  # characters of a setting


@dataclass(frozen=True)
class ResultFile:
    """The rows of one run, and the identity that marks repeated runs.

    Attributes:
        identity: task -> fingerprint, or a hash of all recorded settings if there is none.
        time: start of the run in seconds since 1970; 0.0 if unknown.
        rows: rows in the order of the file's tasks, with each task's headline first.
        settings: setting of the run -> value as text; `pretrained` is the hub id or folder.
        resolved: task -> setting -> value as text, as the task was run.
    """

    identity: dict[str, str]
    time: float
    rows: tuple[Row, ...]
    settings: dict[str, str] = field(default_factory=dict)
    resolved: dict[str, dict[str, str]] = field(default_factory=dict)


def read_result_file(path: Path, source: str) -> ResultFile:
    """Returns the rows of one lm-eval result file; see `read_whole`."""
    return read_whole(path, source)[1]


def read_whole(path: Path, source: str) -> tuple[Content, ResultFile]:
    """Returns content and rows of one lm-eval result file.

    Raises:
        ValueError: the file cannot be read, is not JSON, or is not a result file; the message has
            the reason.
    """
    try:
        content = Content(load_json(path))
        return content, rows_of(content, source)
    except OSError as error:
        raise ValueError(error.strerror or type(error).__name__) from error
    except (RecursionError, MemoryError) as error:
        raise ValueError(
            f"it is nested too deeply or too large ({type(error).__name__})"
        ) from error


def load_json(path: Path) -> Any:
    """Returns the parsed JSON of a result file.

    Raises:
        OSError: it cannot be read.
        ValueError: it is empty, too large or not JSON; the message has the reason.
    """
    size = path.stat().st_size
    if size == 0:
        raise ValueError("it is empty")  # or a kernel file, which may be endless
    if size > MOST_BYTES:
        raise ValueError(f"it is larger than {MOST_BYTES >> 20} MiB")
    try:
        return valid(json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"not JSON ({type(error).__name__})") from error


def rows_of(content: Content, source: str) -> ResultFile:
    """Returns the rows of a parsed result file.

    Raises:
        ValueError: it has no scores, or too many; the message has the reason.
    """
    rows = _rows(content, valid_unicode(source))
    if not rows and not content.of_dlm_eval:  # in a run of dlm_eval all samples may have failed
        raise ValueError("it holds no scores")
    last = {row.task: (task, row) for task, row in rows}
    digests = Digests(content)
    return ResultFile(
        identity={name: digests.identity(task, row) for name, (task, row) in last.items()},
        time=start_time(content),
        rows=tuple(row for _, row in rows),
        settings=_run_settings(content),
        resolved={task: _resolved(content, task) for task, _ in rows},
    )


def _rows(content: Content, source: str) -> list[tuple[str, Row]]:
    """Returns the task in the file and the row of every score."""
    shared, digests = _short(run_cells(content, source)), Digests(content)
    found: list[tuple[str, Row]] = []
    for task in content.whole["results"]:
        for cells in task_cells(content, digests, task):
            found.append((task, Row(**shared, **_short(cells))))
            if len(found) > MOST_SCORES:
                raise ValueError(f"it holds more than {MOST_SCORES} scores")
    return found


def _short(cells: dict[str, Any]) -> dict[str, Any]:
    """Returns cells with long texts cut for tables. A cut text ends in a hash of the whole text."""

    def short(name: str, value: Any) -> Any:
        if not isinstance(value, str) or len(value) <= MOST_CHARACTERS or name == "source":
            return value
        return f"{value[:MOST_CHARACTERS]}…{hashlib.sha256(value.encode()).hexdigest()[:8]}"

    return {name: short(name, value) for name, value in cells.items()}


def _run_settings(content: Content) -> dict[str, str]:
    settings = content.part("dlm_eval", "settings")
    pretrained = first_text(nested(settings, "model").get("pretrained"), named_checkpoint(content))
    return _texts(settings) | ({} if pretrained is None else {"pretrained": pretrained})


def _resolved(content: Content, task: str) -> dict[str, str]:
    how = content.part("dlm_eval", "tasks", task)
    return _texts({**how, **nested(how, "decode")})


def _texts(settings: dict[str, Any]) -> dict[str, str]:
    """Returns settings that are one text, number or boolean, as text."""
    texts = {
        str(key): str(value)
        for key, value in list(settings.items())[:MOST_RESOLVED]
        if isinstance(value, (str, int, float, bool))
    }
    return {key: text for key, text in texts.items() if len(text) <= LONGEST_RESOLVED}


def latest(files: Sequence[ResultFile]) -> list[ResultFile]:
    """Returns the files without the scores that a newer run of the same settings replaces.

    The numbers of documents and examples count as settings, so that a trial on five documents does
    not replace a whole run.
    """
    kept: dict[tuple[object, ...], Row] = {}
    with_rows = [file for file in files if file.rows]
    for file in sorted(with_rows, key=lambda file: (file.time, file.rows[0].source)):
        for row in file.rows:
            kept[(file.identity[row.task], row.task, row.metric, row.filter, row.n, row.shots)] = (
                row
            )
    newest = {id(row) for row in kept.values()}
    return [
        replace(file, rows=tuple(row for row in file.rows if id(row) in newest)) for file in files
    ]
