"""Checks of a suite's entries against their loaded tasks."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from dlm_eval.harness.code_tasks import ways
from dlm_eval.harness.suites import Entry

LIKELIHOOD = ("multiple_choice", "loglikelihood", "loglikelihood_rolling")


def problems(entry: Entry, loaded: Mapping[str, Any]) -> Iterator[str]:
    """Yields what of an entry does not fit its task.

    Args:
        loaded: the task of the entry, from `load_tasks`.
    """
    tasks: Mapping[str, Any] = loaded["tasks"]
    kinds = {task.OUTPUT_TYPE for task in tasks.values()}
    conditions = entry.conditions
    if conditions.repeats not in (None, 1) and "generate_until" not in kinds:
        yield "repeats are for tasks that generate text"
    if conditions.decode and "generate_until" not in kinds:
        yield "decode is for tasks that generate text"
    if conditions.estimator and not kinds & set(LIKELIHOOD):
        yield "estimator is for tasks that score likelihoods"
    runs_code = bool(ways(tasks))
    if runs_code != entry.code:
        yield (
            "its task runs generated code; say code: true"
            if runs_code
            else "code is true, and its task runs no generated code"
        )
    if entry.metric is not None:
        known = {str(metric) for task in tasks.values() for metric in task.aggregation()}
        base = entry.metric.partition("_maj@")[0].partition("_pass@")[0]
        if entry.metric not in known and base not in known:
            yield f"metric '{entry.metric}' is not one of {', '.join(sorted(known))}"
    if entry.filter is not None:
        pipelines = {f.name for task in tasks.values() for f in getattr(task, "_filters", ())}
        if entry.filter not in pipelines:
            yield f"filter '{entry.filter}' is not one of {', '.join(sorted(pipelines))}"
