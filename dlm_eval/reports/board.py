"""A board: scores of many runs beside published figures, in rows and columns that writers render.

    result files -> scores that the board admits -> configurations -> cells -> averages, ranks
    published.csv -> rows of figures ------------------------------------^

`Board` is plain data. `board_text` writes it as text, Markdown, LaTeX and CSV.
"""

from __future__ import annotations

import difflib
import fnmatch
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from dlm_eval.errors import UserError, unknown_name_error
from dlm_eval.printable import counted
from dlm_eval.reports.board_file import REFUSE, Average, BoardFile, Column, RowEntry, Source
from dlm_eval.reports.configurations import Configuration, Key, configurations, differences, natural
from dlm_eval.reports.published import PROTOCOLS, Published
from dlm_eval.reports.ranks import Rank, ranks
from dlm_eval.reports.result_file import ResultFile, Row

MEASURED, PUBLISHED = "measured", "published"
# Columns of published.csv that can make rows; other names are keys of `setting`.
_ROW_NAMES = ("paper", "version", "table", "model", "size", "checkpoint", "setting")
# Columns of a score that a board can require, or match rows by. Others are settings.
OF_ROW = (
    "model", "checkpoint", "revision", "shots", "estimator", "strategy", "steps", "gen_length",
    "block_length", "dtype", "device", "task_version", "logprob_kind", "label", "seed",
)  # fmt: skip
MOST_NOTES = 50  # refused scores that are listed
LARGEST = 1e100  # larger scores are not shown, larger standard errors are none
# Keys of a published figure's `setting` that a score must have too.
COMPARED = (
    "shots", "steps", "gen_length", "block_length", "threshold", "temperature", "estimator",
)  # fmt: skip
ALIKE = 0.8  # similarity of a misspelled name


@dataclass(frozen=True)
class Cell:
    """One score of a row.

    Attributes:
        value: as it is shown: fractions in percent, all others as in the file.
        text: the digits that a paper printed; "" for a measured score.
        stderr: standard error of `value` in the same scale; None if unknown.
        stderr_seeds: standard error over seeds alone; None for one seed.
        n: documents; None if unknown.
        seeds: runs with different seeds that `value` is the mean of; 0 for a published figure.
        tokens_per_forward: None if unknown.
        marks: what makes the score less comparable (`n=20 of 5153`), in words.
        sources: its result files, or where it was printed.
        scores: the scores behind it, one per seed; empty for a published figure.
        published: the figure that it is put beside; for a published row, the figure itself.
        deviation: (measured - published) in standard errors of the difference; None unless the
            board shows it, the protocol is `same` or `near`, n is known, the settings are those of
            the figure, and nothing is marked.
        best: whether it is within one standard error of the best measured score of its column.
    """

    value: float
    text: str = ""
    stderr: float | None = None
    stderr_seeds: float | None = None
    n: int | None = None
    seeds: int = 0
    tokens_per_forward: float | None = None
    marks: tuple[str, ...] = ()
    sources: tuple[str, ...] = ()
    scores: tuple[Row, ...] = ()
    published: Published | None = None
    deviation: float | None = None
    best: bool = False

    @property
    def forwards_per_token(self) -> float | None:
        """Forwards per token; None if unknown."""
        return 1 / self.tokens_per_forward if self.tokens_per_forward else None


@dataclass(frozen=True)
class BoardColumn:
    """A column of a board.

    Attributes:
        name: its header.
        task, metric: which score; "" for averages and columns of published figures alone.
        higher_is_better: False if lower values are better.
        percent: whether values are in percent.
        two_decimals: whether values are shown with two decimals (percent, or a value of 10 or more);
            if not, with four digits.
        chance: score of guessing in the scale of the cells; None if not declared.
        note: a footnote, or "".
        average: whether it is an average over other columns.
    """

    name: str
    task: str = ""
    metric: str = ""
    higher_is_better: bool = True
    percent: bool = False
    two_decimals: bool = True
    chance: float | None = None
    note: str = ""
    average: bool = False


@dataclass(frozen=True)
class BoardRow:
    """A row of a board.

    Attributes:
        label: its name.
        kind: `measured` or `published`.
        facts: model, checkpoint, revision, dtype, device, seeds.
        cells: name of a column -> its score; a column without one is absent.
        missing: name of a column -> why it has no cell.
        rank: its rank in the board's ranking; None if it has none.
        model: the configuration behind a measured row.
    """

    label: str
    kind: str
    facts: Mapping[str, str]
    cells: Mapping[str, Cell]
    missing: Mapping[str, str] = field(default_factory=dict)
    rank: Rank | None = None
    model: Configuration | None = None


@dataclass(frozen=True)
class Board:
    """A table of measured and published scores.

    Attributes:
        title: its title, or "".
        columns: scores, then averages.
        rows: in the order of the board.
        facts: facts of rows that have a column.
        cell: parts of a cell behind its value, see `board_file.PARTS`.
        notes: the board's notes, then what was left out and why.
        ranked_by: name of the column that ranks are of, or "".
    """

    title: str
    columns: tuple[BoardColumn, ...]
    rows: tuple[BoardRow, ...]
    facts: tuple[str, ...] = ()
    cell: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    ranked_by: str = ""


def make_board(
    declared: BoardFile, files: Sequence[ResultFile], figures: Sequence[Published] = ()
) -> Board:
    """Returns the board of result files and published figures.

    Raises:
        UserError: a misspelled setting in `match` or `require`.
    """
    admitted = _Admission(declared, files)
    found = configurations(admitted.rows)
    entries = _entries(declared.what, declared.rows, found, admitted)
    keep = [number for number in range(len(found)) if declared.others or entries[number]]
    names = _labels([found[number] for number in keep], [entries[number] for number in keep])
    percent = {column.name: _percent(column, admitted.rows) for column in declared.columns}
    rows = [
        _measured(declared, found[number], label, entries[number], admitted, figures, percent)
        for number, label in zip(keep, names, strict=True)
    ]
    printed, common = _common_marks(_published_rows(declared, figures, percent))
    rows += printed
    columns = [_board_column(column, admitted.rows, percent) for column in declared.columns]
    for average in declared.averages:
        column, rows = _with_average(average, columns, rows)
        columns.append(column)
    columns = [replace(column, two_decimals=_coarse(column, rows)) for column in columns]
    for column in columns:
        rows = _with_best(column, rows)
    rows = _ordered(declared, columns, rows)
    if declared.rank:
        rows = _with_ranks(declared, columns, rows)
    return Board(
        title=declared.title,
        columns=tuple(columns),
        rows=tuple(rows),
        facts=declared.facts,
        cell=declared.cell,
        notes=(*declared.notes, *common, *admitted.notes()),
        ranked_by=declared.rank,
    )


# -- which scores ----------------------------------------------------------------------------------


class _Admission:
    """The scores that a board admits, with their marks.

    Attributes:
        rows: admitted scores.
        marks: (column, id of a score) -> what is marked; only admitted scores.
    """

    def __init__(self, declared: BoardFile, files: Sequence[ResultFile]) -> None:
        self._files = {row.source: file for file in files for row in file.rows}
        self._refused: list[str] = []
        self._ids: set[int] = set()
        self.rows: list[Row] = []
        self.marks: dict[tuple[str, int], tuple[str, ...]] = {}
        for column in declared.columns:
            self.check_names(f"{declared.what}: {column.name}: require", column.require)
            _check_score(declared.what, column, files)
        for file in files:
            for column in declared.columns:
                row = _score(column, file.rows)
                if row is not None:
                    self._admit(declared, column, row)
        self._without_trials()

    def _admit(self, declared: BoardFile, column: Column, row: Row) -> None:
        problems = list(self._problems(column, row))
        refused = [text for kind, text in problems if declared.policy.get(kind) == REFUSE]
        if refused:
            self._refused.append(f"{column.name}: {row.source} ({', '.join(refused)})")
            return
        if id(row) not in self._ids:
            self._ids.add(id(row))
            self.rows.append(row)
        self.marks[column.name, id(row)] = tuple(text for _, text in problems)

    def _without_trials(self) -> None:
        """Drops scores of a part of the documents if there is the same score of all of them."""

        def name(row: Row) -> tuple[object, ...]:
            of_run = (row.model, row.checkpoint, row.revision, row.setup, row.options, row.shots)
            configuration = row.configuration or row.fingerprint
            return (*of_run, row.task, row.metric, configuration, row.scoring)

        def whole(row: Row) -> bool:
            return row.n is None or row.n_total is None or row.n >= row.n_total

        complete = {name(row) for row in self.rows if whole(row)}
        self.rows = [row for row in self.rows if whole(row) or name(row) not in complete]

    def _problems(self, column: Column, row: Row) -> Iterable[tuple[str, str]]:
        """Yields (kind, words) of all that makes a score less comparable."""
        if row.n is not None and row.n_total is not None and row.n < row.n_total:
            yield "partial", f"n={row.n} of {row.n_total}"
        if column.shots is not None and row.shots != str(column.shots):
            yield "shots", f"shots={row.shots or 'unknown'}, not {column.shots}"
        if "score" in (row.logprob_kind or "").replace(" ", "").split(","):
            yield "score", "a score, no likelihood"
        for name, allowed in column.require.items():
            value = self.setting(row, name)
            if not _fits(value, allowed):
                yield "settings", f"{name}={value or 'unknown'}, not {' or '.join(allowed)}"
        if row.errors:
            yield "errors", counted(row.errors, "error")
        if row.code:
            yield "code", row.code

    def setting(self, row: Row, name: str) -> str | None:
        """Returns a column or a setting of a score as text."""
        if name in OF_ROW:
            value = getattr(row, name)
            return None if value is None else str(value)
        file = self._files[row.source]
        return file.resolved.get(row.task, {}).get(name, file.settings.get(name))

    def other_settings(self, figure: Published, row: Row) -> list[str]:
        """Returns the settings of a published figure that a score does not have, as marks.

        Words that name no number (`steps=target length`) are not compared.
        """
        file = self._files[row.source]
        found = []
        for name, part in _parts(figure).items():
            wanted = part.partition("=")[2]
            if name not in COMPARED or not (name == "estimator" or _is_number(wanted)):
                continue
            # The resolved setting, not what became of it in short answers.
            own = file.resolved.get(row.task, {}).get(name) or self.setting(row, name)
            if name == "shots":
                own = row.shots
            equal = own == wanted or (_is_number(own) and float(own or 0) == float(wanted))
            if not equal:
                found.append(f"{name}={own or 'unknown'}, published {wanted}")
        return found

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

    def notes(self) -> list[str]:
        """Returns what was refused."""
        rest = len(self._refused) - MOST_NOTES
        more = [f"{rest} more scores were left out"] if rest > 0 else []
        return [*(f"left out: {text}" for text in self._refused[:MOST_NOTES]), *more]


def _is_number(text: str | None) -> bool:
    try:
        return text is not None and math.isfinite(float(text))
    except ValueError:
        return False


def _check_score(what: str, column: Column, files: Sequence[ResultFile]) -> None:
    """Raises UserError if files have the column's task, but not its metric or filter."""
    own = [row for file in files for row in file.rows if row.task == column.task]
    metrics = {row.metric for row in own}
    if metrics and column.metric not in metrics:
        raise unknown_name_error(f"{what}: {column.name}: metric", column.metric, metrics)
    filters = {row.filter or "none" for row in own if row.metric == column.metric}
    if filters and column.filter is not None and column.filter not in filters:
        raise unknown_name_error(f"{what}: {column.name}: filter", column.filter, filters)


def _score(column: Column, rows: Sequence[Row]) -> Row | None:
    """Returns the score of a column in one file; without `filter`, of the first filter."""
    return next(
        (
            row
            for row in rows
            if column.task
            and (row.task, row.metric) == (column.task, column.metric)
            and column.filter in (None, row.filter or "none")
        ),
        None,
    )


def _fits(value: str | None, allowed: Sequence[str]) -> bool:
    return value is not None and any(fnmatch.fnmatchcase(value, each) for each in allowed)


# -- measured rows ---------------------------------------------------------------------------------


def _entries(
    what: str, entries: Sequence[RowEntry], found: Sequence[Configuration], admitted: _Admission
) -> list[RowEntry | None]:
    """Returns for each configuration the first entry that matches it."""
    for entry in entries:
        admitted.check_names(f"{what}: row '{entry.label}': match", entry.match)

    def matches(entry: RowEntry, configuration: Configuration) -> bool:
        return bool(entry.match) and all(
            any(_fits(admitted.setting(row, name), values) for row in configuration.rows())
            for name, values in entry.match.items()
        )

    return [next((e for e in entries if matches(e, each)), None) for each in found]


def _labels(found: Sequence[Configuration], entries: Sequence[RowEntry | None]) -> list[str]:
    """Returns the names of rows: from the board, `--label`, or the checkpoint and what differs."""
    named = [
        replace(each, label=entry.label) if entry else each
        for each, entry in zip(found, entries, strict=True)
    ]
    # a row without an entry is told from those with one, too, whose names may not say how they differ
    texts = [
        own if entry else text
        for own, text, entry in zip(differences(named), differences(found), entries, strict=True)
    ]
    names = []
    for each, text in zip(named, texts, strict=True):
        who = each.checkpoint or each.model or "unknown model"
        names.append(text if each.label else f"{who} {text}".strip())
    twice = {name for name in names if names.count(name) > 1}
    return [
        f"{name} ({' '.join(filter(None, each.who))})" if name in twice else name
        for name, each in zip(names, found, strict=True)
    ]


def _measured(
    declared: BoardFile,
    found: Configuration,
    label: str,
    entry: RowEntry | None,
    admitted: _Admission,
    figures: Sequence[Published],
    percent: Mapping[str, bool],
) -> BoardRow:
    cells: dict[str, Cell] = {}
    missing: dict[str, str] = {}
    weights = {admitted.setting(row, "pretrained") for row in found.rows()} | {found.checkpoint}
    for column in declared.columns:
        key = _key(column, found)
        if key is None:
            missing[column.name] = "no run" if column.task else "only published"
            continue
        score = found.scores[key]
        if any((column.name, id(row)) not in admitted.marks for row in score.rows):
            missing[column.name] = "refused"
            continue
        scale = 100 if percent[column.name] else 1
        marks = tuple(
            dict.fromkeys(text for r in score.rows for text in admitted.marks[column.name, id(r)])
        )
        figure = _beside(declared, column, entry, weights, figures, admitted, score.rows[0])
        if figure is not None and figure.comparable and "deviation" in declared.cell:
            others = [t for r in score.rows for t in admitted.other_settings(figure, r)]
            marks = tuple(dict.fromkeys((*marks, *others)))
        deviation = None
        if (
            figure
            and "deviation" in declared.cell
            and not marks
            and score.stderr is not None
            and score.rows[0].unit == "fraction"
        ):
            deviation = figure.deviation(score.value, score.stderr)
        if not abs(score.value) < LARGEST:
            missing[column.name] = f"the score is {score.value}"
            continue
        cells[column.name] = Cell(
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
            deviation=deviation,
        )
    every = list(found.rows())
    facts = {
        name: ", ".join(dict.fromkeys(str(getattr(r, name)) for r in every if getattr(r, name)))
        for name in ("model", "checkpoint", "revision", "dtype", "device")
    }
    facts["seeds"] = str(max((len(score.rows) for score in found.scores.values()), default=0))
    return BoardRow(label, MEASURED, facts, cells, missing, model=found)


def _key(column: Column, found: Configuration) -> Key | None:
    return next(
        (
            key
            for key in found.scores
            if column.task
            and key[:2] == (column.task, column.metric)
            and column.filter in (None, key[2] or "none")
        ),
        None,
    )


def _times(value: float | None, scale: float) -> float | None:
    """Returns a standard error in the scale of its cell; None if it cannot be one."""
    times = None if value is None else scale * value
    return times if times is not None and 0 <= times < LARGEST else None


def _percent(column: Column, rows: Sequence[Row]) -> bool:
    own = [r for r in rows if (r.task, r.metric) == (column.task, column.metric)]
    return bool(own) and all(row.unit == "fraction" for row in own)


def _board_column(column: Column, rows: Sequence[Row], percent: Mapping[str, bool]) -> BoardColumn:
    own = [r for r in rows if (r.task, r.metric) == (column.task, column.metric)]
    lower = any(row.higher_is_better is False for row in own)
    scale = 100 if percent[column.name] or not own else 1
    return BoardColumn(
        name=column.name,
        task=column.task,
        metric=column.metric,
        higher_is_better=not lower,
        percent=percent[column.name],
        chance=None if column.chance is None else scale * column.chance,
        note=column.note,
    )


# -- published figures -----------------------------------------------------------------------------


def _beside(
    declared: BoardFile,
    column: Column,
    entry: RowEntry | None,
    weights: set[str | None],
    figures: Sequence[Published],
    admitted: _Admission,
    row: Row,
) -> Published | None:
    """Returns the figure that a measured cell is put beside: of the row's entry, else of the same
    weights; of several, the one whose settings are most like the run's.
    """
    found = []
    for figure in figures:
        if not any(_is(figure, source.match) for source in declared.published):
            continue
        own = entry is not None and bool(entry.published)
        if own and entry is not None and not _is(figure, entry.published):
            continue
        if not own and (not figure.checkpoint or figure.checkpoint not in weights):
            continue
        if _belongs(column, figure):
            found.append(figure)
    fewest = min((len(admitted.other_settings(each, row)) for each in found), default=0)
    return _closest([f for f in found if len(admitted.other_settings(f, row)) == fewest])


def _published_rows(
    declared: BoardFile, figures: Sequence[Published], percent: Mapping[str, bool]
) -> list[BoardRow]:
    rows: dict[tuple[str, ...], list[Published]] = {}
    for source in declared.published:
        own = [figure for figure in figures if _is(figure, source.match)]
        _check_source(declared.what, source, own)
        for figure in own:
            rows.setdefault(_name(figure, source), []).append(figure)
    found = []
    for name, own in rows.items():
        cells: dict[str, Cell] = {}
        for column in declared.columns:
            several = [each for each in own if _belongs(column, each)]
            best = _closest(several)
            if best is not None and best.value is not None:
                marks = [] if best.protocol == "same" else [f"protocol: {best.protocol}"]
                if len(several) > 1:
                    marks.append(f"one of {len(several)} figures: {best.setting}")
                scale = 100 if best.unit == "fraction" and percent[column.name] else 1
                cells[column.name] = Cell(
                    value=scale * best.value,
                    text=best.printed if scale == 1 else "",
                    n=best.n,
                    tokens_per_forward=_tokens_per_forward(own, best),
                    marks=tuple(marks),
                    sources=(f"{best.paper} {best.version}, {best.table}",),
                    published=best,
                )
        if cells:
            first = own[0]
            facts = {"model": first.model, "checkpoint": first.checkpoint}
            entry = next(
                (e for e in declared.rows if e.published and _is(first, e.published)), None
            )
            label = entry.label if entry else " ".join(filter(None, name))
            found.append(BoardRow(label, PUBLISHED, facts, cells))
    return found


def _common_marks(rows: Sequence[BoardRow]) -> tuple[list[BoardRow], list[str]]:
    """Returns published rows without the marks that all their cells have, and these as notes."""
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
    return all(_cell(figure, name) in values for name, values in match.items())


def _cell(figure: Published, name: str) -> str:
    value = getattr(figure, name)
    return "" if value is None else str(value)


def _name(figure: Published, source: Source) -> tuple[str, ...]:
    """Returns the values that make the figure's row."""
    parts = _parts(figure)
    return tuple(
        _cell(figure, name) if name in _ROW_NAMES else parts.get(name, "") for name in source.rows
    )


def _parts(figure: Published) -> dict[str, str]:
    """Returns key -> "key=value" of the figure's setting."""
    parts = [part.strip() for part in figure.setting.split(";")]
    return {part.partition("=")[0]: part for part in parts}


def _belongs(column: Column, figure: Published) -> bool:
    if column.published:
        return _is(figure, column.published)
    return bool(column.task) and (figure.dlm_task, figure.dlm_metric) == (
        column.task,
        column.metric,
    )


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
            and all(_cell(figure, name) == _cell(of, name) for name in same)
        ),
        None,
    )


# -- averages, best, order, ranks ------------------------------------------------------------------


def _with_average(
    average: Average, columns: Sequence[BoardColumn], rows: Sequence[BoardRow]
) -> tuple[BoardColumn, list[BoardRow]]:
    """Returns the column of an average, and the rows with it. Rows that lack a cell have none."""
    of = [column for column in columns if column.name in average.of]
    normal = average.kind == "chance_normalised"
    reason = ""
    if any(not column.higher_is_better for column in of):
        reason = "lower is better in a column"
    known = [c for c in of if any(c.name in row.cells and row.kind == MEASURED for row in rows)]
    if other := [column.name for column in known if not column.percent]:
        reason = f"not in percent: {', '.join(other)}"
    found = []
    for row in rows:
        absent = [column.name for column in of if column.name not in row.cells]
        why = reason or (
            f"{len(absent)} of {len(of)} missing: {', '.join(absent)}" if absent else ""
        )
        if why:
            found.append(replace(row, missing={**row.missing, average.name: why}))
            continue
        cell = _average_cell([row.cells[c.name] for c in of], of, normal)
        found.append(replace(row, cells={**row.cells, average.name: cell}))
    note = "mean of " + ", ".join(column.name for column in of)
    note += ", each as (score - chance) / (100 - chance)" if normal else ""
    percent = bool(of) and all(column.percent or not column.task for column in of)
    return BoardColumn(average.name, percent=percent, note=note, average=True), found


def _average_cell(cells: Sequence[Cell], columns: Sequence[BoardColumn], normal: bool) -> Cell:
    """Returns the mean; its standard error takes the tasks' documents as independent."""
    spans = [
        (c.chance or 0.0, 100 / (100 - (c.chance or 0.0))) if normal else (0.0, 1.0)
        for c in columns
    ]
    values = [(cell.value - low) * by for cell, (low, by) in zip(cells, spans, strict=True)]
    errors = [
        cell.stderr * by
        for cell, (_, by) in zip(cells, spans, strict=True)
        if cell.stderr is not None
    ]
    marks = tuple(
        f"{column.name}: {mark}"
        for cell, column in zip(cells, columns, strict=True)
        for mark in cell.marks
    )
    k = len(cells)
    return Cell(
        value=math.fsum(values) / k,
        stderr=math.sqrt(math.fsum(e * e for e in errors)) / k if len(errors) == k else None,
        seeds=min(cell.seeds for cell in cells),
        marks=marks,
        sources=tuple(dict.fromkeys(source for cell in cells for source in cell.sources)),
        scores=tuple(row for cell in cells for row in cell.scores),
    )


def _coarse(column: BoardColumn, rows: Sequence[BoardRow]) -> bool:
    values = [row.cells[column.name].value for row in rows if column.name in row.cells]
    return column.percent or any(abs(value) >= 10 for value in values)


def _with_best(column: BoardColumn, rows: Sequence[BoardRow]) -> list[BoardRow]:
    """Marks the measured cells within one standard error of the best one, if there are several."""
    sign = 1 if column.higher_is_better else -1
    own = [r.cells[column.name] for r in rows if r.kind == MEASURED and column.name in r.cells]
    if len(own) < 2:
        return list(rows)
    best = max(own, key=lambda cell: sign * cell.value)
    found = []
    for row in rows:
        cell = row.cells.get(column.name)
        near = (
            cell is not None
            and row.kind == MEASURED
            and sign * (best.value - cell.value) <= (best.stderr or 0.0)
        )
        if cell is not None and near:
            row = replace(row, cells={**row.cells, column.name: replace(cell, best=True)})
        found.append(row)
    return found


def _ordered(
    declared: BoardFile, columns: Sequence[BoardColumn], rows: Sequence[BoardRow]
) -> list[BoardRow]:
    """Returns the rows in the board's order; rows without the column come last."""
    entries = [entry.label for entry in declared.rows]

    def place(row: BoardRow) -> int:
        return entries.index(row.label) if row.label in entries else len(entries)

    column = next((column for column in columns if column.name == declared.order), None)
    if column is None:
        # Published rows keep the order of the file, measured ones that of their names.
        return sorted(
            rows,
            key=lambda row: (
                place(row),
                row.kind == MEASURED,
                natural(row.label) if row.kind == MEASURED else (),
            ),
        )
    down = column.higher_is_better if declared.descending is None else declared.descending
    have = [row for row in rows if column.name in row.cells]
    have.sort(key=lambda row: row.cells[column.name].value * (-1 if down else 1))
    return [*have, *(row for row in rows if column.name not in row.cells)]


def _with_ranks(
    declared: BoardFile, columns: Sequence[BoardColumn], rows: Sequence[BoardRow]
) -> list[BoardRow]:
    """Gives the measured rows their ranks in the declared column."""
    name = declared.rank
    average = next((each for each in declared.averages if each.name == name), None)
    parts = [column for column in columns if column.name in (average.of if average else (name,))]
    places = [n for n, row in enumerate(rows) if row.kind == MEASURED and name in row.cells]
    if not places:
        return list(rows)
    scales = [
        100 / (100 - column.chance)
        if average and average.kind == "chance_normalised" and column.chance is not None
        else 1.0
        for column in parts
    ]
    sign = 1 if next(c for c in columns if c.name == name).higher_is_better else -1
    own = [[rows[place].cells[column.name] for column in parts] for place in places]
    found = ranks(
        [row.cells[name].value for row in (rows[place] for place in places)], own, scales, sign,
        declared.draws,
    )  # fmt: skip
    result = list(rows)
    for place, rank in zip(places, found, strict=True):
        result[place] = replace(result[place], rank=rank)
    return result


def published_beside(board_file: Path) -> Path:
    """Returns the file of published figures beside a board's file.

    Raises:
        UserError: there is none.
    """
    path = board_file.with_name("published.csv")
    if not path.is_file():
        raise UserError(f"board '{board_file}' shows published figures, but there is no '{path}'")
    return path
