"""Published figures on a board: beside measured scores, and as rows of their own."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

from dlm_eval.errors import UserError, unknown_name_error
from dlm_eval.reports.board.admission import RunSettings
from dlm_eval.reports.board.board import PUBLISHED, BoardColumn, BoardRow, Cell
from dlm_eval.reports.board.board_file import BoardFile, Column, RowEntry, Source
from dlm_eval.reports.board.published import PROTOCOLS, Published
from dlm_eval.reports.files.row import Row

# Columns of published.csv that can make rows; other names are keys of `setting`.
_ROW_NAMES = ("paper", "version", "table", "model", "size", "checkpoint", "setting")
# Keys of a published figure's `setting` that a score must have too.
COMPARED = (
    "shots", "steps", "gen_length", "block_length", "threshold", "temperature", "estimator",
)  # fmt: skip


@dataclass(frozen=True)
class Figures:
    """The published figures of a board.

    Attributes:
        declared: the board's file.
        figures: all that are known; the board chooses.
        settings: of the measured runs.
    """

    declared: BoardFile
    figures: Sequence[Published]
    settings: RunSettings

    def beside(
        self, column: Column, entry: RowEntry | None, weights: Collection[str | None], row: Row
    ) -> Published | None:
        """Returns the figure that a measured cell is put beside: of the row's entry, else of the
        same weights; of several, the one whose settings are most like the run's.
        """
        found = [
            (len(self.other_settings(figure, row)), figure)
            for figure in self.figures
            if any(_is(figure, source.match) for source in self.declared.published)
            and _of_row(figure, entry, weights)
            and _of_column(figure, column)
        ]
        fewest = min((others for others, _ in found), default=0)
        return _closest([figure for others, figure in found if others == fewest])

    def other_settings(self, figure: Published, row: Row) -> list[str]:
        """Returns the settings of a published figure that a score does not have, as marks.

        Words that name no number (`steps=target length`) are not compared.
        """
        found = []
        for name, part in _parts(figure).items():
            wanted = part.partition("=")[2]
            if name not in COMPARED or not (name == "estimator" or _is_number(wanted)):
                continue
            # The resolved setting, not what became of it in short answers.
            own = None if name == "shots" else self.settings.resolved(row, name)
            own = own or self.settings.of(row, name)
            equal = own == wanted or (_is_number(own) and float(own or 0) == float(wanted))
            if not equal:
                found.append(f"{name}={own or 'unknown'}, published {wanted}")
        return found

    def rows(self, columns: Mapping[str, BoardColumn]) -> tuple[list[BoardRow], list[str]]:
        """Returns the rows of published figures, and the marks that all their cells have as notes.

        Raises:
            UserError: a source of the board's file chooses no figure, or names an unknown column.
        """
        groups: dict[tuple[str, ...], list[Published]] = {}
        for source in self.declared.published:
            own = [figure for figure in self.figures if _is(figure, source.match)]
            _check_source(self.declared.what, source, own)
            for figure in own:
                groups.setdefault(_name(figure, source), []).append(figure)
        rows = [self._row(name, own, columns) for name, own in groups.items()]
        return _without_common_marks([row for row in rows if row.cells])

    def _row(
        self, name: Sequence[str], own: Sequence[Published], columns: Mapping[str, BoardColumn]
    ) -> BoardRow:
        made = {
            column.name: _cell(column, own, columns[column.name].percent)
            for column in self.declared.columns
        }
        first, entries = own[0], self.declared.rows
        entry = next((e for e in entries if e.published and _is(first, e.published)), None)
        return BoardRow(
            label=entry.label if entry else " ".join(filter(None, name)),
            kind=PUBLISHED,
            facts={"model": first.model, "checkpoint": first.checkpoint},
            cells={name: cell for name, cell in made.items() if cell is not None},
        )


def _cell(column: Column, own: Sequence[Published], percent: bool) -> Cell | None:
    """Returns the cell of a row of figures; None if none belongs to the column."""
    several = [each for each in own if _of_column(each, column)]
    best = _closest(several)
    if best is None or best.value is None:
        return None
    marks = [] if best.protocol == "same" else [f"protocol: {best.protocol}"]
    if len(several) > 1:
        marks.append(f"one of {len(several)} figures: {best.setting}")
    scale = 100 if best.unit == "fraction" and percent else 1
    return Cell(
        value=scale * best.value,
        text=best.printed if scale == 1 else "",
        n=best.n,
        tokens_per_forward=_tokens_per_forward(own, best),
        marks=tuple(marks),
        sources=(f"{best.paper} {best.version}, {best.table}",),
        published=best,
    )


def _without_common_marks(rows: Sequence[BoardRow]) -> tuple[list[BoardRow], list[str]]:
    """Returns rows without the marks that all their cells have, and these as notes."""
    marks = [set(cell.marks) for row in rows for cell in row.cells.values()]
    common = set.intersection(*marks) if len(marks) > 1 else set()

    def rest(cell: Cell) -> Cell:
        return replace(cell, marks=tuple(mark for mark in cell.marks if mark not in common))

    cleared = [
        replace(row, cells={name: rest(cell) for name, cell in row.cells.items()}) for row in rows
    ]
    return cleared, [f"all published figures: {mark}" for mark in sorted(common)]


def _check_source(what: str, source: Source, figures: Sequence[Published]) -> None:
    """Raises UserError if no figure is chosen, or none has what makes the rows."""
    if not figures:
        chosen = ", ".join(f"{name} {' or '.join(each)}" for name, each in source.match.items())
        raise UserError(f"{what}: published: no figure has {chosen}")
    known = {*_ROW_NAMES, *(name for figure in figures for name in _parts(figure))}
    for name in source.rows:
        if name not in known:
            raise unknown_name_error(f"{what}: published: row", name, known)


def _is(figure: Published, match: Mapping[str, Sequence[str]]) -> bool:
    return all(_text(figure, name) in values for name, values in match.items())


def _text(figure: Published, name: str) -> str:
    value = getattr(figure, name)
    return "" if value is None else str(value)


def _name(figure: Published, source: Source) -> tuple[str, ...]:
    """Returns the values that make the figure's row."""
    parts = _parts(figure)
    return tuple(
        _text(figure, name) if name in _ROW_NAMES else parts.get(name, "") for name in source.rows
    )


def _parts(figure: Published) -> dict[str, str]:
    """Returns key -> "key=value" of the figure's setting."""
    parts = [part.strip() for part in figure.setting.split(";")]
    return {part.partition("=")[0]: part for part in parts}


def _of_row(figure: Published, entry: RowEntry | None, weights: Collection[str | None]) -> bool:
    """Returns whether a figure is of the row's entry, or of the same weights without one."""
    if entry is not None and entry.published:
        return _is(figure, entry.published)
    return bool(figure.checkpoint) and figure.checkpoint in weights


def _of_column(figure: Published, column: Column) -> bool:
    if column.published:
        return _is(figure, column.published)
    own = (figure.dlm_task, figure.dlm_metric)
    return bool(column.task) and own == (column.task, column.metric)


def _closest(figures: Sequence[Published]) -> Published | None:
    known = [figure for figure in figures if figure.value is not None]
    return min(known, key=lambda f: (PROTOCOLS.index(f.protocol), f.line), default=None)


def _tokens_per_forward(figures: Sequence[Published], of: Published) -> float | None:
    """Returns the tokens per forward that are printed in the same cell."""
    same = ("table", "model", "size", "task", "setting")
    return next(
        (
            figure.value
            for figure in figures
            if figure.unit == "tokens/forward"
            and all(_text(figure, name) == _text(of, name) for name in same)
        ),
        None,
    )


def _is_number(text: str | None) -> bool:
    try:
        return text is not None and math.isfinite(float(text))
    except ValueError:
        return False
