"""Long and wide tables of all scores below given directories, and the subcommand `dlm-eval
leaderboard`.

    result files -> one row per score (long) -> models by tasks, one headline metric each (wide)

The DataFrames contain names as in the files. Text is made safe for spreadsheets when it is written.
docs/results.md defines every column.
"""

from __future__ import annotations

import argparse
import logging
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dlm_eval.errors import UserError
from dlm_eval.output import one_line
from dlm_eval.printable import counted
from dlm_eval.reports.csv_file import cell, csv_text, write_files
from dlm_eval.reports.result_file import ResultFile, Row, read_result_file

if TYPE_CHECKING:
    import pandas

log = logging.getLogger(__name__)

COLUMNS = tuple(field.name for field in fields(Row))
WHO = ("model", "checkpoint", "revision")
# Columns that distinguish scores of the same model and task, in the order in which they are shown.
DISTINGUISHING = (
    "shots", "n", "estimator", "strategy", "steps", "gen_length", "block_length", "dtype", "task_version", "device",
    "seed", "configuration", "scoring", "documents", "fingerprint", "date", "source",
)  # fmt: skip
DIGESTS = ("configuration", "scoring", "fingerprint")
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
    """Returns the wide table: one column per task and headline metric, one row per model and
    setting.

    Fractions are in percent with two decimals. If a model has several scores for one cell,
    `setting` names the differences. It also says if a score covers only a part of the task's
    documents. Otherwise it is empty.
    """
    import pandas

    filters: dict[tuple[str, str], set[str]] = {}
    for task, metric, pipeline in zip(long["task"], long["metric"], long["filter"], strict=True):
        filters.setdefault((task, metric), set()).add(_text(pipeline))
    columns: dict[str, list[dict[str, Any]]] = {}
    for record in long[long["headline"].astype(bool)].to_dict("records"):
        several = len(filters[(record["task"], record["metric"])]) > 1
        columns.setdefault(_column_name(record, several), []).append(record)
    table: dict[tuple[str, ...], dict[str, float]] = {}
    for name in sorted(columns, key=_natural):
        records = columns[name]
        shown_values = _rounded(
            [record["value"] for record in records], all(r["unit"] == "fraction" for r in records)
        )
        for record, setting, value in zip(records, _settings(records), shown_values, strict=True):
            key = (*(_text(record[who]) for who in WHO), setting)
            table.setdefault(key, {})[name] = value
    rows = [
        dict(zip((*WHO, "setting"), key, strict=True)) | table[key]
        for key in sorted(table, key=_natural_all)
    ]
    return pandas.DataFrame(rows, columns=[*WHO, "setting", *sorted(columns, key=_natural)])


def write(long: pandas.DataFrame, output: Path) -> Path:
    """Writes the long table to `output` and the wide table beside it, both or neither; returns the
    path of the wide table.

    Raises:
        UserError: `output` does not end in .csv or cannot be written.
    """
    if output.suffix != ".csv":
        raise UserError(f"output '{output}' must end in .csv")
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
        "-o", "--output", type=Path, metavar="FILE.csv",
        help="write the long table here and the wide one to FILE_wide.csv (default: print the "
             "wide one)",
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
        return Path(os.path.abspath(path)).relative_to(Path.cwd()).as_posix()
    except ValueError:
        return path.as_posix()


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
    return tuple(_natural(_text(getattr(row, name))) for name in names) + (not row.headline,)


def _column_name(record: dict[str, Any], several_filters: bool) -> str:
    metric = (
        f"{record['metric']},{_text(record['filter'])}" if several_filters else record["metric"]
    )
    direction = ", lower is better" if _text(record["higher_is_better"]) == "False" else ""
    return f"{record['task']} ({metric}{direction})"


def _settings(records: Sequence[dict[str, Any]]) -> list[str]:
    """Returns, for each score of a column, the settings that differ from the model's other scores
    in it.
    """
    parts = [_permanent_notes(record) for record in records]
    names = [tuple(_text(record[who]) for who in WHO) for record in records]
    for field in DISTINGUISHING:
        groups: dict[tuple[Any, ...], list[int]] = {}
        for index, name in enumerate(names):
            groups.setdefault((name, tuple(parts[index])), []).append(index)
        for alike in groups.values():
            texts = {index: _text(records[index][field]) for index in alike}
            if len(set(texts.values())) > 1:
                for index, text in texts.items():
                    parts[index].append(f"{field}={text[:12] if field in DIGESTS else text}")
    return [" ".join(part) for part in parts]


def _permanent_notes(record: dict[str, Any]) -> list[str]:
    """Returns the notes that are always shown with a score: part of a task, code outside the
    sandbox.
    """
    n, of = _text(record["n"]), _text(record["n_total"])
    part = [f"n={n}"] if n and of and n != of else []
    return [*part, *([_text(record["code"])] if _text(record["code"]) else [])]


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


def _natural(text: str) -> tuple[tuple[bool, int, str], ...]:
    """Returns a sort key in which steps=64 comes before steps=128."""
    parts = re.split(r"([0-9]{1,18})", text)
    return tuple(
        (bool(index % 2), int(part) if index % 2 else 0, part) for index, part in enumerate(parts)
    )


def _natural_all(texts: Sequence[str]) -> tuple[Any, ...]:
    return tuple(_natural(text) for text in texts)
