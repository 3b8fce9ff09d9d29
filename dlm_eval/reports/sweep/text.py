"""What a sweep prints: a table and the AUP of each task."""

from __future__ import annotations

from collections.abc import Iterator

from dlm_eval.output import one_line, table
from dlm_eval.reports.files.row import WITHOUT_LENGTH
from dlm_eval.reports.sweep.curves import Sweep
from dlm_eval.reports.sweep.points import Point, words_of

WORDINGS = "worst to best wording"
IF_ANY = (WORDINGS, WITHOUT_LENGTH)  # columns that are left out if no row has them


def sweep_lines(sweep: Sweep) -> Iterator[str]:
    """Yields the tables of a sweep, each with the AUP of its curves."""
    for task in sweep.tasks():
        yield f"\n{one_line(f'{sweep.model} on {task}')}\n{_table(sweep, task)}"
        for curve in sweep.curves(task):
            if curve.aup is not None:
                name = one_line(curve.name or "sweep")
                known = f"y_max {curve.y_max:.2f} %, {sweep.y_max_source}"
                yield f"AUP {curve.aup:.2f}  {name}  ({known})"


def _table(sweep: Sweep, task: str) -> str:
    points, front, baseline = sweep.of(task), sweep.front(task), sweep.baseline(task)
    rows = [_cells(p, p in front, baseline) for p in points]
    headers = [
        "decode", points[0].metric, WORDINGS, "forwards/sample", "tokens/forward", "tokens/s",
        "computed/sample", "minus baseline (95 %)", "Pareto", WITHOUT_LENGTH,
    ]  # fmt: skip
    kept = [i for i, name in enumerate(headers) if name not in IF_ANY or any(r[i] for r in rows)]
    return table([[row[i] for i in kept] for row in rows], [headers[i] for i in kept])


def _cells(p: Point, on_front: bool, baseline: Point | None) -> list[str]:
    between = p.low is not None and p.high is not None
    change = p.minus(baseline) if baseline is not None and not p.baseline else None
    mark = f" ({p.approximation})" if p.approximation else ""
    return [
        (p.curve if p.baseline else words_of(p.decode)) + mark,
        _number(p.value, 4) + (f" ± {p.stderr:.4f}" if p.stderr is not None else ""),
        f"{p.low:.4f} to {p.high:.4f}" if between else "",
        _number(p.forwards / p.samples if p.samples else None, 1),
        _number(p.tokens_per_forward, 3),
        _number(p.tokens_per_second, 1),
        _number(p.computed / p.samples if p.computed is not None and p.samples else None, 0),
        f"{change.difference:+.4f} ({change.low:+.4f} to {change.high:+.4f})" if change else "",
        "*" if on_front else "",
        "yes" if p.finds_length else "",
    ]


def _number(value: float | None, digits: int) -> str:
    return "" if value is None else f"{value:.{digits}f}"
