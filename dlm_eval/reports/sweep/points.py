"""Results of a sweep: the grid of decode settings, score and speed of each point, curves and the
Pareto front.

    words of --decode -> grid -> (runs) -> points -> mean over templates -> Pareto front, AUP ->
    CSV, plot

cli/sweep.py makes the plan and does the runs.
"""

from __future__ import annotations

import itertools
import math
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from dlm_eval.errors import UserError
from dlm_eval.printable import printable
from dlm_eval.redaction import redact_text
from dlm_eval.reports.files.csv_file import cell, csv_text
from dlm_eval.settings import split_commas

# Settings that trade quality for speed. They vary along a curve. All others distinguish curves.
SPEED = (
    "steps",
    "steps_per_block",
    "threshold",
    "factor",
    "entropy_bound",
    "editing_threshold",
    "num_to_transfer",
)
AUP_ALPHA = 3.0
AUP_DROP = 5.0  # percent points; points further below the slowest point do not count
BASELINE = "one token per step"
PANEL = (6.4, 4.8)  # inches
ACROSS = 3
# Colours of Okabe and Ito, which colour-blind readers can distinguish. The front is black and the
# baseline grey.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
MARKERS = "osD^vPX"


@dataclass(frozen=True)
class Point:
    """The result of one combination of settings on one task.

    Attributes:
        task: a task, or a question that several templates ask.
        template: the task of one template if there are several; '' for their mean.
        decode: the settings of the grid.
        baseline: whether it is the one-token-per-step baseline.
        metric, metric_filter: metric and filter of `value`.
        value: the score; None if no sample could be scored.
        stderr: standard error of `value`; for a mean over templates the mean of their standard
            errors, which is an upper bound.
        low, high: scores of the worst and the best template of a mean.
        templates: number of templates in the mean.
        samples, errors: number of documents, and of failed documents.
        forwards, tokens, seconds: model calls, visible tokens and model seconds of all samples.
        better: whether higher values are better.
        results: name of the results file.
    """

    task: str
    template: str
    decode: Mapping[str, str]
    baseline: bool
    metric: str
    metric_filter: str
    value: float | None
    stderr: float | None
    samples: int
    errors: int
    forwards: int
    tokens: int
    seconds: float
    better: bool = True
    low: float | None = None
    high: float | None = None
    templates: int = 1
    results: str = ""

    @property
    def tokens_per_forward(self) -> float | None:
        """Parallelism rho: visible tokens per model call of the sample."""
        return self.tokens / self.forwards if self.forwards and self.tokens else None

    @property
    def tokens_per_second(self) -> float | None:
        """Visible tokens per second of model time."""
        return self.tokens / self.seconds if self.seconds > 0 else None

    @property
    def curve(self) -> str:
        """The settings that all points on the same curve share."""
        return (
            BASELINE
            if self.baseline
            else ", ".join(f"{k}={v}" for k, v in self.decode.items() if k not in SPEED)
        )

    @property
    def pace(self) -> str:
        """The settings that distinguish points on the same curve."""
        return ", ".join(f"{k}={v}" for k, v in self.decode.items() if k in SPEED)


def grid(groups: Sequence[Sequence[str]]) -> list[dict[str, str]]:
    """Returns all combinations of settings, group by group, without duplicates.

    Args:
        groups: the words of each --decode, for example "steps=8,16". A comma outside brackets
            separates alternatives.

    Raises:
        UserError: a word is not key=value[,value...], or a group has a key twice.
    """
    points: list[dict[str, str]] = []
    for words in groups:
        axes = _axes(words)
        for values in itertools.product(*axes.values()):
            point = dict(zip(axes, values, strict=True))
            if point not in points:
                points.append(point)
    return points


def _axes(words: Sequence[str]) -> dict[str, list[str]]:
    axes: dict[str, list[str]] = {}
    wrong = UserError(
        f"--decode '{' '.join(words)}' is not of the form key=value[,value...] key=value[,value...]"
    )
    for part in split_commas(",".join(words)):
        named = re.match(r"(\w+)\s*=\s*(.*)", part, re.DOTALL)
        if named and named[1] in axes:
            raise UserError(
                f"--decode {named[1]} is given twice; write its alternatives with commas: "
                f"{named[1]}=VALUE,VALUE"
            )
        if named:
            axes[named[1]] = []
        value = named[2] if named else part
        if not axes or not value:
            raise wrong
        axes[next(reversed(axes))].append(value)
    if not axes:
        raise wrong
    return axes


def mean_of_templates(points: Sequence[Point]) -> Point:
    """Returns the mean over the templates of a question for one combination of settings."""
    values = [p.value for p in points if p.value is not None]
    errors = [p.stderr for p in points if p.stderr is not None]
    whole = len(values) == len(points)
    return replace(
        points[0],
        template="",
        value=math.fsum(values) / len(values) if whole else None,
        stderr=math.fsum(errors) / len(errors) if len(errors) == len(points) else None,
        low=min(values) if whole else None,
        high=max(values) if whole else None,
        templates=len(points),
        samples=sum(p.samples for p in points),
        errors=sum(p.errors for p in points),
        forwards=sum(p.forwards for p in points),
        tokens=sum(p.tokens for p in points),
        seconds=math.fsum(p.seconds for p in points),
        results="",
    )


def pareto(points: Sequence[tuple[float, float]]) -> list[bool]:
    """Returns [n] bool, true at points that no other point dominates.

    Args:
        points: [n] (tokens per forward, quality), higher is better in both.
    """
    return [
        not any(r >= rho and q >= y and (r, q) != (rho, y) for r, q in points) for rho, y in points
    ]


def aup(points: Iterable[tuple[float, float]], y_max: float) -> float:
    """Returns AUP, accuracy under parallelism (arXiv 2601.07568).

    AUP is the area under accuracy against tokens per forward, with low accuracies weighted down:

        AUP = rho_1 y_1 + 1/2 sum_i (rho_i - rho_{i-1}) (y_i W(y_i) + y_{i-1} W(y_{i-1}))
        W(y) = min(exp(-3 (1 - y / y_max)), 1)

    Points are ordered by ascending rho. Points more than 5 percent points below y_1 are excluded.
    If several points have the same rho, only the best counts.

    Args:
        points: (tokens per forward rho, accuracy y in percent).
        y_max: best known accuracy on the task, in percent.

    Raises:
        UserError: y_max is not above 0 although an accuracy is.
    """
    best: dict[float, float] = {}
    for rho, y in points:
        best[rho] = max(y, best.get(rho, y))
    if not best or not any(best.values()):
        return 0.0
    if y_max <= 0:
        raise UserError(f"--y_max '{y_max:g}' is not allowed; it must be above 0 (percent)")
    ordered = sorted(best.items())
    first_rho, first_y = ordered[0]
    kept = [
        (rho, y * min(math.exp(-AUP_ALPHA * (1 - y / y_max)), 1.0))
        for rho, y in ordered
        if y >= first_y - AUP_DROP
    ]
    areas = [(rho - r) * (weighed + w) / 2 for (r, w), (rho, weighed) in itertools.pairwise(kept)]
    return first_rho * first_y + math.fsum(areas)


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

    def front(self, task: str) -> list[Point]:
        """Returns the Pareto front, slowest first."""
        placed = [(p, p.tokens_per_forward, p.value) for p in self.of(task)]
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
        return sorted(best, key=lambda p: p.tokens_per_forward or 0.0)

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
        ]  # fmt: skip
        rows = []
        for task in self.tasks():
            front = self.front(task)
            worded = [p for p in self.points if p.task == task and p.template]
            rows += [self._row(p, keys, p in front) for p in self.of(task)] + [
                self._row(p, keys, None) for p in worded
            ]
        return csv_text(columns, rows)

    def _row(self, p: Point, keys: Sequence[str], on_front: bool | None) -> list[str]:
        values = [
            *(self.model, p.task, p.template, "baseline" if p.baseline else "point", p.curve), *(p.decode.get(key) for key in keys),
            *(p.metric, p.metric_filter, p.value, p.stderr, p.low, p.high, p.templates, p.samples, p.errors),
            *(p.forwards / p.samples if p.samples else None, p.tokens_per_forward, p.tokens_per_second, on_front, p.results),
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


# -- plot ------------------------------------------------------------------------------------------


def draw(sweep: Sweep, path: Path) -> None:
    """Writes the plot atomically, in the format given by the suffix of `path`.

    Bars are standard errors, or the range from the worst to the best of several templates.

    Raises:
        UserError: the file cannot be written.
    """
    from matplotlib.figure import Figure

    tasks = sweep.tasks()
    across = min(ACROSS, max(1, len(tasks)))
    down = -(-len(tasks) // across)
    figure = Figure(figsize=(PANEL[0] * across, PANEL[1] * down), layout="constrained")
    panels = figure.subplots(down, across, squeeze=False).flatten()
    for panel, task in zip(panels, tasks, strict=False):
        _panel(panel, sweep, task)
    for panel in panels[len(tasks) :]:
        panel.set_axis_off()
    temporary = path.with_name(f".{path.stem}.{os.getpid()}.tmp{path.suffix}")
    try:
        figure.savefig(temporary, dpi=150)
        os.replace(temporary, path)
    except OSError as error:
        raise UserError(f"output '{path}' cannot be written: {error.strerror or error}") from error
    finally:
        temporary.unlink(missing_ok=True)


def _panel(panel: Any, sweep: Sweep, task: str) -> None:
    points = sweep.of(task)
    for number, curve in enumerate(sweep.curves(task)):
        _curve(panel, curve, COLOURS[number % len(COLOURS)], MARKERS[number % len(MARKERS)])
    for point in points:
        if point.baseline and point.value is not None and point.tokens_per_forward is not None:
            panel.axhline(point.value, color="0.45", linestyle="--", linewidth=1, zorder=1)
            label = f"baseline: {BASELINE}"
            look = {"fmt": "*", "markersize": 12, "color": "0.35", "label": label}
            panel.errorbar([point.tokens_per_forward], [point.value], yerr=_bars([point]), **look)
    front = [(p.tokens_per_forward, p.value) for p in sweep.front(task)]
    if front:
        panel.plot(*zip(*front, strict=True), color="black", linewidth=1, linestyle=":", zorder=4)
        rings = {
            "facecolors": "none",
            "edgecolors": "black",
            "linewidths": 1.3,
            "s": 130,
            "zorder": 5,
        }
        panel.scatter(*zip(*front, strict=True), label="Pareto front", **rings)
    _frame(panel, points, sweep.model, task)
    _legend(panel, sweep, task)


def _curve(panel: Any, curve: Curve, colour: str, marker: str) -> None:
    rho, values = [p.tokens_per_forward for p in curve.points], [p.value for p in curve.points]
    several = len({p.pace.split("=")[0] for p in curve.points}) > 1 or any(
        "," in p.pace for p in curve.points
    )
    by = (
        ""
        if several or not curve.points[0].pace
        else f" by {curve.points[0].pace.partition('=')[0]}"
    )
    label = _label((curve.name or "sweep") + by) + (
        f"  (AUP {curve.aup:.1f})" if curve.aup is not None else ""
    )
    look = {
        "color": colour,
        "marker": marker,
        "markersize": 6,
        "linewidth": 1.5,
        "elinewidth": 1,
        "capsize": 2,
    }
    _, caps, bars = panel.errorbar(rho, values, yerr=_bars(curve.points), label=label, **look)
    for part in (*caps, *bars):
        part.set_alpha(0.45)  # bars of several curves overlap
    for point in curve.points:
        note = point.pace if several else point.pace.partition("=")[2]
        place = (point.tokens_per_forward, point.value)
        panel.annotate(
            _label(note), place, xytext=(6, 5), textcoords="offset points", fontsize=8, color=colour
        )


def _bars(points: Any) -> list[list[float]]:
    """Returns [2, n]: the lengths of the bars below and above each value."""
    below, above = [], []
    for point in points:
        value, error = point.value, point.stderr or 0.0
        low, high = (value - error, value + error) if point.low is None else (point.low, point.high)
        below.append(max(0.0, value - low))
        above.append(max(0.0, high - value))
    return [below, above]


def _frame(panel: Any, points: list[Point], model: str, task: str) -> None:
    templates = max((p.templates for p in points), default=1)
    metric = points[0].metric if points else ""
    several = f", mean of {templates} templates (bars: worst to best)" if templates > 1 else ""
    panel.set_title(_label(f"{model} on {task}"), fontsize=11)
    panel.set_ylabel(_label(metric + several), fontsize=9)
    panel.set_xlabel("tokens per forward")
    panel.set_xscale("log", base=2)
    panel.xaxis.set_major_formatter(lambda x, _: f"{x:g}")
    panel.margins(x=0.12, y=0.15)
    panel.grid(alpha=0.25)
    if all(0 <= (p.value or 0.0) <= 1 for p in points):
        low, high = panel.get_ylim()
        panel.set_ylim(max(low, -0.03), min(high, 1.03))  # a share


def _legend(panel: Any, sweep: Sweep, task: str) -> None:
    if not panel.get_legend_handles_labels()[0]:
        return
    scored = [curve for curve in sweep.curves(task) if curve.aup is not None]
    title = f"AUP with y_max {scored[0].y_max:.1f} % ({sweep.y_max_source})" if scored else None
    place = {"loc": "upper center", "bbox_to_anchor": (0.5, -0.13), "ncols": 2}
    panel.legend(fontsize=8, frameon=False, title=title, title_fontsize=8, **place)


def _label(text: str) -> str:
    # Matplotlib reads text between two of them as mathematics.
    return printable(redact_text(text)).replace("$", r"\$")
