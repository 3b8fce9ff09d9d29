"""The board of result files and published figures.

result files -> scores that the board admits -> configurations -> cells -> averages, ranks
published.csv -> rows of figures ------------------------------------^
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from dlm_eval.errors import UserError
from dlm_eval.reports.board.admission import RunSettings, admit
from dlm_eval.reports.board.averages import with_average, with_best
from dlm_eval.reports.board.board import Board, BoardColumn, BoardRow
from dlm_eval.reports.board.board_file import BoardFile, Column, read_board_file
from dlm_eval.reports.board.figures import Figures
from dlm_eval.reports.board.headlines import headline_board
from dlm_eval.reports.board.measured import MeasuredRows
from dlm_eval.reports.board.order import ordered, with_ranks
from dlm_eval.reports.board.published import Published, read_published
from dlm_eval.reports.files.find import read_result_files
from dlm_eval.reports.files.result_file import ResultFile, latest
from dlm_eval.reports.files.row import Row


def make_board(
    declared: BoardFile, files: Sequence[ResultFile], figures: Sequence[Published] = ()
) -> Board:
    """Returns the board of result files and published figures.

    Raises:
        UserError: a misspelled setting in `match` or `require`.
    """
    settings = RunSettings(files)
    admitted = admit(declared, files, settings)
    columns = [_column(column, admitted.rows) for column in declared.columns]
    named = {column.name: column for column in columns}
    printed = Figures(declared, figures, settings)
    rows = MeasuredRows(declared, named, admitted, settings, printed).rows()
    published, common = printed.rows(named)
    rows += published
    for average in declared.averages:
        column, rows = with_average(average, columns, rows)
        columns.append(column)
    columns = [replace(column, two_decimals=_coarse(column, rows)) for column in columns]
    for column in columns:
        rows = with_best(column, rows)
    rows = ordered(declared, columns, rows)
    return Board(
        title=declared.title,
        columns=tuple(columns),
        rows=tuple(with_ranks(declared, columns, rows) if declared.rank else rows),
        facts=declared.facts,
        cell=declared.cell,
        notes=(*declared.notes, *common, *admitted.notes()),
        ranked_by=declared.rank,
    )


def _column(column: Column, rows: Sequence[Row]) -> BoardColumn:
    own = [r for r in rows if (r.task, r.metric) == (column.task, column.metric)]
    percent = bool(own) and all(row.unit == "fraction" for row in own)
    scale = 100 if percent or not own else 1
    return BoardColumn(
        name=column.name,
        task=column.task,
        metric=column.metric,
        higher_is_better=all(row.higher_is_better is not False for row in own),
        percent=percent,
        chance=None if column.chance is None else scale * column.chance,
        note=column.note,
    )


def _coarse(column: BoardColumn, rows: Sequence[BoardRow]) -> bool:
    values = [row.cells[column.name].value for row in rows if column.name in row.cells]
    return column.percent or any(abs(value) >= 10 for value in values)


def read_board(path: Path | None, paths: Sequence[Path], keep_all: bool = False) -> Board:
    """Returns the board that a file declares, of the result files at and below the paths.

    Args:
        path: the board's YAML file; None for a board of each task's headline score.
        paths: result files, or directories to search for them.
        keep_all: whether older runs of the same settings have rows of their own.

    Raises:
        UserError: the board's file is wrong, or there are neither scores nor figures.
    """
    files = [file for _, _, file in read_result_files(paths)]
    files = files if keep_all else latest(files)
    declared = read_board_file(path) if path else headline_board(files)
    board = make_board(declared, files, figures_beside(path, declared) if path else ())
    if not board.rows:
        what = f"board '{path}'" if path else "the board"
        raise UserError(
            f"{what} has no row: paths {', '.join(repr(str(path)) for path in paths)} hold "
            "no scores that it admits" + "".join(f"; {note}" for note in board.notes[-1:])
        )
    return board


def figures_beside(board_file: Path, declared: BoardFile) -> tuple[Published, ...]:
    """Returns the figures of `published.csv` beside a board's file, if the board shows any.

    Raises:
        UserError: there is no such file, or it is wrong.
    """
    if not declared.published:
        return ()
    path = board_file.with_name("published.csv")
    if not path.is_file():
        raise UserError(f"board '{board_file}' shows published figures, but there is no '{path}'")
    return read_published(path)
