"""Long and wide tables of all scores below given directories, and the subcommand `dlm-eval
leaderboard`.

    result files -> one row per score (long) -> models by tasks, one headline metric each (wide)

The DataFrames contain names as in the files. Text is made safe for spreadsheets when it is written.
docs/results.md defines every column.
"""

from __future__ import annotations

import argparse
import logging
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dlm_eval.errors import UserError
from dlm_eval.output import one_line
from dlm_eval.printable import counted, valid_unicode
from dlm_eval.reports.configurations import (
    DISTINGUISHING,
    Configuration,
    configurations,
    differences,
    natural,
    natural_all,
)
from dlm_eval.reports.csv_file import cell, csv_text, write_files
from dlm_eval.reports.result_file import ResultFile, Row, read_result_file

if TYPE_CHECKING:
    import pandas

    from dlm_eval.reports.board import Board

log = logging.getLogger(__name__)

COLUMNS = tuple(field.name for field in fields(Row))
WHO = ("model", "checkpoint", "revision")
BOARD_SUFFIXES = (".md", ".tex", ".html")  # `-o` in these formats writes a board
_FLOATS = ("value", "stderr", "forwards_per_sample", "tokens_per_forward", "tokens_per_second")
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

    files = [file for file in _read_all(paths) if file.rows]
    if not files:
        raise UserError(
            f"paths {', '.join(repr(str(path)) for path in paths)} hold no results_*.json with "
            "scores"
        )
    rows = [row for file in files for row in file.rows] if keep_all else _newest(files)
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

    filters: dict[tuple[str, str], set[str]] = {}
    for task, metric, pipeline in zip(long["task"], long["metric"], long["filter"], strict=True):
        filters.setdefault((task, metric), set()).add(_text(pipeline))
    headlines = [_row(r) for r in long[long["headline"].astype(bool)].to_dict("records")]
    names = {
        (row.task, row.metric, row.filter): _column_name(
            row, len(filters[(row.task, row.metric)]) > 1
        )
        for row in headlines
    }
    columns = {name: key for key, name in names.items()}
    found = configurations(headlines)
    settings = differences(found, [_permanent_notes(each) for each in found])
    table: list[dict[str, Any]] = [
        dict(zip((*WHO, "setting"), (*each.who, setting), strict=True))
        for each, setting in zip(found, settings, strict=True)
    ]
    for name in sorted(columns, key=natural):
        holders = [number for number, each in enumerate(found) if columns[name] in each.scores]
        scores = [found[number].scores[columns[name]] for number in holders]
        fractions = all(row.unit == "fraction" for score in scores for row in score.rows)
        shown_values = _rounded([score.value for score in scores], fractions)
        for number, value in zip(holders, shown_values, strict=True):
            table[number][name] = value
    table.sort(key=lambda row: natural_all([row[name] for name in (*WHO, "setting")]))
    return pandas.DataFrame(table, columns=[*WHO, "setting", *sorted(columns, key=natural)])


def write(long: pandas.DataFrame, output: Path) -> Path:
    """Writes the long table to `output` and the wide table beside it, both or neither; returns the
    path of the wide table.

    Raises:
        UserError: `output` does not end in .csv or cannot be written.
    """
    if output.suffix != ".csv":
        raise UserError(f"output '{output}' must end in .csv, .md, .tex or .html")
    beside = output.with_name(f"{output.stem}_wide.csv")
    table = wide(long)
    write_files({
        output: csv_text(list(long.columns), _long_cells(long)),
        beside: csv_text(list(table.columns), _wide_cells(table)),
    })  # fmt: skip
    return beside


def add_parser(
    subparsers: argparse._SubParsersAction[argparse.ArgumentParser],
) -> argparse.ArgumentParser:
    """Adds `leaderboard` to the subcommands and returns its parser."""
    parser = subparsers.add_parser(
        "leaderboard",
        help="tables of all scores in result files",
        description="Collect the scores of result files (lm-eval's format) in a long CSV and a "
        "wide one.",
    )
    parser.add_argument(
        "paths", nargs="+", type=Path, metavar="PATH", help="result files, or directories with them"
    )
    parser.add_argument(
        "-o", "--output", type=Path, metavar="FILE",
        help="write the long table to FILE.csv and the wide one to FILE_wide.csv (default: print "
             "the wide one), or a table to FILE.md, FILE.tex or FILE.html; with --board all of them if FILE has no suffix",
    )  # fmt: skip
    parser.add_argument(
        "--board", type=Path, metavar="BOARD.yaml",
        help="the tasks, rows, columns, required settings and averages (docs/leaderboards.md; "
             "default: each task's headline score)",
    )  # fmt: skip
    parser.add_argument(
        "--all", action="store_true", help="keep older runs of the same settings too"
    )
    parser.set_defaults(func=main, main=main)
    return parser


def main(args: argparse.Namespace) -> int:
    """Runs `dlm-eval leaderboard`; returns the exit code.

    Raises:
        UserError: see `leaderboard` and `write`.
    """
    if args.board is not None or (args.output and args.output.suffix in BOARD_SUFFIXES):
        return _board(args)
    long = leaderboard(args.paths, keep_all=args.all)
    if args.output is None:
        table = wide(long)
        print(csv_text(list(table.columns), _wide_cells(table)), end="")
        return 0
    beside = write(long, args.output)
    print(
        f"{one_line(str(args.output))}: {counted(len(long), 'score')}; {one_line(str(beside))}: "
        "models by tasks"
    )
    return 0


def _board(args: argparse.Namespace) -> int:
    from dlm_eval.reports.board_text import as_text, files_of

    board = read_board(args.board, args.paths, args.all)
    if args.output is None:
        print(as_text(board), end="")
        return 0
    files = files_of(board, args.output)
    write_files(files)
    print(f"{counted(len(board.rows), 'row')}: {', '.join(one_line(str(path)) for path in files)}")
    return 0


def read_board(path: Path | None, paths: Sequence[Path], keep_all: bool = False) -> Board:
    """Returns the board that a file declares, of the result files at and below the paths.

    Published figures are read from `published.csv` beside the board's file, if the board shows any.

    Args:
        path: the board's YAML file; None for a board of each task's headline score.
        paths: result files, or directories to search for them.
        keep_all: whether older runs of the same settings have rows of their own.

    Raises:
        UserError: the board's file is wrong, or there are neither scores nor figures.
    """
    from dlm_eval.reports.board import make_board, published_beside
    from dlm_eval.reports.board_file import read_board_file
    from dlm_eval.reports.published import read_published
    from dlm_eval.reports.site import headline_board

    files = list(_read_all(paths))
    files = files if keep_all else latest(files)
    declared = read_board_file(path) if path else headline_board(files)
    figures = read_published(published_beside(path)) if path and declared.published else ()
    board = make_board(declared, files, figures)
    if not board.rows:
        what = f"board '{path}'" if path else "the board"
        raise UserError(
            f"{what} has no row: paths {', '.join(repr(str(path)) for path in paths)} hold "
            "no scores that it admits" + "".join(f"; {note}" for note in board.notes[-1:])
        )
    return board


def _read_all(paths: Sequence[Path]) -> Iterator[ResultFile]:
    for path in find_result_files(paths):
        try:
            yield read_result_file(path, shown_path(path))
        except ValueError as reason:
            log.warning("%s is skipped: %s", repr(str(path)), reason)


def find_result_files(paths: Sequence[Path]) -> list[Path]:
    """Returns the result files at and below the paths, each once.

    Raises:
        UserError: a path does not exist.
    """
    # Resolved path -> path as given, so that no file is read twice if paths overlap.
    found: dict[Path, Path] = {}
    for path in paths:
        if not os.path.exists(path):
            raise UserError(
                f"path '{path}' does not exist; give result files or directories that hold "
                "results_*.json"
            )
        below = (
            [path]
            if os.path.isfile(path)
            else sorted(file for file in path.rglob("results_*.json") if file.is_file())
        )
        for file in below:
            found.setdefault(file.resolve(), file)
    return list(found.values())


def shown_path(path: Path) -> str:
    """Returns the path, relative if possible, so that tables contain no machine's folders."""
    try:
        shown = Path(os.path.abspath(path)).relative_to(Path.cwd())
    except ValueError:
        shown = path
    return valid_unicode(shown.as_posix())


def latest(files: Sequence[ResultFile]) -> list[ResultFile]:
    """Returns the files without the scores that a newer run of the same settings replaces."""
    kept = {id(row) for row in _newest([file for file in files if file.rows])}
    return [
        replace(file, rows=tuple(row for row in file.rows if id(row) in kept)) for file in files
    ]


def _newest(files: Sequence[ResultFile]) -> list[Row]:
    """Returns the newest score of each setting, task, metric and filter.

    The numbers of documents and examples count as settings, so that a trial on five documents does
    not replace a whole run.
    """
    kept: dict[tuple[object, ...], Row] = {}
    for file in sorted(files, key=lambda file: (file.time, file.rows[0].source)):
        for row in file.rows:
            kept[(file.identity[row.task], row.task, row.metric, row.filter, row.n, row.shots)] = (
                row
            )
    return list(kept.values())


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


def _column_name(row: Row, several_filters: bool) -> str:
    metric = f"{row.metric},{row.filter or ''}" if several_filters else row.metric
    direction = ", lower is better" if row.higher_is_better is False else ""
    return f"{row.task} ({metric}{direction})"


def _permanent_notes(found: Configuration) -> list[str]:
    """Returns the notes that are always shown with scores: part of a task, code outside the
    sandbox; with the task if it is not so for all tasks.
    """
    notes: dict[str, list[str]] = {}
    for (task, _, _), score in found.scores.items():
        row = score.rows[0]
        if row.n is not None and row.n_total is not None and row.n != row.n_total:
            notes.setdefault(f"n={row.n}", []).append(task)
        if row.code:
            notes.setdefault(row.code, []).append(task)
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
    # A missing number is an empty cell; a score that is NaN is "nan".
    for record in long.to_dict("records"):
        yield [
            cell(_plain(value), "nan" if name == "value" else "") for name, value in record.items()
        ]


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
