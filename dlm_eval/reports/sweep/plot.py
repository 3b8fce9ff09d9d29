"""The plot of a sweep."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from dlm_eval.errors import UserError
from dlm_eval.printable import printable
from dlm_eval.redaction import redact_text
from dlm_eval.reports.sweep.curves import Curve, Sweep
from dlm_eval.reports.sweep.points import BASELINE, Point

PANEL = (6.4, 4.8)  # inches
ACROSS = 3
# Colours of Okabe and Ito, which colour-blind readers can distinguish. The front is black and the
# baseline grey.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
MARKERS = "osD^vPX"


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
