"""The table at the end of a suite: each entry as measured, beside the published figure. It is printed,
and saved as a CSV.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from dlm_eval.harness.frontier import Estimate, Point, frontier, warnings_of
from dlm_eval.harness.suite_run import Outcome, SuiteFinished
from dlm_eval.output import one_line, table
from dlm_eval.printable import MARKDOWN
from dlm_eval.reports.files.csv_file import cell, csv_text
from dlm_eval.reports.files.row import WITHOUT_LENGTH
from dlm_eval.reports.files.write import write_files
from dlm_eval.settings import shown

HEADERS = ("entry", "metric", "measured", "published", "difference", "n", "note")
COLUMNS = (
    "suite", "digest", "model", "entry", "task", "metric", "filter", "measured", "stderr", "published", "difference", "n",
    "documents", "protocol", "finds_length", "without_length", "note", "reason",
)  # fmt: skip


def lines(finished: SuiteFinished) -> list[str]:
    """Returns the table of a finished suite and the settings that the user replaced, as lines."""
    plan = finished.plan
    columns: list[Sequence[str]] = [(*row(o), untold(o, finished)) for o in finished.outcomes]
    names: Sequence[str] = (*HEADERS, WITHOUT_LENGTH)
    align: Sequence[str] = ("left", "left", *["right"] * 4, "left", "right")
    if not any(cells[-1] for cells in columns):
        columns, names, align = [cells[:-1] for cells in columns], names[:-1], align[:-1]
    rows = [[MARKDOWN.sub(r"\\\g<0>", cell) for cell in cells] for cells in columns]
    found = [
        one_line(f"suite {plan.suite.suite} ({plan.suite.digest}), model {plan.model}"),
        "",
        table(rows, names, tablefmt="github", colalign=align),
        "",
    ]
    if any(o.deviation is not None for o in finished.outcomes):
        found.append(
            "difference: measured minus published, in standard errors (docs/reproduce/suites.md)"
        )
    found += frontier_lines(finished.points)
    if plan.overridden:
        words = ", ".join(f"--{name} {_given(value)}" for name, value in plan.overridden.items())
        found.append(one_line(f"overridden for all entries: {words}"))
    if failed := [o for o in finished.outcomes if o.reason]:
        found += [one_line(f"  {o.entry.entry}: {_reason(o)}") for o in failed]
    return found


def write_csv(finished: SuiteFinished) -> Path | None:
    """Writes the table as a CSV beside the first result file, with all digits; returns its path, or
    None if nothing was saved.

    Raises:
        UserError: it cannot be written.
    """
    saved = next((one.file for one in finished.finished if one.file is not None), None)
    if saved is None:
        return None
    plan = finished.plan
    date = saved.stem.removeprefix("results_")
    path = saved.with_name(f"suite_{plan.suite.suite}_{date}.csv")
    run = (plan.suite.suite, plan.suite.digest, plan.model)
    rows = [[cell(value) for value in (*run, *_values(o))] for o in finished.outcomes]
    write_files({path: csv_text(COLUMNS, rows)})
    return path


def _values(outcome: Outcome) -> Sequence[Any]:
    """Returns the values of one entry in a CSV, behind those of the run."""
    entry, scale = outcome.entry, outcome.entry.scale
    return (
        entry.entry,
        entry.task,
        outcome.metric or entry.metric,
        outcome.filter or entry.filter,
        None if outcome.value is None else outcome.value * scale,
        None if outcome.stderr is None else outcome.stderr * scale,
        outcome.published,
        outcome.deviation,
        outcome.count,
        outcome.total,
        entry.protocol,
        outcome.finds_length,
        entry.without_length,
        _note(outcome),
        outcome.reason,
    )


def _given(value: Any) -> str:
    """Returns the value of an option as it is given on the command line."""
    if isinstance(value, Mapping):
        return shown(",".join(f"{key}={one}" for key, one in value.items()))
    return f"{value:g}" if isinstance(value, float) else shown(value)


def frontier_lines(points: Sequence[Point]) -> list[str]:
    """Returns the table of a judge's perplexity against entropy, and its warnings, as lines.

    There is none for a single run.
    """
    if len(points) < 2:
        return []
    best = frontier(points)
    rows = [
        (
            point.task,
            point.label,
            _with_error(point.perplexity),
            _with_error(point.entropy),
            "yes" if point in best else "",
        )
        for point in points
    ]
    judges = ", ".join(dict.fromkeys(point.judge for point in points))
    headers = ("task", "sampler", f"perplexity of {judges}", "sample entropy", "not beaten in both")
    marked = [[MARKDOWN.sub(r"\\\g<0>", cell) for cell in cells] for cells in rows]
    aligned = ("left", "left", "right", "right", "left")
    found = ["", table(marked, headers, tablefmt="github", colalign=aligned), ""]
    return [*found, *(one_line(f"warning: {text}") for text in warnings_of(points))]


def _with_error(estimate: Estimate) -> str:
    error = "" if estimate.stderr is None else f" ± {estimate.stderr:.3g}"
    return f"{estimate.value:.4g}{error}"


def row(outcome: Outcome) -> Sequence[str]:
    """Returns the cells of one entry."""
    entry = outcome.entry
    metric = outcome.metric or entry.metric or ""
    if outcome.filter not in ("", "none"):
        metric += f" ({outcome.filter})"
    return (
        entry.entry,
        metric,
        measured(outcome),
        "" if outcome.published is None else f"{outcome.published:g}",
        "" if outcome.deviation is None else f"{outcome.deviation:+.1f}",
        "" if outcome.count is None else str(outcome.count),
        _note(outcome),
    )


def untold(outcome: Outcome, finished: SuiteFinished) -> str:
    """Returns the figure of an entry for which the model was not told the length of the answer: that of
    the entry that it names (`without_length`), or its own if the decoder found the length. "" if there
    is none, or if it stands beside the entry that names it.
    """
    if other := outcome.entry.without_length:
        return next(measured(o) for o in finished.outcomes if o.entry.entry == other)
    named = any(o.entry.without_length == outcome.entry.entry for o in finished.outcomes)
    return measured(outcome) if outcome.finds_length and not named else ""


def measured(outcome: Outcome) -> str:
    """Returns the figure of an entry with its standard error; "" if there is none."""
    scale = outcome.entry.scale
    figure = "" if outcome.value is None else f"{outcome.value * scale:.2f}"
    return figure if outcome.stderr is None else f"{figure} ± {outcome.stderr * scale:.2f}"


def _note(outcome: Outcome) -> str:
    """Returns how far the protocol is from the source's, and why there is no figure or difference."""
    if outcome.reason:
        return "skipped" if outcome.skipped else "failed"
    notes = [f"{outcome.entry.protocol} protocol"] if outcome.entry.protocol else []
    notes = ["overridden"] if outcome.replaced else notes
    if outcome.incomparable and outcome.incomparable not in notes:
        notes.append(outcome.incomparable)
    if outcome.count is not None and outcome.total is not None and outcome.count < outcome.total:
        notes.append(f"{outcome.count} of {outcome.total} documents")
    if outcome.approximation:
        notes.append(outcome.approximation)
    return ", ".join(notes)


def _reason(outcome: Outcome) -> str:
    return f"skipped: {outcome.reason}" if outcome.skipped else outcome.reason
