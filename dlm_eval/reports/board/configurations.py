"""Scores of many runs as rows of a board: one row per configuration of a model.

    scores -> setups -> settings of both kinds -> shots, documents, versions -> rows

A likelihood score does not depend on --decode, and a generation score not on --estimator. So a
score belongs to every row that agrees with it in the settings of its own kind: a run with
`--decode steps=8` shows the likelihoods of the run without it. Runs that differ only in seeds are
one row (`repeated`).
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from dlm_eval.reports.board.natural import natural, natural_all
from dlm_eval.reports.board.repeats import Repeats, repeated
from dlm_eval.reports.files.row import BETWEEN, GENERATION, LIKELIHOOD, Row

log = logging.getLogger(__name__)

Key = tuple[str, str, str | None]  # task, metric, filter
Cells = dict[Key, list[Row]]

# Columns that distinguish scores of one task, in the order in which they name rows.
DISTINGUISHING = (
    "shots", "n", "estimator", "strategy", "approximation", "steps", "gen_length", "block_length", "dtype", "task_version", "device",
    "seed", "configuration", "scoring", "documents", "setup", "fingerprint", "date", "source",
)  # fmt: skip
MOST_ROWS = 2000  # of one setup
MOST_VALUES = 100  # of few-shot examples that make rows


@dataclass(frozen=True)
class Configuration:
    """One row of a board.

    Attributes:
        model, checkpoint, revision: whose scores they are.
        label: `--label` of its newest run that has one, or "".
        options: settings of likelihoods, settings of generation.
        scores: (task, metric, filter) -> score.
    """

    model: str | None
    checkpoint: str | None
    revision: str | None
    label: str
    options: tuple[str, str]
    scores: dict[Key, Repeats]

    @property
    def who(self) -> tuple[str, str, str]:
        """Model, checkpoint and revision; "" if unknown."""
        return (self.model or "", self.checkpoint or "", self.revision or "")

    def rows(self) -> Iterable[Row]:
        """Yields all scores of all seeds."""
        for score in self.scores.values():
            yield from score.rows


def configurations(rows: Sequence[Row]) -> list[Configuration]:
    """Returns the rows of a board, models in natural order. No row repeats a part of another."""
    setups: dict[tuple[str | None, ...], list[Row]] = {}
    for row in rows:
        key = (row.model, row.checkpoint, row.revision, row.setup or row.dtype)
        setups.setdefault(key, []).append(row)
    found = [each for members in setups.values() for each in _of_setup(members)]
    return sorted(found, key=lambda each: (natural_all(each.who), natural_all(_shown(each))))


def _of_setup(rows: Sequence[Row]) -> list[Configuration]:
    """Returns the rows of one model under the same settings for all tasks."""
    sources: dict[str, list[Row]] = {}
    for row in rows:
        sources.setdefault(row.source, []).append(row)
    known = [
        Counter(_options(row)[place] for row in rows if row.kind in (kind, None))
        for place, kind in enumerate((LIKELIHOOD, GENERATION))
    ]
    options: dict[tuple[str, str], list[str]] = {}  # -> the runs that had them
    for source, own in sources.items():
        first, second = map(_known, _options(own[0]), known)
        options.setdefault((first, second), []).append(source)
    found: list[tuple[tuple[str, str], Cells]] = []
    for pair, own_sources in options.items():
        cells: Cells = {}
        for row in rows:
            if row.source in own_sources or (
                row.kind is not None and _own(row.kind, pair) == _own(row.kind, _options(row))
            ):
                cells.setdefault((row.task, row.metric, row.filter), []).append(row)
        found += [(pair, part) for part in _split_all(cells)]
    if len(found) > MOST_ROWS:
        log.warning("%s: only %d of %d rows are shown", rows[0].model, MOST_ROWS, len(found))
        found = found[:MOST_ROWS]
    members = [
        frozenset((key, id(row)) for key in cells for row in cells[key]) for _, cells in found
    ]
    return [
        _configuration(pair, cells, options[pair])
        for place, (pair, cells) in enumerate(found)
        if not any(members[place] < other for other in members)
        and members[place] not in members[:place]
    ]


def _options(row: Row) -> tuple[str, str]:
    """Returns the settings of a score's run for likelihoods and for generation."""
    first, _, second = (row.options or "").partition(BETWEEN)
    return first, second


def _own(kind: str, options: tuple[str, str]) -> str:
    return options[kind == GENERATION]


def _known(options: str, known: Counter[str]) -> str:
    """Returns a run's settings of one kind; if no score has them, those of most scores."""
    most = max(known.values(), default=0)
    return (
        options
        if options in known or not known
        else min(text for text, count in known.items() if count == most)
    )


def _configuration(options: tuple[str, str], cells: Cells, sources: Sequence[str]) -> Configuration:
    scores = {key: repeated(rows) for key, rows in cells.items()}
    every = [row for rows in cells.values() for row in rows]
    named = [row for row in every if row.label and row.source in sources]
    newest = max(named, key=lambda row: (row.date or "", row.source), default=None)
    first = every[0]
    label = newest.label if newest is not None else None
    return Configuration(
        first.model, first.checkpoint, first.revision, label or "", options, scores
    )


def _split_all(cells: Cells) -> list[Cells]:
    """Returns the cells as rows in which every task has scores of one configuration.

    Rows are split by examples, by documents (whole before parts), by configuration, by scoring, and
    by repetition with the same seed, the newest first.
    """
    parts = [cells]
    for order, alone in (
        (lambda _: lambda row: row.shots or "", "by value"),
        (_by_documents, "first"),
        (_newest_first("configuration", "fingerprint"), "everywhere"),
        (_newest_first("scoring"), "everywhere"),
        (_by_repetition, "first"),
    ):
        parts = [piece for part in parts for piece in _split(part, order, alone)]
    return parts


Ranked = Callable[[Sequence[Row]], Callable[[Row], object]]


def _split(cells: Cells, ranked: Ranked, alone: str) -> list[Cells]:
    """Splits the cells if some task's scores have several values of something.

    Args:
        cells: scores by task.
        ranked: gives the values of a task's scores: texts, or ranks from 0.
        alone: the parts that get the scores of tasks with one value: "everywhere"; "first" (the
            first one, and those of the same run); "by value" (the part of their value if there is
            one, else every part).
    """
    values = {key: list(map(ranked(rows), rows)) for key, rows in cells.items()}
    several = {key for key, found in values.items() if len(set(found)) > 1}
    if not several:
        return [cells]
    names = sorted(
        {value for key in several for value in values[key]}, key=lambda v: natural(str(v))
    )
    if alone == "by value" and len(names) > MOST_VALUES:
        log.warning("only %d of %d numbers of examples are shown", MOST_VALUES, len(names))
        names = names[:MOST_VALUES]
    parts: list[Cells] = []
    for place, name in enumerate(names):
        part: Cells = {}
        for key in several:
            pairs = zip(cells[key], values[key], strict=True)
            part[key] = [row for row, value in pairs if value == name]
        runs = {row.source for rows in part.values() for row in rows}
        for key in cells.keys() - several:
            value, own = values[key][0], {row.source for row in cells[key]}
            if alone == "by value":
                belongs = value == name or value not in names
            else:
                belongs = alone == "everywhere" or place == 0 or bool(own & runs)
            part[key] = cells[key] if belongs else []
        parts.append({key: part[key] for key in cells if part[key]})
    return parts


def _by_documents(rows: Sequence[Row]) -> Callable[[Row], object]:
    """Ranks scores by their documents: all documents first, then larger parts."""
    most = max((row.n_total or row.n or 0 for row in rows), default=0)

    def part(row: Row) -> tuple[int, str]:
        whole = row.n is None or row.n >= (row.n_total or most)
        return (0, "") if whole else (most - (row.n or 0), row.documents or "")

    ranks = sorted({part(row) for row in rows})
    return lambda row: ranks.index(part(row))


def _newest_first(*names: str) -> Ranked:
    """Ranks scores by the first known of these digests; that of the newest score comes first."""

    def digest(row: Row) -> str:
        return next((text for name in names if (text := getattr(row, name))), "")

    def ranked(rows: Sequence[Row]) -> Callable[[Row], object]:
        newest: dict[str, tuple[str, str]] = {}
        for row in rows:
            time = (row.date or "", row.source)
            newest[digest(row)] = max(newest.get(digest(row), time), time)
        order = sorted(newest, key=lambda text: newest[text], reverse=True)
        return lambda row: order.index(digest(row))

    return ranked


def _by_repetition(rows: Sequence[Row]) -> Callable[[Row], object]:
    """Ranks scores with the same seed, the newest first."""
    ordered = sorted(rows, key=lambda row: (row.date or "", row.source), reverse=True)
    seen: Counter[str] = Counter()
    rank: dict[int, int] = {}
    for row in ordered:
        rank[id(row)] = seen[row.seed or ""]
        seen[row.seed or ""] += 1
    return lambda row: rank[id(row)]


def _shown(row: Configuration) -> tuple[str, ...]:
    first = next(iter(row.scores.values())).rows[0]
    return (
        row.label, *row.options, *(first.text(name) for name in DISTINGUISHING)
    )  # fmt: skip
