"""The measured rows of a board: one per configuration of a model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from dlm_eval.reports.board.admission import Admitted, RunSettings, fits
from dlm_eval.reports.board.board import MEASURED, BoardColumn, BoardRow, Cell
from dlm_eval.reports.board.board_file import BoardFile, Column, RowEntry
from dlm_eval.reports.board.configurations import Configuration, configurations
from dlm_eval.reports.board.figures import Figures
from dlm_eval.reports.board.names import differences
from dlm_eval.reports.board.published import Published
from dlm_eval.reports.board.repeats import Repeats
from dlm_eval.reports.files.row import GENERATION, WITHOUT_LENGTH

LARGEST = 1e100  # larger scores are not shown, larger standard errors are none


@dataclass(frozen=True)
class MeasuredRows:
    """Makes the measured rows of a board.

    Attributes:
        declared: the board's file.
        columns: name -> column.
        admitted: the scores.
        settings: of their runs.
        figures: published figures, to put beside the scores.
    """

    declared: BoardFile
    columns: Mapping[str, BoardColumn]
    admitted: Admitted
    settings: RunSettings
    figures: Figures

    def rows(self) -> list[BoardRow]:
        """Returns the rows, models in natural order.

        Raises:
            UserError: a row of the board's file matches by a misspelled setting.
        """
        found = configurations(self.admitted.rows)
        pairs = list(zip(found, self._entries(found), strict=True))
        if not self.declared.others:
            pairs = [(each, entry) for each, entry in pairs if entry is not None]
        labels = _labels(pairs)
        return [self._row(*pair, label) for pair, label in zip(pairs, labels, strict=True)]

    def _entries(self, found: Sequence[Configuration]) -> list[RowEntry | None]:
        """Returns for each configuration the first entry that matches it."""
        entries = self.declared.rows
        for entry in entries:
            what = f"{self.declared.what}: row '{entry.label}': match"
            self.settings.check_names(what, entry.match)
        return [next((e for e in entries if self._matches(e, each)), None) for each in found]

    def _matches(self, entry: RowEntry, configuration: Configuration) -> bool:
        return bool(entry.match) and all(
            any(fits(self.settings.of(row, name), values) for row in configuration.rows())
            for name, values in entry.match.items()
        )

    def _row(self, found: Configuration, entry: RowEntry | None, label: str) -> BoardRow:
        cells: dict[str, Cell] = {}
        missing: dict[str, str] = {}
        for column in self.declared.columns:
            made = self._cell(column, found, entry)
            if isinstance(made, Cell):
                cells[column.name] = made
            else:
                missing[column.name] = made
        return BoardRow(label, MEASURED, _facts(found), cells, missing, model=found)

    def _cell(self, column: Column, found: Configuration, entry: RowEntry | None) -> Cell | str:
        """Returns the cell of a column, or why there is none."""
        key = next((key for key in found.scores if column.takes(*key)), None)
        if key is None:
            return "no run" if column.task else "only published"
        score = found.scores[key]
        marks = self.admitted.marks_of(column.name, score.rows)
        if marks is None:
            return "refused"
        if not abs(score.value) < LARGEST:
            return f"the score is {score.value}"
        figure = self.figures.beside(column, entry, self._weights(found), score.rows[0])
        scale = self.columns[column.name].scale
        cell = Cell(
            value=scale * score.value,
            stderr=_times(score.stderr, scale),
            stderr_seeds=_times(score.stderr_seeds, scale),
            n=score.n,
            seeds=len(score.rows),
            tokens_per_forward=score.tokens_per_forward,
            marks=marks,
            sources=tuple(row.source for row in score.rows),
            scores=score.rows,
            published=figure,
        )
        if figure is None or "deviation" not in self.declared.cell:
            return cell
        return self._with_deviation(cell, score, figure)

    def _weights(self, found: Configuration) -> set[str | None]:
        """Returns the names of a configuration's weights."""
        return {self.settings.of(row, "pretrained") for row in found.rows()} | {found.checkpoint}

    def _with_deviation(self, cell: Cell, score: Repeats, figure: Published) -> Cell:
        """Returns the cell with its deviation from a published figure, or the marks of settings that
        forbid one.
        """
        if figure.comparable:
            others = (t for row in score.rows for t in self.figures.other_settings(figure, row))
            cell = replace(cell, marks=tuple(dict.fromkeys((*cell.marks, *others))))
        if cell.marks or score.stderr is None or score.rows[0].unit != "fraction":
            return cell
        return replace(cell, deviation=figure.deviation(score.value, score.stderr))


def _labels(pairs: Sequence[tuple[Configuration, RowEntry | None]]) -> list[str]:
    """Returns the names of rows: from the board, `--label`, or the checkpoint and what differs."""
    named = [replace(each, label=entry.label) if entry else each for each, entry in pairs]
    # A row without an entry is also told from rows with one, whose names may not say how they differ.
    plain = differences([each for each, _ in pairs], [_decoding_notes(each) for each, _ in pairs])
    texts = [
        own if entry else text
        for own, text, (_, entry) in zip(differences(named), plain, pairs, strict=True)
    ]
    names = []
    for each, text in zip(named, texts, strict=True):
        who = each.checkpoint or each.model or "unknown model"
        names.append(text if each.label else f"{who} {text}".strip())
    twice = {name for name in names if names.count(name) > 1}
    return [
        f"{name} ({' '.join(filter(None, each.who))})" if name in twice else name
        for name, each in zip(names, named, strict=True)
    ]


def _decoding_notes(found: Configuration) -> list[str]:
    """Returns what the name of a row says in any case."""
    approximations = dict.fromkeys(row.approximation for row in found.rows() if row.approximation)
    return [*approximations, *([WITHOUT_LENGTH] if _finds_length(found) else [])]


def _facts(found: Configuration) -> dict[str, str]:
    every = list(found.rows())
    facts = {
        name: ", ".join(dict.fromkeys(str(getattr(r, name)) for r in every if getattr(r, name)))
        for name in ("model", "checkpoint", "revision", "dtype", "device")
    }
    seeds = max((len(score.rows) for score in found.scores.values()), default=0)
    return facts | {"seeds": str(seeds), "finds_length": "yes" if _finds_length(found) else ""}


def _finds_length(found: Configuration) -> bool:
    """Returns whether no score of generated text was told the length; False without such scores."""
    written = [row for row in found.rows() if row.kind == GENERATION]
    return bool(written) and all(row.finds_length for row in written)


def _times(value: float | None, scale: float) -> float | None:
    """Returns a standard error in the scale of its cell; None if it cannot be one."""
    times = None if value is None else scale * value
    return times if times is not None and 0 <= times < LARGEST else None
