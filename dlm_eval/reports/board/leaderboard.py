"""Long and wide tables of all scores below given directories.

    result files -> one row per score (long) -> models by tasks, one headline metric each (wide)

The DataFrames contain names as in the files. Text is made safe for spreadsheets when it is written.
docs/reference/leaderboard-tables.md defines every column.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dlm_eval.errors import UserError
from dlm_eval.reports.board.configurations import DISTINGUISHING, Configuration, Key, configurations
from dlm_eval.reports.board.csv_tables import long_cells, title
from dlm_eval.reports.board.names import differences
from dlm_eval.reports.board.natural import natural, natural_all
from dlm_eval.reports.files.csv_file import cell, csv_text
from dlm_eval.reports.files.find import read_result_files
from dlm_eval.reports.files.result_file import latest
from dlm_eval.reports.files.row import COLUMNS, Row
from dlm_eval.reports.files.write import write_files

if TYPE_CHECKING:
    import pandas

WHO = ("model", "checkpoint", "revision")
_FLOATS = (
    "value", "stderr", "forwards_per_sample", "tokens_per_forward", "tokens_per_second",
    "computed_per_sample",
)  # fmt: skip
_DTYPES = (
    dict.fromkeys(_FLOATS, "float64")
    | dict.fromkeys(("n", "errors", "n_total"), "Int64")
    | {"headline": "bool"}
)


def leaderboard(paths: Sequence[Path], keep_all: bool = False) -> pandas.DataFrame:
    """Returns the long table: one row per score of every `results_*.json` below the paths.

    A file that is given by path may have any name. Files that are not readable results are skipped
    with a warning. For runs with the same settings, only the newest score of each task and metric
    is kept.

    Args:
        paths: result files, or directories to search for them.
        keep_all: whether to keep the older runs too.

    Raises:
        UserError: a path does not exist, or no result file was found.
    """
    import pandas

    files = [file for _, _, file in read_result_files(paths) if file.rows]
    if not files:
        raise UserError(
            f"paths {', '.join(repr(str(path)) for path in paths)} hold no results_*.json with "
            "scores"
        )
    rows = [row for file in (files if keep_all else latest(files)) for row in file.rows]
    # The sort is stable, so a task's metrics keep the task's order, headline first.
    frame = pandas.DataFrame(
        [asdict(row) for row in sorted(rows, key=_order)], columns=list(COLUMNS), dtype="object"
    )
    return frame.astype({name: _DTYPES.get(name, "object") for name in COLUMNS})


def wide(long: pandas.DataFrame) -> pandas.DataFrame:
    """Returns the wide table: one column per task and headline metric, one row per configuration
    of a model (`configurations`).

    Fractions are in percent with two decimals. `setting` is the run's label, and what tells the row
    from the model's other rows. It also says if scores cover only a part of the task's documents.
    Runs that differ only in seeds are one row of means.
    """
    import pandas

    headlines = [_row(r) for r in long[long["headline"].astype(bool)].to_dict("records")]
    columns = _columns(long, headlines)
    found = configurations(headlines)
    settings = differences(found, [_permanent_notes(each) for each in found])
    table: list[dict[str, Any]] = [
        {**dict(zip(WHO, each.who, strict=True)), "setting": setting}
        for each, setting in zip(found, settings, strict=True)
    ]
    for name, key in columns.items():
        for place, value in _values(found, key).items():
            table[place][name] = value
    table.sort(key=lambda row: natural_all([row[name] for name in (*WHO, "setting")]))
    return pandas.DataFrame(table, columns=[*WHO, "setting", *columns])


def _columns(long: pandas.DataFrame, headlines: Sequence[Row]) -> dict[str, Key]:
    """Returns name -> score of the columns of the wide table, in order. The name has the filter if
    the long table has scores under several.
    """
    filters: dict[tuple[str, str], set[str]] = {}
    for task, metric, pipeline in zip(long["task"], long["metric"], long["filter"], strict=True):
        filters.setdefault((task, metric), set()).add(_text(pipeline))
    named: dict[str, Key] = {}
    for row in headlines:
        several = len(filters[row.task, row.metric]) > 1
        metric = f"{row.metric},{row.filter or ''}" if several else row.metric
        named[title(row.task, metric, row.sign < 0)] = (row.task, row.metric, row.filter)
    return {name: named[name] for name in sorted(named, key=natural)}


def _values(found: Sequence[Configuration], key: Key) -> dict[int, float]:
    """Returns place of a configuration -> value of its score, in percent if all are fractions."""
    scores = {place: each.scores[key] for place, each in enumerate(found) if key in each.scores}
    fractions = all(row.unit == "fraction" for score in scores.values() for row in score.rows)
    values = _rounded([score.value for score in scores.values()], fractions)
    return dict(zip(scores, values, strict=True))


def write(long: pandas.DataFrame, output: Path) -> Path:
    """Writes the long table to `output` and the wide table beside it, both or neither; returns the
    path of the wide table.

    Raises:
        UserError: `output` does not end in .csv or cannot be written.
    """
    if output.suffix != ".csv":
        raise UserError(f"output '{output}' must end in .csv, .md, .tex or .html")
    beside = output.with_name(f"{output.stem}_wide.csv")
    write_files({output: csv_text(list(long.columns), _long_cells(long)), beside: wide_csv(long)})
    return beside


def wide_csv(long: pandas.DataFrame) -> str:
    """Returns the wide table as CSV text."""
    table = wide(long)
    return csv_text(list(table.columns), _wide_cells(table))


def _order(row: Row) -> tuple[Any, ...]:
    names = (*WHO, "task", *DISTINGUISHING)
    return tuple(natural(_text(getattr(row, name))) for name in names) + (not row.headline,)


def _row(record: Mapping[str, Any]) -> Row:
    """Returns a record of the long table, also of one read from CSV, as a score."""
    kinds = {"float64": float, "Int64": int}
    cells: dict[str, Any] = {}
    for name in COLUMNS:
        text = _text(record.get(name))
        kind = kinds.get(_DTYPES.get(name, ""))
        cells[name] = (text or None) if kind is None else kind(float(text)) if text else None
    cells |= {name: _text(record[name]) for name in ("task", "metric", "source")}
    cells["value"] = math.nan if cells["value"] is None else cells["value"]
    lower = _text(record["higher_is_better"])
    cells["higher_is_better"] = {"False": False, "True": True}.get(lower)
    cells["headline"] = bool(record["headline"])
    return Row(**cells)


def _permanent_notes(found: Configuration) -> list[str]:
    """Returns the notes that are always shown with scores: part of a task, code outside the
    sandbox, an approximate cache, a length that the decoder found; with the task if it is not so
    for all tasks.
    """
    notes: dict[str, list[str]] = {}
    for (task, _, _), score in found.scores.items():
        row = score.rows[0]
        if row.n is not None and row.n_total is not None and row.n != row.n_total:
            notes.setdefault(f"n={row.n}", []).append(task)
        for note in (row.code, *row.decoding_notes):
            if note:
                notes.setdefault(note, []).append(task)
    few = len(notes) > 1 or any(len(tasks) < len(found.scores) for tasks in notes.values())
    return [
        f"{note} ({', '.join(tasks)})" if few and note.startswith("n=") else note
        for note, tasks in notes.items()
    ]


def _rounded(values: Sequence[float], as_percent: bool) -> list[float]:
    """Returns a column's numbers, rounded for tables.

    Fractions (in percent) and columns with values of 10 or more have two decimals. Other columns
    (bits per byte) have four digits.
    """
    if as_percent:
        return [round(100 * value, 2) + 0.0 for value in values]  # + 0.0: no "-0.00"
    coarse = any(abs(value) >= 10 for value in values)
    return [round(value, 2) if coarse else float(f"{value:.4g}") for value in values]


def _long_cells(long: pandas.DataFrame) -> Iterator[list[str]]:
    for record in long.to_dict("records"):
        values = {str(name): _plain(value) for name, value in record.items()}
        yield long_cells(values, list(values))


def _wide_cells(table: pandas.DataFrame) -> Iterator[list[str]]:
    for record in table.to_dict("records"):
        yield [_two_decimals(_plain(value)) for value in record.values()]


def _two_decimals(value: object) -> str:
    return f"{value:.2f}" if isinstance(value, float) and round(value, 2) == value else cell(value)


def _plain(value: Any) -> Any:
    """Returns the Python value for a missing value of pandas or a number of numpy."""
    import pandas

    if value is None or value is pandas.NA:
        return None
    return value.item() if hasattr(value, "item") else value


def _text(value: Any) -> str:
    value = _plain(value)
    if isinstance(value, float) and value.is_integer():  # a CSV reader returns counts as 5.0
        value = int(value)
    return "" if value is None or value != value else str(value)
