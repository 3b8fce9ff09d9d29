"""A board as its YAML file declares it: tasks, rows, required settings, averages, order.

docs/guides/leaderboards.md explains every key.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dlm_eval.errors import UserError, unknown_name_error
from dlm_eval.printable import CONTROL
from dlm_eval.reports.board.published import COLUMNS as PUBLISHED
from dlm_eval.settings import shown
from dlm_eval.yaml_text import read_yaml

MARK, REFUSE = "mark", "refuse"
# What can be wrong with a score, and what is done if the board does not say it.
POLICY = {"partial": MARK, "shots": REFUSE, "score": MARK, "settings": REFUSE, "errors": MARK}
# Parts of a cell behind its value.
PARTS = ("stderr", "n", "tokens_per_forward", "forwards_per_token", "deviation")
# Facts of a row that may have a column.
FACTS = ("model", "checkpoint", "revision", "dtype", "device", "seeds", "finds_length")
AVERAGES = ("macro", "chance_normalised")
MOST_DRAWS = 100_000
# Keys of the file by the mapping that has them ("" for the file itself), as errors and the reference page list them.
KEYS: dict[str, dict[str, str]] = {
    "": {
        "title": "heading of the board",
        "notes": "a text, or a list of texts, below the board",
        "tasks": "the score columns, in order; the only key that is needed",
        "rows": "rows with a name and a place, before all others",
        "others": "what is done with measured rows that no entry of `rows` matches: show (default) or leave_out",
        "columns": f"facts beside the name: {', '.join(FACTS)}",
        "cell": f"what stands behind a value: {', '.join(PARTS)} (default: stderr)",
        "require": "setting: one value or a list of them (globs), for every task: a column of the long table or a resolved setting of the task",
        "policy": "what is done with a score that has a fault: mark (a footnote) or refuse (left out, with a note)",
        "published": "published figures that make rows of their own",
        "averages": "mean columns",
        "order": "order of the rows behind those of `rows`",
        "ranks": "rank of the measured rows",
    },
    "tasks": {
        "name": "header; default: TASK (METRIC)",
        "task": "task of the result files; left out for a column of published figures only",
        "metric": "metric of the result files",
        "filter": "filter of the result files; default: the first one",
        "shots": "few-shot examples that a score must have",
        "chance": "score of guessing, 0 to below 1; kind chance_normalised needs it",
        "require": "as above, for this task",
        "published": "columns of published.csv and values that choose the figures of this column; default: its dlm_task and dlm_metric",
        "note": "a footnote",
    },
    "rows": {
        "label": "name of the row",
        "match": "setting: values, as in `require`, for at least one score of the row; left out for a row of published figures only",
        "published": "columns of published.csv and values: the figures that belong beside it; default: those of the same hub id",
    },
    "policy": {
        "partial": "not all documents of the task (default: mark)",
        "shots": "another number of few-shot examples than the column says (default: refuse)",
        "score": "a log-probability of kind `score`, which is no likelihood (default: mark)",
        "settings": "`require` is not met (default: refuse)",
        "errors": "documents that failed (default: mark)",
    },
    "published": {
        **dict.fromkeys(PUBLISHED, "value or values of this column of published.csv"),
        "row": "columns of published.csv, or keys of its `setting`, whose values make a row (default: model, size)",
    },
    "averages": {
        "name": "header",
        "of": "names of score columns; default: all",
        "kind": f"{' or '.join(AVERAGES)}: the mean, or the mean of (score - chance) / (1 - chance)",
    },
    "order": {
        "by": "label, or the name of a score or mean column (default: label)",
        "descending": "true or false; default: the best first",
    },
    "ranks": {
        "by": "name of a score or mean column",
        "draws": f"bootstrap draws, 100 to {MOST_DRAWS} (default: 2000)",
    },
}
MOST_ENTRIES = 500  # of a list
LONGEST = 2000  # characters of a text


@dataclass(frozen=True)
class Column:
    """A score column.

    Attributes:
        name: its header.
        task, metric, filter: which score; `task` is "" if only published figures are shown, `filter`
            None for the first one of the result file.
        shots: required few-shot examples, or None.
        chance: score of guessing, as result files hold it (a fraction), or None.
        require: setting -> allowed values.
        published: columns of published.csv -> values that choose its figures.
        note: a footnote, or "".
    """

    name: str
    task: str
    metric: str
    filter: str | None
    shots: int | None
    chance: float | None
    require: Mapping[str, tuple[str, ...]]
    published: Mapping[str, tuple[str, ...]]
    note: str

    def takes(self, task: str, metric: str, pipeline: str | None) -> bool:
        """Returns whether a score of this task, metric and filter belongs to the column."""
        own = bool(self.task) and (task, metric) == (self.task, self.metric)
        return own and self.filter in (None, pipeline or "none")


@dataclass(frozen=True)
class RowEntry:
    """A row that the board names.

    Attributes:
        label: its name.
        match: column or setting of a run -> values; "" for a row of published figures only.
        published: columns of published.csv -> values of the figures that belong beside it.
    """

    label: str
    match: Mapping[str, tuple[str, ...]]
    published: Mapping[str, tuple[str, ...]]


@dataclass(frozen=True)
class Average:
    """A mean over columns; `kind` is one of `AVERAGES`."""

    name: str
    of: tuple[str, ...]
    kind: str


@dataclass(frozen=True)
class Source:
    """Which published figures a board shows.

    Attributes:
        match: columns of published.csv -> values.
        rows: columns, or keys of `setting` (mode), whose values make a row.
    """

    match: Mapping[str, tuple[str, ...]]
    rows: tuple[str, ...]


@dataclass(frozen=True)
class BoardFile:
    """All that a board's file says; see `docs/guides/leaderboards.md`. `what` names it in errors."""

    title: str
    notes: tuple[str, ...]
    columns: tuple[Column, ...]
    rows: tuple[RowEntry, ...]
    others: bool
    facts: tuple[str, ...]
    cell: tuple[str, ...]
    policy: Mapping[str, str]
    published: tuple[Source, ...]
    averages: tuple[Average, ...]
    order: str
    descending: bool | None
    rank: str
    draws: int
    what: str = "board"


def read_board_file(path: Path) -> BoardFile:
    """Returns a board's file, checked.

    Raises:
        UserError: it cannot be read, or a key or value is not allowed; the message names it.
    """
    what = f"board '{path}'"
    try:
        if path.exists() and not path.is_file():
            raise UserError(f"{what} is no ordinary file")
    except (OSError, ValueError) as error:
        raise UserError(f"{what} cannot be read: {error}") from error
    return board_of(read_yaml(path, what), what)


def board_of(document: Any, what: str = "board") -> BoardFile:
    """Returns a board from parsed YAML.

    Raises:
        UserError: see `read_board_file`.
    """
    top = _Part(document, what)
    top.only(*KEYS[""])
    everywhere = top.values("require")
    columns = tuple(_column(part, everywhere) for part in top.parts("tasks", needed=True))
    averages = tuple(_average(part, columns) for part in top.parts("averages"))
    names = [column.name for column in columns] + [average.name for average in averages]
    for number, name in enumerate(names):
        if name in names[:number]:
            raise UserError(f"{what}: two columns have the name '{name}'; give one a `name`")
    order, rank = top.part("order"), top.part("ranks")
    order.only(*KEYS["order"])
    rank.only(*KEYS["ranks"])
    if "descending" in order.data and order.text("by") in ("", "label"):
        raise UserError(f"{order.what}: descending needs `by` with the name of a column")
    if rank.data and not rank.text("by"):
        raise UserError(f"{rank.what} needs `by` with the name of a column")
    return BoardFile(
        title=top.text("title"),
        notes=top.texts("notes"),
        columns=columns,
        rows=tuple(_row(part) for part in top.parts("rows")),
        others=top.choice("others", ("show", "leave_out"), "show") == "show",
        facts=top.names("columns", FACTS),
        cell=top.names("cell", PARTS, default=("stderr",)),
        policy=_policy(top.part("policy")),
        published=tuple(_source(part) for part in top.parts("published")),
        averages=averages,
        order=order.choice("by", ("label", *names), "label"),
        descending=order.flag("descending"),
        rank=rank.choice("by", names, ""),
        draws=rank.count("draws", MOST_DRAWS, least=100) or 2000,
        what=what,
    )


def _column(part: _Part, everywhere: Mapping[str, tuple[str, ...]]) -> Column:
    part.only(*KEYS["tasks"])
    task, metric = part.text("task"), part.text("metric")
    name = part.text("name") or (f"{task} ({metric})" if task else "")
    published = part.values("published", PUBLISHED)
    if not name or bool(task) != bool(metric):
        raise UserError(f"{part.what} needs `task` and `metric`, or `name` and `published`")
    if not task and not published:
        raise UserError(f"{part.what} needs a `task`, or `published` figures")
    chance = part.number("chance")
    if chance is not None and not 0 <= chance < 1:
        raise UserError(f"{part.what}: chance '{chance}' is not allowed; it must be 0 to below 1")
    return Column(
        name=name,
        task=task,
        metric=metric,
        filter=part.text("filter") or None,
        shots=part.count("shots", 1000),
        chance=chance,
        require={**everywhere, **part.values("require")},
        published=published,
        note=part.text("note"),
    )


def _row(part: _Part) -> RowEntry:
    part.only(*KEYS["rows"])
    label = part.text("label")
    match, published = part.values("match"), part.values("published", PUBLISHED)
    if not label or not (match or published):
        raise UserError(f"{part.what} needs `label`, and `match` or `published`")
    return RowEntry(label, match, published)


def _average(part: _Part, columns: Sequence[Column]) -> Average:
    part.only(*KEYS["averages"])
    names = [column.name for column in columns]
    kind = part.choice("kind", AVERAGES, AVERAGES[0])
    of = part.names("of", names, default=tuple(names))
    if not part.text("name") or not of:
        raise UserError(f"{part.what} needs `name`, and columns in `of`")
    for column in columns:
        if kind == "chance_normalised" and column.name in of and column.chance is None:
            raise UserError(f"{part.what}: task '{column.name}' needs its `chance`")
    return Average(part.text("name"), of, kind)


def _source(part: _Part) -> Source:
    part.only(*KEYS["published"])
    match = {name: part.values_of(name) for name in PUBLISHED if name in part.data}
    if not match:
        raise UserError(f"{part.what} needs at least one of {', '.join(PUBLISHED)}")
    return Source(match, part.texts("row") or ("model", "size"))


def _policy(part: _Part) -> dict[str, str]:
    part.only(*KEYS["policy"])
    return {name: part.choice(name, (MARK, REFUSE), usual) for name, usual in POLICY.items()}


class _Part:
    """A mapping of the file, with its place for errors."""

    def __init__(self, data: Any, what: str) -> None:
        if data is None:
            data = {}
        if not isinstance(data, dict):
            raise UserError(f"{what} '{shown(data)}' is not allowed; it must be keys with values")
        self.data: dict[Any, Any] = data
        self.what = what

    def only(self, *names: str) -> None:
        """Raises UserError for a key that is not one of `names`."""
        for key in self.data:
            if key not in names:
                raise unknown_name_error(f"{self.what}: key", key, names)

    def part(self, name: str) -> _Part:
        """Returns the mapping below `name`, empty if it is absent."""
        return _Part(self.data.get(name), f"{self.what}: {name}")

    def parts(self, name: str, needed: bool = False) -> list[_Part]:
        """Returns the list of mappings below `name`; one mapping is a list of one."""
        given = self.data.get(name)
        items = [] if given is None else given if isinstance(given, list) else [given]
        if needed and not items:
            raise UserError(f"{self.what}: {name} is missing or empty")
        self._few(name, items)
        return [_Part(item, f"{self.what}: {name} {place}") for place, item in enumerate(items, 1)]

    def text(self, name: str) -> str:
        """Returns a text, number or boolean as text; "" if it is absent."""
        return _text(self.data.get(name), f"{self.what}: {name}")

    def texts(self, name: str) -> tuple[str, ...]:
        """Returns one text or a list of them."""
        return self.values_of(name) if self.data.get(name) is not None else ()

    def values_of(self, name: str) -> tuple[str, ...]:
        """Returns one value or a list of them as texts."""
        given = self.data.get(name)
        items = given if isinstance(given, list) else [given]
        self._few(name, items)
        return tuple(_text(item, f"{self.what}: {name}") for item in items)

    def values(self, name: str, allowed: Sequence[str] = ()) -> dict[str, tuple[str, ...]]:
        """Returns key -> values; the keys are any, or of `allowed`."""
        inner = self.part(name)
        if allowed:
            inner.only(*allowed)
        inner._few(name, list(inner.data))
        return {_text(key, inner.what): inner.values_of(key) for key in inner.data}

    def names(
        self, name: str, allowed: Sequence[str], default: tuple[str, ...] = ()
    ) -> tuple[str, ...]:
        """Returns a list of names, each one of `allowed`."""
        if name not in self.data:
            return default
        found = self.texts(name)
        for each in found:
            if each not in allowed:
                raise unknown_name_error(f"{self.what}: {name}", each, allowed)
        return found

    def choice(self, name: str, allowed: Sequence[str], default: str) -> str:
        """Returns one of `allowed`."""
        if self.data.get(name) is None:
            return default
        given = self.text(name)
        if given not in allowed:
            raise unknown_name_error(f"{self.what}: {name}", given, allowed)
        return given

    def number(self, name: str) -> float | None:
        """Returns a finite number, None if it is absent."""
        given = self.data.get(name)
        if given is None:
            return None
        if isinstance(given, bool) or not isinstance(given, (int, float)) or not _finite(given):
            raise UserError(
                f"{self.what}: {name} '{shown(given)}' is not allowed; it must be a number"
            )
        return float(given)

    def count(self, name: str, most: int, least: int = 0) -> int | None:
        """Returns a whole number from `least` to `most`, None if it is absent."""
        given = self.number(name)
        if given is None:
            return None
        if given != int(given) or not least <= given <= most:
            allowed = f"a whole number from {least} to {most}"
            raise UserError(f"{self.what}: {name} '{given:g}' is not allowed; it must be {allowed}")
        return int(given)

    def flag(self, name: str) -> bool | None:
        """Returns true or false, None if it is absent."""
        given = self.data.get(name)
        if given is not None and not isinstance(given, bool):
            raise UserError(
                f"{self.what}: {name} '{shown(given)}' is not allowed; it must be true or false"
            )
        return given

    def _few(self, name: str, items: Sequence[Any]) -> None:
        if len(items) > MOST_ENTRIES:
            raise UserError(f"{self.what}: {name} has more than {MOST_ENTRIES} entries")


def _text(value: Any, what: str) -> str:
    if value is None:
        return ""
    if not isinstance(value, (str, int, float)):
        raise UserError(f"{what} '{shown(value)}' is not allowed; it must be text or a number")
    text = str(value).strip()
    if len(text) > LONGEST or CONTROL.search(text.replace("\n", " ")):
        raise UserError(f"{what} has control characters or more than {LONGEST} characters")
    return " ".join(text.split())


def _finite(value: float) -> bool:
    try:
        return math.isfinite(value)
    except OverflowError:
        return False
