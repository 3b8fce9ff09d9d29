"""Checks of a suite's entries against their loaded tasks."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from dlm_eval.decoding import resolve
from dlm_eval.errors import UserError
from dlm_eval.harness.code_tasks import ways
from dlm_eval.harness.decode_config import DecodeOptions
from dlm_eval.harness.infill import InfillTask
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
    if (conditions.decode or {}).get("lengths") and any(map(_tells_length, tasks.values())):
        yield (
            "decode lengths are tried, and its task tells the length (infill length oracle), also to"
            " a model that takes no decode settings; take a task with a fixed length"
        )
    yield from _undecodable(conditions.decode, tasks)
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
        known = {name for task in tasks.values() for name in _metrics(task)}
        base = entry.metric.partition("_maj@")[0].partition("_pass@")[0].partition("_vote@")[0]
        if entry.metric not in known and base not in known:
            yield f"metric '{entry.metric}' is not one of {', '.join(sorted(known))}"
    if entry.filter is not None:
        pipelines = {f.name for task in tasks.values() for f in getattr(task, "_filters", ())}
        if entry.filter not in pipelines:
            yield f"filter '{entry.filter}' is not one of {', '.join(sorted(pipelines))}"


def _undecodable(decode: Mapping[str, Any] | None, tasks: Mapping[str, Any]) -> Iterator[str]:
    """Yields what is wrong with an entry's decode settings on top of its tasks'."""
    if not decode or decode.get("preset") == "authors":
        return
    try:
        for name, task in tasks.items():
            if task.OUTPUT_TYPE == "generate_until":
                ask = DecodeOptions(decode).request(task.config.generation_kwargs or {}, name)
                resolve(*ask.layers)
    except UserError as error:
        yield str(error)


def _tells_length(task: Any) -> bool:
    return isinstance(task, InfillTask) and "oracle" in task.infill.length


def _metrics(task: Any) -> Iterator[str]:
    """Yields the metrics of a task's results. A function with numbers `k` gives pass@k of each."""
    numbers = {
        _name(metric["metric"]): metric["k"]
        for metric in task.config.metric_list or ()
        if "k" in metric
    }
    for metric in map(str, task.aggregation()):
        yield from (f"pass@{k}" for k in numbers[metric]) if metric in numbers else (metric,)


def _name(metric: Any) -> str:
    return metric if isinstance(metric, str) else str(metric.__name__)
