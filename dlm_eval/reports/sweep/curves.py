"""All results of a sweep: curves, Pareto front and AUP of each task, as data and as CSV."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from dlm_eval.reports.files.csv_file import cell, csv_text
from dlm_eval.reports.sweep.points import Point, mean_of_templates
from dlm_eval.reports.sweep.quality_speed import aup, pareto


class Axis(NamedTuple):
    """A measure of speed, for a plot and its Pareto front.

    Attributes:
        label: what is measured, in words.
        of: returns it; None if it is not known.
    """

    label: str
    of: Callable[[Point], float | None]


FORWARDS = Axis("tokens per forward", lambda p: p.tokens_per_forward)
COMPUTED = Axis("tokens per computed position", lambda p: p.tokens_per_computed)


@dataclass(frozen=True)
class Curve:
    """Points that differ only in speed settings, with their AUP (None without accuracy)."""

    task: str
    name: str
    points: tuple[Point, ...]
    y_max: float | None
    aup: float | None


@dataclass(frozen=True)
class Sweep:
    """All results of a sweep.

    Attributes:
        model: the model's name.
        points: points of all tasks and templates, in the order of the runs.
        y_max: best known accuracy in percent, for AUP; None takes the best of the sweep.
    """

    model: str
    points: list[Point] = field(default_factory=list)
    y_max: float | None = None

    @property
    def y_max_source(self) -> str:
        return "best of this sweep" if self.y_max is None else "given"

    def tasks(self) -> list[str]:
        """Returns the tasks or questions, in the order of the runs."""
        return list(dict.fromkeys(p.task for p in self.points))

    def of(self, task: str) -> list[Point]:
        """Returns a task's points, or their means if it has several templates."""
        own = [p for p in self.points if p.task == task]
        groups: dict[tuple[bool, tuple[tuple[str, str], ...]], list[Point]] = {}
        for point in own:
            groups.setdefault((point.baseline, tuple(point.decode.items())), []).append(point)
        return [
            mean_of_templates(group) if group[0].template else group[0] for group in groups.values()
        ]

    def baseline(self, task: str) -> Point | None:
        """Returns the one-token-per-step decoder on a task, if the sweep has it."""
        return next((p for p in self.of(task) if p.baseline), None)

    def front(self, task: str, axis: Axis = FORWARDS) -> list[Point]:
        """Returns the Pareto front, slowest first."""
        placed = [(p, axis.of(p), p.value) for p in self.of(task)]
        known = [
            (p, rho, y if p.better else -y)
            for p, rho, y in placed
            if rho is not None and y is not None
        ]
        best = [
            p
            for (p, *_), on in zip(known, pareto([(rho, y) for _, rho, y in known]), strict=True)
            if on
        ]
        return sorted(best, key=lambda p: axis.of(p) or 0.0)

    def curves(self, task: str) -> list[Curve]:
        """Returns the curves of a task, slowest point first."""
        points = [
            p for p in self.of(task) if p.value is not None and p.tokens_per_forward is not None
        ]
        y_max = (
            self.y_max
            if self.y_max is not None
            else max((100 * (p.value or 0.0) for p in points), default=None)
        )
        accuracy = all(p.better and 0 <= (p.value or 0.0) <= 1 for p in points)
        curves = []
        for name in dict.fromkeys(p.curve for p in points if not p.baseline):
            own = sorted(
                (p for p in points if p.curve == name and not p.baseline),
                key=lambda p: p.tokens_per_forward or 0.0,
            )
            pairs = [(p.tokens_per_forward or 0.0, 100 * (p.value or 0.0)) for p in own]
            area = aup(pairs, y_max) if accuracy and y_max is not None else None
            curves.append(Curve(task, name, tuple(own), y_max if accuracy else None, area))
        return curves

    def csv(self) -> str:
        """Returns one row per point (and per mean over templates) as CSV text."""
        keys = list(dict.fromkeys(key for p in self.points if not p.baseline for key in p.decode))
        columns = [
            *("model", "task", "template", "role", "curve"), *(f"decode.{key}" for key in keys),
            *("metric", "filter", "value", "stderr", "low", "high", "templates", "samples", "errors"),
            *("forwards_per_sample", "tokens_per_forward", "tokens_per_second", "pareto", "results"),
            *("computed_per_sample", "tokens_per_computed", "pareto_computed"),
            *("minus_baseline", "minus_baseline_low", "minus_baseline_high", "p", "finds_length", "approximation"),
        ]  # fmt: skip
        rows = []
        for task in self.tasks():
            fronts = [self.front(task, axis) for axis in (FORWARDS, COMPUTED)]
            baseline = self.baseline(task)
            worded = [p for p in self.points if p.task == task and p.template]
            rows += [
                self._row(p, keys, [p in front for front in fronts], baseline)
                for p in self.of(task)
            ] + [self._row(p, keys, [None, None], None) for p in worded]
        return csv_text(columns, rows)

    def _row(
        self, p: Point, keys: Sequence[str], on_front: Sequence[bool | None], baseline: Point | None
    ) -> list[str]:
        change = p.minus(baseline) if baseline is not None and not p.baseline else None
        values = [
            *(self.model, p.task, p.template, "baseline" if p.baseline else "point", p.curve), *(p.decode.get(key) for key in keys),
            *(p.metric, p.metric_filter, p.value, p.stderr, p.low, p.high, p.templates, p.samples, p.errors),
            *(p.forwards / p.samples if p.samples else None, p.tokens_per_forward, p.tokens_per_second, on_front[0], p.results),
            *(p.computed / p.samples if p.computed is not None and p.samples else None, p.tokens_per_computed, on_front[1]),
            *((change.difference, change.low, change.high, change.p) if change else [None] * 4),
            "yes" if p.finds_length else None, p.approximation or None,
        ]  # fmt: skip
        return [cell(value) for value in values]

    def aup_csv(self) -> str:
        """Returns task, curve, points, AUP and its y_max, as CSV text."""
        curves = [curve for task in self.tasks() for curve in self.curves(task)]
        columns = ["model", "task", "curve", "points", "aup", "y_max", "y_max_source"]
        rows = []
        for c in curves:
            source = None if c.y_max is None else self.y_max_source
            rows.append((self.model, c.task, c.name, len(c.points), c.aup, c.y_max, source))
        return csv_text(columns, ([cell(value) for value in row] for row in rows))
