"""A board as wide and as long CSV; docs/reference/leaderboard-tables.md defines the columns."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict

from dlm_eval.reports.board.board import PUBLISHED, Board, BoardColumn, Cell
from dlm_eval.reports.board.published import Published
from dlm_eval.reports.board.text import number
from dlm_eval.reports.files.csv_file import cell as csv_cell
from dlm_eval.reports.files.csv_file import csv_text
from dlm_eval.reports.files.row import COLUMNS

# Columns that a board's long table has behind those of every long table.
LONG_EXTRA = ("board_row", "board_column", "board_kind", "marks")


def as_wide_csv(board: Board) -> str:
    """Returns the wide table: the columns of every wide table (docs/reference/leaderboard-tables.md), then kind, rank,
    and the declared parts and the marks of each cell.
    """
    names = _titles(board.columns)
    behind = (*board.cell, "marks")
    header = ["model", "checkpoint", "revision", "setting", *names, "kind"]
    header += ["rank", "rank_low", "rank_high"] if board.ranked_by else []
    header += [f"{name} {part}" for name in names for part in behind]
    rows = []
    for row in board.rows:
        cells = [row.cells.get(column.name) for column in board.columns]
        line: list[object] = [row.facts.get(name, "") for name in header[:3]]
        line += [row.label, *map(_wide_value, cells, board.columns), row.kind]
        if board.ranked_by:
            rank = row.rank
            line += [rank.rank, rank.low, rank.high] if rank else [None, None, None]
        for cell in cells:
            line += [_part(cell, name) for name in behind]
        rows.append([csv_cell(value) for value in line])
    return csv_text(header, rows)


def _titles(columns: Sequence[BoardColumn]) -> list[str]:
    """Returns "task (metric)"; the column's own name if another column has the same score."""
    found = [
        title(column.task, column.metric, not column.higher_is_better)
        if column.task
        else column.name
        for column in columns
    ]
    return [
        column.name if found.count(name) > 1 else name
        for name, column in zip(found, columns, strict=True)
    ]


def title(task: str, metric: str, lower: bool) -> str:
    """Returns the header of a score in a wide table."""
    return f"{task} ({metric}{', lower is better' if lower else ''})"


def _wide_value(cell: Cell | None, column: BoardColumn) -> float | None:
    return None if cell is None else float(number(cell, column))


def _part(cell: Cell | None, name: str) -> object:
    if cell is None:
        return None
    return "; ".join(cell.marks) or None if name == "marks" else _rounded(getattr(cell, name))


def _rounded(value: float | None) -> float | int | None:
    return value if value is None or isinstance(value, int) else float(f"{value:.4g}")


def as_long_csv(board: Board) -> str:
    """Returns the long table: one row per score of every cell, and per published figure.

    Its columns are those of every long table (docs/reference/leaderboard-tables.md), and `LONG_EXTRA`.
    """
    rows: list[list[str]] = []
    for row in board.rows:
        for column in board.columns:
            cell = row.cells.get(column.name)
            if cell is None or column.average:
                continue
            extra = [row.label, column.name, row.kind, "; ".join(cell.marks)]
            values = [asdict(score) for score in cell.scores]
            if row.kind == PUBLISHED and cell.published is not None:
                values.append(_figure(cell.published, cell))
            rows += [[*long_cells(each, COLUMNS), *map(csv_cell, extra)] for each in values]
    return csv_text([*COLUMNS, *LONG_EXTRA], rows)


def _figure(figure: Published, cell: Cell) -> dict[str, object]:
    """Returns a published figure in the columns of the long table."""
    value = figure.value if figure.value is not None else math.nan
    return {
        "model": figure.model,
        "checkpoint": figure.checkpoint or None,
        "task": figure.dlm_task or figure.task,
        "metric": figure.dlm_metric or figure.metric,
        "value": value / 100 if figure.unit == "percent" else value,
        "n": figure.n,
        "tokens_per_forward": cell.tokens_per_forward,
        "source": cell.sources[0],
        "unit": "fraction" if figure.unit in ("percent", "fraction") else None,
        "headline": False,
    }


def long_cells(values: Mapping[str, object], columns: Sequence[str]) -> list[str]:
    """Returns a row of a long table. A missing number is an empty cell; a score that is NaN is "nan"."""
    return [csv_cell(values.get(name), "nan" if name == "value" else "") for name in columns]
