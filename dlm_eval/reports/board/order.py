"""The order of a board's rows, and their ranks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from dlm_eval.reports.board.averages import Parts
from dlm_eval.reports.board.board import MEASURED, BoardColumn, BoardRow
from dlm_eval.reports.board.board_file import BoardFile
from dlm_eval.reports.board.natural import natural
from dlm_eval.reports.board.ranks import ranks


def ordered(
    declared: BoardFile, columns: Sequence[BoardColumn], rows: Sequence[BoardRow]
) -> list[BoardRow]:
    """Returns the rows in the board's order; rows without the column come last."""
    column = next((column for column in columns if column.name == declared.order), None)
    if column is None:
        return _by_label(declared, rows)
    down = column.higher_is_better if declared.descending is None else declared.descending
    have = [row for row in rows if column.name in row.cells]
    have.sort(key=lambda row: row.cells[column.name].value * (-1 if down else 1))
    return [*have, *(row for row in rows if column.name not in row.cells)]


def _by_label(declared: BoardFile, rows: Sequence[BoardRow]) -> list[BoardRow]:
    """Returns the rows that the board names, then published, then measured ones.

    Published rows keep the order of their file, measured ones have that of their names.
    """
    entries = [entry.label for entry in declared.rows]

    def place(row: BoardRow) -> tuple[object, ...]:
        named = entries.index(row.label) if row.label in entries else len(entries)
        measured = row.kind == MEASURED
        return (named, measured, natural(row.label) if measured else ())

    return sorted(rows, key=place)


def with_ranks(
    declared: BoardFile, columns: Sequence[BoardColumn], rows: Sequence[BoardRow]
) -> list[BoardRow]:
    """Gives the measured rows their ranks in the declared column."""
    column = next(each for each in columns if each.name == declared.rank)
    average = next((each for each in declared.averages if each.name == column.name), None)
    parts = Parts.of(average, columns) if average else Parts((column,), normal=False)
    places = [n for n, row in enumerate(rows) if row.kind == MEASURED and column.name in row.cells]
    found = ranks(
        [rows[place].cells[column.name].value for place in places],
        [[rows[place].cells[part.name] for part in parts.columns] for place in places],
        parts.scales(),
        column.sign,
        declared.draws,
    )
    ranked = dict(zip(places, found, strict=True))
    return [replace(row, rank=ranked.get(place)) for place, row in enumerate(rows)]
