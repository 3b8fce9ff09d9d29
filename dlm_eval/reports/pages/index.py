"""The index page: the table of a board, accuracy against forwards per token, links to samples."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any

from dlm_eval.printable import counted, printable, shortened
from dlm_eval.redaction import redact_values
from dlm_eval.reports.board.board import MEASURED, Board, BoardColumn, BoardRow, Cell
from dlm_eval.reports.board.text import (
    about_columns,
    error,
    letter,
    number,
    rank_text,
    refused_averages,
)
from dlm_eval.reports.files.row import LIKELIHOOD
from dlm_eval.reports.pages.site import Site
from dlm_eval.reports.pages.web import render
from dlm_eval.reports.sweep.quality_speed import aup, pareto

LONGEST = 160  # characters of a name
WIDTH, HEIGHT = 640, 340  # of a chart, in SVG units
LEFT, RIGHT, TOP, BOTTOM = 52, 14, 12, 44  # margins
COLOURS, SHAPES = 8, 4  # of curves; then they repeat


def index_page(site: Site, follows: bool = False) -> str:
    """Returns the index page as HTML.

    Args:
        site: what is shown.
        follows: whether the page asks its server for new results.
    """
    marks: dict[str, str] = {}
    rows = [_row(site, row, marks) for row in site.board.rows]
    values = {
        **_heading(site.board),
        "rows": rows,
        "marks": [(mark, _text(text)) for text, mark in marks.items()],
        "charts": [each for column in site.board.columns for each in _charts(site, column)],
        "box": (WIDTH, HEIGHT),
        "linked": bool(site.pages),
        "follows": follows,
    }
    data = {
        "columns": [shown_name(column.name) for column in site.board.columns],
        "lower": [not column.higher_is_better for column in site.board.columns],
        "rows": [_linked(row) for row in rows],
    }
    return render(
        "index.html",
        ("house.css", "results.css", "index.css"),
        ("house.js", "follow.js", "index.js"),
        redact_values(values),
        redact_values(data),
        follows,
    )


def _heading(board: Board) -> dict[str, Any]:
    """Returns what stands around the table: title, facts, headers and notes."""
    runs = {row.source for line in board.rows for c in line.cells.values() for row in c.scores}
    return {
        "title": shown_name(board.title) or "results",
        "facts": [
            counted(len(board.rows), "row"),
            counted(len(board.columns), "column"),
            counted(sum(len(row.cells) for row in board.rows), "score"),
            counted(len(runs), "run"),
        ],
        "board_facts": [shown_name(fact) for fact in board.facts],
        "columns": [_column(column) for column in board.columns],
        "ranked": bool(board.ranked_by),
        "published": any(row.kind != MEASURED for row in board.rows),
        "notes": [
            _text(note) for note in (*about_columns(board), *refused_averages(board), *board.notes)
        ],
    }


def _linked(row: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the label of a row, and page and score of its cells that have a page."""
    linked = {number: cell for number, cell in enumerate(row["cells"]) if cell["page"]}
    return {
        "label": row["label"],
        "pages": {number: cell["page"] for number, cell in linked.items()},
        "values": {number: cell["sort"] for number, cell in linked.items()},
    }


# -- the table -------------------------------------------------------------------------------------


def _column(column: BoardColumn) -> dict[str, Any]:
    return {
        "name": shown_name(column.name),
        "lower": not column.higher_is_better,
        "note": _text(column.note),
        "average": column.average,
    }


def _row(site: Site, row: BoardRow, marks: dict[str, str]) -> dict[str, Any]:
    return {
        "label": shown_name(row.label),
        "published": row.kind != MEASURED,
        "facts": [shown_name(row.facts.get(fact, "")) for fact in site.board.facts],
        "rank": rank_text(row),
        "rank_sort": row.rank.rank if row.rank else "",
        "cells": [
            _cell(site, row.cells.get(column.name), column, row.missing.get(column.name, ""), marks)
            for column in site.board.columns
        ],
    }


def _cell(
    site: Site, cell: Cell | None, column: BoardColumn, missing: str, marks: dict[str, str]
) -> dict[str, Any]:
    if cell is None:
        empty = {"shown": "", "error": "", "sort": "", "page": "", "best": False, "marks": []}
        return {**empty, "title": _text(missing)}
    for mark in cell.marks:
        marks.setdefault(mark, letter(len(marks)))
    return {
        "shown": number(cell, column),
        "error": error(cell, column),
        "sort": cell.value,
        "page": "" if column.average else _page_id(site, cell),
        "best": cell.best,
        "marks": [marks[mark] for mark in cell.marks],
        "title": "; ".join(_about(cell)),
    }


def _page_id(site: Site, cell: Cell) -> str:
    found = (site.pages.get((row.source, row.task)) for row in cell.scores)
    return next((page.id for page in found if page is not None), "")


def _about(cell: Cell) -> list[str]:
    """Returns what is known of a score, for the title of its cell."""
    parts = []
    if cell.n is not None:
        parts.append(counted(cell.n, "document"))
    if cell.seeds > 1:
        parts.append(f"mean of {cell.seeds} seeds")
    if cell.tokens_per_forward is not None:
        parts.append(f"{cell.tokens_per_forward:.3g} tokens per forward")
    if cell.deviation is not None and cell.published is not None:
        parts.append(
            f"{cell.deviation:+.1f} standard errors from {cell.published.printed} in "
            f"{cell.published.paper}"
        )
    parts += cell.marks
    sources = [short_source(row.source) for row in cell.scores] or cell.sources
    return [_text(part) for part in (*parts, *sources[:3])]


def short_source(source: str) -> str:
    """Returns the name of a result file with its folder: pages may be published, and a whole path
    tells of the machine.
    """
    return "/".join(PurePath(source).parts[-2:])


def shown_name(text: str) -> str:
    """Returns a name for a page, of limited length."""
    return printable(shortened(text, LONGEST))


def _text(text: str) -> str:
    return printable(text[:2000])


# -- charts ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Point:
    """A score of a chart: tokens per forward, value, and what it is of."""

    rho: float
    value: float
    row: BoardRow
    cell: Cell

    @property
    def who(self) -> str:
        """The model, whose points under other settings are one curve."""
        if self.row.model is not None:
            names = dict.fromkeys(filter(None, self.row.model.who))
            return " ".join(names) or self.row.label
        return str(self.row.facts.get("model") or self.row.label)


def _charts(site: Site, column: BoardColumn) -> list[dict[str, Any]]:
    """Returns the chart of a column; none if nothing is generated, or the cost is unknown."""
    points = [
        _Point(cell.tokens_per_forward, cell.value, row, cell)
        for row in site.board.rows
        if (cell := row.cells.get(column.name))
        and cell.tokens_per_forward
        and all(score.kind != LIKELIHOOD for score in cell.scores)
    ]
    # A score that belongs to several rows is one point.
    points = list({(p.cell.sources, p.row.label * (not p.cell.scores)): p for p in points}.values())
    return [] if column.average or not points else [_chart(site, column, points)]


def _chart(site: Site, column: BoardColumn, points: Sequence[_Point]) -> dict[str, Any]:
    sign = 1 if column.higher_is_better else -1
    x = _Scale([math.log10(1 / p.rho) for p in points], LEFT, WIDTH - RIGHT)
    y = _Scale([p.value for p in points], HEIGHT - BOTTOM, TOP)
    front = pareto([(p.rho, sign * p.value) for p in points])
    curves = list(dict.fromkeys(p.who for p in points))
    drawn = [
        {
            "x": round(x(math.log10(1 / p.rho)), 1),
            "y": round(y(p.value), 1),
            "label": shown_name(p.row.label),
            "colour": curves.index(p.who) % COLOURS,
            "shape": curves.index(p.who) // COLOURS % SHAPES,
            "published": p.row.kind != MEASURED,
            "front": on,
            "page": _page_id(site, p.cell),
            "cost": f"{1 / p.rho:.3g}",
            "rho": f"{p.rho:.3g}",
            "shown": number(p.cell, column),
        }
        for p, on in zip(points, front, strict=True)
    ]
    line = sorted({(d["x"], d["y"]) for d in drawn if d["front"]})
    accuracy = column.percent and column.higher_is_better
    y_max = max(p.value for p in points)
    return {
        "name": shown_name(column.name),
        "percent": column.percent,
        "lower": not column.higher_is_better,
        "points": drawn,
        "front": " ".join(f"{a},{b}" for a, b in line),
        "x_ticks": [(round(x(math.log10(v)), 1), f"{v:g}") for v in _log_ticks(x.low, x.high)],
        "y_ticks": [(round(y(v), 1), f"{v:g}") for v in _ticks(y.low, y.high)],
        "plot": (LEFT, TOP, WIDTH - RIGHT, HEIGHT - BOTTOM),
        "y_max": f"{y_max:.1f}" if accuracy and y_max > 0 else "",
        "curves": [
            {
                "name": shown_name(who),
                "colour": n % COLOURS,
                "shape": n // COLOURS % SHAPES,
                "aup": f"{aup(own, y_max):.1f}" if accuracy and y_max > 0 else "",
                "count": len(own),
            }
            for n, who in enumerate(curves)
            if (own := [(p.rho, p.value) for p in points if p.who == who])
        ],
    }


class _Scale:
    """A linear map from values with some room around them to places."""

    def __init__(self, values: Sequence[float], first: float, last: float) -> None:
        low, high = min(values), max(values)
        room = 0.08 * (high - low) or max(abs(high) * 0.1, 0.1)
        self.low, self.high = low - room, high + room
        self._first, self._last = first, last

    def __call__(self, value: float) -> float:
        share = (value - self.low) / (self.high - self.low)
        return self._first + share * (self._last - self._first)


def _ticks(low: float, high: float) -> list[float]:
    """Returns three to seven round numbers between two numbers."""
    step = 10.0 ** math.floor(math.log10((high - low) / 3))
    step *= next((m for m in (5, 2) if (high - low) / (m * step) >= 3), 1)
    first = math.ceil(low / step)
    return [float(f"{n * step:.6g}") for n in range(first, math.floor(high / step) + 1)]


def _log_ticks(low: float, high: float) -> list[float]:
    """Returns round numbers between two powers of ten; their exponents are given."""
    tens = range(math.floor(low), math.ceil(high) + 1)
    for digits in ((1,), (1, 2, 5), (1, 1.5, 2, 3, 4, 5, 7)):
        found = [d * 10.0**k for k in tens for d in digits]
        found = [float(f"{v:.3g}") for v in found if low <= math.log10(v) <= high]
        if len(found) >= 3:
            return found
    return _ticks(10**low, 10**high)
