"""Figures that papers printed (`leaderboards/published.csv`), read for boards.

    file -> bytes (bounded) -> records -> checked rows -> the figures of a task, metric, checkpoint

leaderboards/README.md defines every column.
"""

from __future__ import annotations

import csv
import io
import math
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Literal, cast

from dlm_eval.errors import UserError, unknown_name_error
from dlm_eval.printable import CONTROL

Protocol = Literal["same", "near", "other"]
PROTOCOLS = ("same", "near", "other")
EVIDENCE = ("direct", "inferred", "secondary", "memory")
LARGEST = 1e9  # of a unit without an upper bound of its own
# unit -> smallest and largest value
UNITS: Mapping[str, tuple[float, float]] = {
    "percent": (0, 100),
    "fraction": (0, 1),
    "x100": (0, 100),
    "BLEU": (0, 100),
    "judge 1-10": (1, 10),
    "tokens/forward": (0, LARGEST),
    "perplexity": (1, LARGEST),
    "AUP": (0, LARGEST),
    "seconds": (0, LARGEST),
    "scale": (0, LARGEST),
    "not stated": (0, LARGEST),
}
REQUIRED = (
    "paper", "table", "model", "task", "setting", "metric", "unit", "protocol", "source", "evidence",
)  # fmt: skip
KEY = ("paper", "version", "table", "model", "size", "task", "setting", "metric")
# Metrics that are shares of the documents: their standard error follows from value and n.
SHARES = ("accuracy", "exact match", "pass@1")
MOST_BYTES = 32 << 20
MOST_ROWS = 100_000
MOST_CHARACTERS = 2000  # of a cell

_NUMBER = re.compile(r"[0-9]+(\.[0-9]+)?")
_COUNT = re.compile(r"[1-9][0-9]{0,8}")
_ARXIV = re.compile(r"[0-9]{4}\.[0-9]{5}")


@dataclass(frozen=True)
class Published:
    """One printed figure. The fields up to `note` are the columns of the file, in order.

    Attributes:
        value: the figure in `unit`; None if the source prints only a bound (see `note`).
        n: number of documents, if the source or the benchmark fixes it.
        dlm_task: task here or in lm-eval on the same benchmark, or "".
        dlm_metric: its metric, or "".
        protocol: how far `dlm_task` follows the published procedure.
        printed: `value` with the digits of the source, or "".
        line: line in the file.
    """

    paper: str
    arxiv: str
    version: str
    table: str
    model: str
    size: str
    checkpoint: str
    task: str
    setting: str
    metric: str
    value: float | None
    unit: str
    n: int | None
    dlm_task: str
    dlm_metric: str
    protocol: Protocol
    source: str
    evidence: str
    note: str
    printed: str
    line: int

    @property
    def scaled(self) -> float | None:
        """The value as result files hold it: percent becomes a fraction; ROUGE stays times 100."""
        divisor = 100 if self.unit == "percent" else 1
        return None if self.value is None else self.value / divisor

    @property
    def comparable(self) -> bool:
        """Whether a difference from a measured value may be given in standard errors."""
        return self.protocol != "other" and self.n is not None and self.stderr is not None

    @property
    def stderr(self) -> float | None:
        """Standard error of `scaled` by drawing n documents, for shares of documents only.

        A share of 0 or 1 is taken half a document further inside, so that it has an error.
        """
        share = self.scaled
        if share is None or self.n is None or self.unit != "percent" or self.metric not in SHARES:
            return None
        inside = min(max(share, 0.5 / self.n), 1 - 0.5 / self.n)
        return math.sqrt(inside * (1 - inside) / self.n)

    def deviation(self, value: float, stderr: float) -> float | None:
        """Returns (measured - published) in standard errors of the difference.

        Both errors enter as if the documents were drawn twice. On the same documents the true
        error is smaller, so a large deviation is one for certain and a small one proves nothing.

        Args:
            value: measured, as a result file holds it (a fraction).
            stderr: its standard error.

        Returns:
            None if the figures are not comparable.
        """
        own, share = self.stderr, self.scaled
        if not self.comparable or own is None or share is None:
            return None
        return (value - share) / math.hypot(stderr, own)


COLUMNS = tuple(field.name for field in fields(Published))[: -len(("printed", "line"))]


def read_published(path: Path) -> tuple[Published, ...]:
    """Returns all rows of a file of printed figures, checked.

    Raises:
        UserError: the file cannot be read, is too large, or has a cell that is not allowed; the
            message names the line, the column and what is allowed.
    """
    rows: list[Published] = []
    seen: dict[tuple[str, ...], int] = {}
    for line, cells in _records(path):
        if len(rows) == MOST_ROWS:
            raise _error(path, line, f"more than {MOST_ROWS} rows")
        rows.append(_row(path, line, cells))
        key = tuple(cells[name] for name in KEY)
        if key in seen:
            raise _error(path, line, f"the figure stands in line {seen[key]} already")
        seen[key] = line
    return tuple(rows)


def matching(
    rows: Iterable[Published], task: str, metric: str, checkpoint: str | None = None
) -> list[Published]:
    """Returns the figures of a task and metric of ours, closest protocol first.

    Args:
        rows: figures from `read_published`.
        task: task as in result files.
        metric: its metric.
        checkpoint: hub id; None takes the figures of every model.
    """
    found = (
        row
        for row in rows
        if (row.dlm_task, row.dlm_metric) == (task, metric)
        and (checkpoint is None or row.checkpoint == checkpoint)
    )
    return sorted(found, key=lambda row: PROTOCOLS.index(row.protocol))


def _records(path: Path) -> Iterator[tuple[int, dict[str, str]]]:
    """Yields line number and cells by column of every record."""
    reader = csv.reader(io.StringIO(_text(path), newline=""), strict=True)
    try:
        header = next(reader, [])
        if tuple(header) != COLUMNS:
            raise _error(path, 1, f"the columns must be {','.join(COLUMNS)}")
        for record in reader:
            if len(record) != len(COLUMNS):
                raise _error(
                    path, reader.line_num, f"{len(record)} cells; {len(COLUMNS)} are needed"
                )
            yield reader.line_num, dict(zip(COLUMNS, record, strict=True))
    except csv.Error as error:
        raise _error(path, reader.line_num, f"no valid CSV ({error})") from error


def _text(path: Path) -> str:
    """Returns the text of a file of ordinary size."""
    try:
        if os.path.exists(path) and not os.path.isfile(path):  # reading a pipe would block
            raise OSError(0, "is no ordinary file")
        with path.open("rb") as file:
            raw = file.read(MOST_BYTES + 1)
    except (OSError, ValueError) as error:  # ValueError: a path with a NUL
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"published figures '{path}' cannot be read: {reason}") from error
    if len(raw) > MOST_BYTES:
        raise UserError(f"published figures '{path}' have more than {MOST_BYTES >> 20} MiB")
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise _error(path, line, "no valid UTF-8") from error


def _row(path: Path, line: int, cells: dict[str, str]) -> Published:
    """Returns one record as a row, its cells checked."""
    for name, text in cells.items():
        if len(text) > MOST_CHARACTERS:
            raise _error(
                path, line, f"{name} has {len(text)} characters; {MOST_CHARACTERS} at most"
            )
        if text != text.strip() or CONTROL.search(text):
            raise _error(path, line, f"{name} '{text}' has outer spaces or control characters")
        if not text and name in REQUIRED:
            raise _error(path, line, f"{name} is empty")
    for name, allowed in (("unit", tuple(UNITS)), ("protocol", PROTOCOLS), ("evidence", EVIDENCE)):
        if cells[name] not in allowed:
            where = f"published figures '{path}', line {line}: {name}"
            raise unknown_name_error(where, cells[name], allowed)
    if cells["arxiv"] and not _ARXIV.fullmatch(cells["arxiv"]):
        raise _error(path, line, f"arxiv '{cells['arxiv']}' is not allowed; it must be YYMM.NNNNN")
    if cells["dlm_metric"] and not cells["dlm_task"]:
        raise _error(path, line, "dlm_metric has no dlm_task")
    typed = cells | {
        "value": _value(path, line, cells),
        "n": _count(path, line, cells["n"]),
        "protocol": cast(Protocol, cells["protocol"]),
        "printed": cells["value"],
        "line": line,
    }
    return Published(**typed)  # type: ignore[arg-type]


def _value(path: Path, line: int, cells: dict[str, str]) -> float | None:
    text, unit = cells["value"], cells["unit"]
    if not text:
        if not cells["note"].startswith("printed as "):
            raise _error(path, line, "value is empty, and no note says what is printed")
        return None
    low, high = UNITS[unit]
    if not _NUMBER.fullmatch(text) or not low <= float(text) <= high:
        allowed = f"{unit} is a number from {low:g} to {high:g}"
        raise _error(path, line, f"value '{text}' is not allowed; {allowed}")
    return float(text)


def _count(path: Path, line: int, text: str) -> int | None:
    if text and not _COUNT.fullmatch(text):
        raise _error(path, line, f"n '{text}' is not allowed; it must be a whole number from 1")
    return int(text) if text else None


def _error(path: Path, line: int, message: str) -> UserError:
    return UserError(f"published figures '{path}', line {line}: {message}")
