"""Columns that are averages over other columns, and the best cells of each column."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from dlm_eval.reports.board.board import MEASURED, BoardColumn, BoardRow, Cell
from dlm_eval.reports.board.board_file import Average

CHANCE_NORMALISED = "chance_normalised"


@dataclass(frozen=True)
class Parts:
    """The columns that an average is of.

    Attributes:
        columns: the columns.
        normal: whether each score s enters as (s - chance) / (100 - chance), in percent.
    """

    columns: tuple[BoardColumn, ...]
    normal: bool

    @classmethod
    def of(cls, average: Average, columns: Sequence[BoardColumn]) -> Parts:
        """Returns the parts of an average, of a board's columns."""
        own = tuple(column for column in columns if column.name in average.of)
        return cls(own, average.kind == CHANCE_NORMALISED)

    def chances(self) -> list[float]:
        """Returns what is subtracted from the score of each column."""
        return [column.chance or 0.0 if self.normal else 0.0 for column in self.columns]

    def scales(self) -> list[float]:
        """Returns the factor of each column."""
        return [100 / (100 - chance) if self.normal else 1.0 for chance in self.chances()]


def with_average(
    average: Average, columns: Sequence[BoardColumn], rows: Sequence[BoardRow]
) -> tuple[BoardColumn, list[BoardRow]]:
    """Returns the column of an average, and the rows with it. Rows that lack a cell have none."""
    parts = Parts.of(average, columns)
    reason = _forbidden(parts.columns, rows)
    found = []
    for row in rows:
        if why := reason or _lacking(parts.columns, row):
            found.append(replace(row, missing={**row.missing, average.name: why}))
        else:
            cell = _mean([row.cells[column.name] for column in parts.columns], parts)
            found.append(row.with_cell(average.name, cell))
    note = "mean of " + ", ".join(column.name for column in parts.columns)
    note += ", each as (score - chance) / (100 - chance)" if parts.normal else ""
    own = parts.columns
    percent = bool(own) and all(column.percent or not column.task for column in own)
    return BoardColumn(average.name, percent=percent, note=note, average=True), found


def _forbidden(columns: Sequence[BoardColumn], rows: Sequence[BoardRow]) -> str:
    """Returns why columns have no average; "" if they have one."""
    measured = [row for row in rows if row.kind == MEASURED]
    known = [column for column in columns if any(column.name in row.cells for row in measured)]
    if other := [column.name for column in known if not column.percent]:
        return f"not in percent: {', '.join(other)}"
    lower = any(not column.higher_is_better for column in columns)
    return "lower is better in a column" if lower else ""


def _lacking(columns: Sequence[BoardColumn], row: BoardRow) -> str:
    absent = [column.name for column in columns if column.name not in row.cells]
    return f"{len(absent)} of {len(columns)} missing: {', '.join(absent)}" if absent else ""


def _mean(cells: Sequence[Cell], parts: Parts) -> Cell:
    """Returns the mean; its standard error takes the tasks' documents as independent."""
    k, scales = len(cells), parts.scales()
    triples = list(zip(cells, parts.chances(), scales, strict=True))
    values = [(cell.value - chance) * by for cell, chance, by in triples]
    errors = [cell.stderr * by for cell, _, by in triples if cell.stderr is not None]
    return Cell(
        value=math.fsum(values) / k,
        stderr=math.sqrt(math.fsum(e * e for e in errors)) / k if len(errors) == k else None,
        seeds=min(cell.seeds for cell in cells),
        marks=tuple(
            f"{column.name}: {mark}"
            for cell, column in zip(cells, parts.columns, strict=True)
            for mark in cell.marks
        ),
        sources=tuple(dict.fromkeys(source for cell in cells for source in cell.sources)),
        scores=tuple(row for cell in cells for row in cell.scores),
    )


def with_best(column: BoardColumn, rows: Sequence[BoardRow]) -> list[BoardRow]:
    """Marks the measured cells within one standard error of the best one, if there are several."""
    own = [r.cells[column.name] for r in rows if r.kind == MEASURED and column.name in r.cells]
    if len(own) < 2:
        return list(rows)
    best = max(own, key=lambda cell: column.sign * cell.value)
    found = []
    for row in rows:
        cell = row.cells.get(column.name)
        if cell is not None and row.kind == MEASURED:
            near = column.sign * (best.value - cell.value) <= (best.stderr or 0.0)
            row = row.with_cell(column.name, replace(cell, best=near))
        found.append(row)
    return found
