"""Which scores a board admits, and what makes an admitted score less comparable.

result files -> scores of the board's columns -> problems -> refused, or admitted with marks
"""

from __future__ import annotations

import difflib
import fnmatch
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from dlm_eval.errors import unknown_name_error
from dlm_eval.printable import counted
from dlm_eval.reports.board.board_file import REFUSE, BoardFile, Column
from dlm_eval.reports.files.result_file import ResultFile
from dlm_eval.reports.files.row import Row

# Columns of a score that a board can require, or match rows by. Others are settings.
OF_ROW = (
    "model", "checkpoint", "revision", "shots", "estimator", "strategy", "approximation", "steps",
    "gen_length", "block_length", "dtype", "device", "task_version", "logprob_kind", "label", "seed",
    "finds_length",
)  # fmt: skip
MOST_NOTES = 50  # refused scores that are listed
ALIKE = 0.8  # similarity of a misspelled name


class RunSettings:
    """What can be asked of a score: its columns, and the settings of its run."""

    def __init__(self, files: Sequence[ResultFile]) -> None:
        self._files = {row.source: file for file in files for row in file.rows}

    def of(self, row: Row, name: str) -> str | None:
        """Returns a column or a setting of a score as text."""
        if name in OF_ROW:
            value = getattr(row, name)
            return None if value is None else str(value)
        own = self.resolved(row, name)
        return self._files[row.source].settings.get(name) if own is None else own

    def resolved(self, row: Row, name: str) -> str | None:
        """Returns a setting as the task was run."""
        return self._files[row.source].resolved.get(row.task, {}).get(name)

    def check_names(self, what: str, names: Iterable[str]) -> None:
        """Raises UserError for a name that is no setting of a file but is spelled like one.

        Other unknown names are settings that no file happens to have.
        """
        known = set(OF_ROW)
        for file in self._files.values():
            known.update(file.settings, *file.resolved.values())
        for name in names:
            if name not in known and difflib.get_close_matches(name, known, 1, ALIKE):
                raise unknown_name_error(what, name, known)


@dataclass(frozen=True)
class Admitted:
    """The scores that a board admits.

    Attributes:
        rows: the scores, each once.
        marks: (column, id of a score) -> what makes it less comparable; only admitted scores.
        refused: what was left out, and why.
    """

    rows: tuple[Row, ...]
    marks: Mapping[tuple[str, int], tuple[str, ...]]
    refused: tuple[str, ...]

    def marks_of(self, column: str, rows: Sequence[Row]) -> tuple[str, ...] | None:
        """Returns the marks of scores in a column; None if one of them is refused."""
        found = [self.marks.get((column, id(row))) for row in rows]
        if any(marks is None for marks in found):
            return None
        return tuple(dict.fromkeys(text for marks in found for text in marks or ()))

    def notes(self) -> list[str]:
        """Returns what was refused."""
        rest = len(self.refused) - MOST_NOTES
        more = [f"{rest} more scores were left out"] if rest > 0 else []
        return [*(f"left out: {text}" for text in self.refused[:MOST_NOTES]), *more]


def admit(declared: BoardFile, files: Sequence[ResultFile], settings: RunSettings) -> Admitted:
    """Returns the scores that a board admits.

    Raises:
        UserError: a column requires a misspelled setting, or its task has no such metric or filter.
    """
    for column in declared.columns:
        settings.check_names(f"{declared.what}: {column.name}: require", column.require)
        _check_score(declared.what, column, files)
    rows: dict[int, Row] = {}
    marks: dict[tuple[str, int], tuple[str, ...]] = {}
    refused = []
    for column, row in _scores(declared.columns, files):
        problems = list(_problems(column, row, settings))
        reasons = [text for kind, text in problems if declared.policy.get(kind) == REFUSE]
        if reasons:
            refused.append(f"{column.name}: {row.source} ({', '.join(reasons)})")
            continue
        rows[id(row)] = row
        marks[column.name, id(row)] = tuple(text for _, text in problems)
    return Admitted(tuple(_without_trials(list(rows.values()))), marks, tuple(refused))


def _check_score(what: str, column: Column, files: Sequence[ResultFile]) -> None:
    """Raises UserError if files have the column's task, but not its metric or filter."""
    own = [row for file in files for row in file.rows if row.task == column.task]
    metrics = {row.metric for row in own}
    if metrics and column.metric not in metrics:
        raise unknown_name_error(f"{what}: {column.name}: metric", column.metric, metrics)
    filters = {row.filter or "none" for row in own if row.metric == column.metric}
    if filters and column.filter is not None and column.filter not in filters:
        raise unknown_name_error(f"{what}: {column.name}: filter", column.filter, filters)


def _scores(columns: Sequence[Column], files: Sequence[ResultFile]) -> Iterator[tuple[Column, Row]]:
    """Yields the score of each column in each file; without `filter`, that of the first filter."""
    for file in files:
        for column in columns:
            own = (row for row in file.rows if column.takes(row.task, row.metric, row.filter))
            if (row := next(own, None)) is not None:
                yield column, row


def _problems(column: Column, row: Row, settings: RunSettings) -> Iterator[tuple[str, str]]:
    """Yields (kind, words) of all that makes a score less comparable."""
    if row.is_part:
        yield "partial", f"n={row.n} of {row.n_total}"
    if column.shots is not None and row.shots != str(column.shots):
        yield "shots", f"shots={row.shots or 'unknown'}, not {column.shots}"
    if "score" in (row.logprob_kind or "").replace(" ", "").split(","):
        yield "score", "a score, no likelihood"
    for name, allowed in column.require.items():
        value = settings.of(row, name)
        if not fits(value, allowed):
            yield "settings", f"{name}={value or 'unknown'}, not {' or '.join(allowed)}"
    if row.errors:
        yield "errors", counted(row.errors, "error")
    if row.code:
        yield "code", row.code


def fits(value: str | None, allowed: Sequence[str]) -> bool:
    """Returns whether a value is one of the patterns."""
    return value is not None and any(fnmatch.fnmatchcase(value, each) for each in allowed)


def _without_trials(rows: Sequence[Row]) -> list[Row]:
    """Drops scores of a part of the documents if there is the same score of all of them."""

    def name(row: Row) -> tuple[object, ...]:
        of_run = (row.model, row.checkpoint, row.revision, row.setup, row.options, row.shots)
        configuration = row.configuration or row.fingerprint
        return (*of_run, row.task, row.metric, configuration, row.scoring)

    complete = {name(row) for row in rows if not row.is_part}
    return [row for row in rows if not row.is_part or name(row) not in complete]
