"""The plot of a sweep."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from dlm_eval.errors import UserError
from dlm_eval.printable import printable
from dlm_eval.redaction import redact_text
from dlm_eval.reports.sweep.curves import COMPUTED, FORWARDS, Axis, Curve, Sweep
from dlm_eval.reports.sweep.points import BASELINE, Point

PANEL = (6.4, 4.8)  # inches
LINE = 0.17  # inches of a curve in the legend
ACROSS = 3
# Colours of Okabe and Ito, which colour-blind readers can distinguish. The front is black and the
# baseline grey.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
MARKERS = "osD^vPX"


def draw(sweep: Sweep, path: Path) -> None:
    """Writes the plot atomically, in the format given by the suffix of `path`.

    The first rows of panels show a score against tokens per forward, the last against tokens per
    computed position (if that is known). Bars are standard errors, or the range from the worst to the best of several templates.

    Raises:
        UserError: the file cannot be written.
    """
    from matplotlib.figure import Figure

    tasks = sweep.tasks()
    known = any(COMPUTED.of(point) is not None for point in sweep.points)
    axes = (FORWARDS, COMPUTED) if known else (FORWARDS,)
    across = min(ACROSS, max(1, len(tasks)))
    rows = -(-len(tasks) // across)
    down = rows * len(axes)
    named = max((len(sweep.curves(task)) for task in tasks), default=0)
    size = (PANEL[0] * across, (PANEL[1] + LINE * named) * down)
    figure = Figure(figsize=size, layout="constrained")
    panels = figure.subplots(down, across, squeeze=False).flatten()
    for number, axis in enumerate(axes):
        own = panels[number * rows * across : (number + 1) * rows * across]
        for panel, task in zip(own, tasks, strict=False):
            _panel(panel, sweep, task, axis)
        for panel in own[len(tasks) :]:
            panel.set_axis_off()
    temporary = path.with_name(f".{path.stem}.{os.getpid()}.tmp{path.suffix}")
    try:
        figure.savefig(temporary, dpi=150)
        os.replace(temporary, path)
    except OSError as error:
        raise UserError(f"output '{path}' cannot be written: {error.strerror or error}") from error
    finally:
        temporary.unlink(missing_ok=True)


def _panel(panel: Any, sweep: Sweep, task: str, axis: Axis) -> None:
    points = sweep.of(task)
    for number, curve in enumerate(sweep.curves(task)):
        _curve(panel, curve, axis, COLOURS[number % len(COLOURS)], MARKERS[number % len(MARKERS)])
    for point in points:
        if point.baseline and point.value is not None and axis.of(point) is not None:
            panel.axhline(point.value, color="0.45", linestyle="--", linewidth=1, zorder=1)
            label = f"baseline: {BASELINE}"
            look = {"fmt": "*", "markersize": 12, "color": "0.35", "label": label}
            panel.errorbar([axis.of(point)], [point.value], yerr=_bars([point]), **look)
    front = [(axis.of(p), p.value) for p in sweep.front(task, axis)]
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
    _frame(panel, points, sweep.model, task, axis)
    _legend(panel, sweep, task, axis)


def _curve(panel: Any, curve: Curve, axis: Axis, colour: str, marker: str) -> None:
    placed = sorted(
        ((speed, p) for p in curve.points if (speed := axis.of(p)) is not None),
        key=lambda pair: pair[0],
    )
    if not placed:
        return
    rho, values = [speed for speed, _ in placed], [p.value for _, p in placed]
    names = dict.fromkeys(name for _, p in placed for name in p.decode if name in p.speed_settings)
    varying = [name for name in names if len({p.decode.get(name) for _, p in placed}) > 1]
    by = f" by {', '.join(varying)}" if varying else ""
    scored = curve.aup is not None and axis is FORWARDS
    label = _label((curve.name or "sweep") + by) + (f"  (AUP {curve.aup:.1f})" if scored else "")
    look = {
        "color": colour,
        "marker": marker,
        "markersize": 6,
        "linewidth": 1.5,
        "elinewidth": 1,
        "capsize": 2,
    }
    _, caps, bars = panel.errorbar(
        rho, values, yerr=_bars([p for _, p in placed]), label=label, **look
    )
    for part in (*caps, *bars):
        part.set_alpha(0.45)  # bars of several curves overlap
    for speed, point in placed:
        note = ", ".join(point.decode.get(name, "-") for name in varying)
        place = (speed, point.value)
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


def _frame(panel: Any, points: list[Point], model: str, task: str, axis: Axis) -> None:
    templates = max((p.templates for p in points), default=1)
    metric = points[0].metric if points else ""
    several = f", mean of {templates} templates (bars: worst to best)" if templates > 1 else ""
    panel.set_title(_label(f"{model} on {task}"), fontsize=11)
    panel.set_ylabel(_label(metric + several), fontsize=9)
    panel.set_xlabel(axis.label)
    panel.set_xscale("log", base=2)
    panel.xaxis.set_major_formatter(lambda x, _: f"{x:.3g}")
    panel.margins(x=0.12, y=0.15)
    panel.grid(alpha=0.25)
    if all(0 <= (p.value or 0.0) <= 1 for p in points):
        low, high = panel.get_ylim()
        panel.set_ylim(max(low, -0.03), min(high, 1.03))  # a share


def _legend(panel: Any, sweep: Sweep, task: str, axis: Axis) -> None:
    if not panel.get_legend_handles_labels()[0]:
        return
    scored = [c for c in sweep.curves(task) if c.aup is not None and axis is FORWARDS]
    title = f"AUP with y_max {scored[0].y_max:.1f} % ({sweep.y_max_source})" if scored else None
    place = {"loc": "upper center", "bbox_to_anchor": (0.5, -0.13)}
    panel.legend(fontsize=8, frameon=False, title=title, title_fontsize=8, **place)


def _label(text: str) -> str:
    # Matplotlib reads text between two of them as mathematics.
    return printable(redact_text(text)).replace("$", r"\$")
