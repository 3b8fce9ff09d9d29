"""The plan of a dry run, as text."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from dlm_eval.harness.plan import Plan, TaskPlan
from dlm_eval.output import one_line, table
from dlm_eval.printable import counted

HEADERS = ("task", "documents", "requests", "known", "tokens", "forwards", "to run", "longest", "cut", "refused")  # fmt: skip
# Columns for models that are not our denoisers, by what was counted.
TEXTS = {
    "texts": ("task", "documents", "requests", "known", "to ask", "refused"),
    "recorded": ("task", "documents", "requests", "known", "refused"),
    "requests": ("task", "documents", "requests"),
}
COLUMNS = {"task": "name", "documents": "documents", "requests": "requests", "known": "known", "to ask": "to_ask", "refused": "refused"}  # fmt: skip
REASONS = 5  # most frequent reasons that are shown


def lines(plan: Plan) -> Iterator[str]:
    """Yields the plan line by line."""
    tasks = [*plan.tasks, *([plan.total] if len(plan.tasks) > 1 else [])]
    yield f"dry run of {one_line(plan.model)}: nothing run, nothing written"
    yield ""
    if plan.counted != "jobs":
        yield from _of_texts(plan, tasks)
    else:
        yield table([_row(task) for task in tasks], HEADERS, tablefmt="github")
        yield ""
        yield from _facts(plan)
    for note in plan.notes:
        yield f"note: {one_line(note)}"


def total_lines(plans: Sequence[Plan]) -> Iterator[str]:
    """Yields the sum of the plans of a suite's runs, if there are several of our denoisers."""
    counted_jobs = [plan for plan in plans if plan.counted == "jobs"]
    if len(counted_jobs) < 2:
        return
    totals = [plan.total for plan in counted_jobs]
    forwards = sum(total.forwards_left for total in totals)
    positions = sum(total.positions_left for total in totals)
    more = "+?" if any(total.unbounded for total in totals) else ""
    hours = [plan.hours for plan in counted_jobs if plan.hours is not None]
    time = (
        f"{_hours(sum(hours))}{more} at most on {counted(counted_jobs[0].devices, 'device')}"
        if len(hours) == len(counted_jobs)
        else "not known"
    )
    yield (
        f"all {len(counted_jobs)} runs: {forwards}{more} forwards to run, {positions}{more} positions;"
        f" time: {time}"
    )


def _of_texts(plan: Plan, tasks: list[TaskPlan]) -> Iterator[str]:
    """Yields the plan of a model that is not one of our denoisers."""
    columns = TEXTS[plan.counted]
    rows = [tuple(vars(task)[COLUMNS[name]] for name in columns) for task in tasks]
    yield table(rows, columns, tablefmt="github")
    yield ""
    yield from _refused(plan.total)
    if plan.counted == "recorded":
        yield "known: answers in the file; no model is run"
        return
    if plan.counted == "texts":
        yield "to ask: requests without a known answer, equal ones once"
        yield _journal(plan)
        yield "one of lm-eval's own models: its tokens, forwards and memory are not known here"
        return
    yield (
        "one of lm-eval's own models, which is not loaded here: its tokens, forwards and memory are"
        " not known, and its answers are not looked up in the journal"
    )


def _refused(total: TaskPlan) -> Iterator[str]:
    for reason, count in total.reasons.most_common(REASONS):
        yield f"refused: {counted(count, 'request')}: {one_line(reason)}"


def _journal(plan: Plan) -> str:
    if not plan.journal:
        return "journal: none yet"
    total = plan.total
    return (
        f"journal: {one_line(plan.journal)}, {total.known} of {total.requests} requests are known"
    )


def _row(task: TaskPlan) -> tuple[str, ...]:
    more = "+?" if task.unbounded else ""
    numbers = (task.documents, task.requests, task.known, task.tokens)
    rest = (task.longest, task.truncated, task.refused)
    return (
        task.name,
        *map(str, numbers),
        f"{task.forwards}{more}",
        f"{task.forwards_left}{more}",
        *map(str, rest),
    )


def _facts(plan: Plan) -> Iterator[str]:
    total, memory, rate = plan.total, plan.memory, plan.rate
    yield (
        "forwards: those of all requests, at most (early exits save some); to run: without known"
        " answers, equal requests once"
    )
    if total.unbounded:
        yield (
            f"+?: the decoder of {counted(total.unbounded, 'request')} has no known maximum; they are"
            " in no count of forwards, positions and time"
        )
    if total.truncated:
        yield f"cut: {counted(total.truncated, 'request', 'do')} not fit the model and lose the left part of their contexts"
    yield from _refused(total)
    yield _journal(plan)
    if memory is not None:
        weights = f"{_bytes(memory.weights)} ({memory.dtype})" if memory.weights else "not known"
        yield (
            f"memory: weights {weights}; a row of {counted(total.longest, 'position')}: logits"
            f" {_bytes(memory.row_logits)}, activations {_bytes(memory.row_activations)}, KV cache"
            f" {_bytes(memory.row_cache)}"
        )
    more = "+?" if total.unbounded else ""
    if rate is None or plan.hours is None:
        yield (
            f"time: {total.positions_left}{more} positions to run on {counted(plan.devices, 'device')};"
            " no speed is known, since the journal has no earlier run of this model"
        )
        return
    where = "" if rate.same_devices else ", with other --devices"
    yield (
        f"time: {_hours(plan.hours)}{more} at most on {counted(plan.devices, 'device')}, without loading and"
        f" scoring: {total.positions_left}{more} positions at {rate.per_second:.0f} a second and device"
        f" (measured over {rate.seconds:.0f} s of earlier runs"
        f"{' on ' + one_line(', '.join(rate.devices)) if rate.devices else ''}{where})"
    )


def _bytes(count: int | None) -> str:
    """Returns a size in the unit that fits."""
    if count is None:
        return "not measured"
    for unit, size in (("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)):
        if count >= size:
            return f"{count / size:.1f} {unit}"
    return f"{count} bytes"


def _hours(hours: float) -> str:
    """Returns a time in the unit that fits."""
    if hours >= 1:
        return f"{hours:.1f} h"
    return f"{hours * 60:.1f} min" if hours >= 1 / 60 else f"{hours * 3600:.0f} s"
