"""lm-eval's results prepared for files and display: plain numbers, no secrets, and failed samples."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from types import FunctionType
from typing import Any

import numpy as np

from dlm_eval.harness.requests import HOLE, Hole
from dlm_eval.redaction import redact, redact_values

DEEPEST = 100  # maximum depth of nested containers


def json_value(value: Any, above: tuple[int, ...] = ()) -> Any:
    """Returns a value that JSON can represent. Cycles are cut; keys and objects become text.

    Args:
        value: any object.
        above: identities of the containers around it.
    """
    if isinstance(value, (str, int, float, type(None))):
        return value
    if isinstance(value, (Mapping, list, tuple, set, frozenset)):
        if id(value) in above or len(above) > DEEPEST:
            return "..."
        inside = (*above, id(value))
        if isinstance(value, Mapping):
            return {
                key if isinstance(key, str) else as_text(key): json_value(item, inside) for key, item in value.items()
            }
        return [json_value(item, inside) for item in value]
    return value.item() if isinstance(value, np.generic) else as_text(value)


def as_text(value: Any) -> str:
    """Returns an object as text, or its type if `__str__` raises."""
    try:
        return str(value)
    except Exception:
        return f"<{type(value).__name__}>"


def python_numbers(value: Any) -> Any:
    """Returns a value with all numpy and torch numbers converted to Python's."""
    import torch

    if isinstance(value, (np.generic, np.ndarray, torch.Tensor)):
        return value.tolist()
    if isinstance(value, Mapping):
        return {
            key if isinstance(key, str) else str(python_numbers(key)): python_numbers(item)
            for key, item in value.items()
        }
    if isinstance(value, (list, tuple)):
        return (
            type(value)(map(python_numbers, value))
            if type(value) in (list, tuple)
            else [python_numbers(item) for item in value]
        )
    return value


def make_plain(results: dict[str, Any]) -> None:
    """Converts all numbers of lm-eval's results to Python's, since lm-eval would write numpy's as
    text.
    """
    for kind in ("results", "groups"):
        if kind in results:
            results[kind] = {name: python_numbers(scores) for name, scores in results[kind].items()}
    for samples in (results.get("samples") or {}).values():
        for sample in samples:
            sample.update({metric: python_numbers(sample[metric]) for metric in sample["metrics"]})
            sample["arguments"] = [tuple(map(plain_argument, arguments)) for arguments in sample["arguments"]]


def plain_argument(argument: Any) -> Any:
    """Returns an argument of a request with its hole as plain data."""
    if not isinstance(argument, dict) or not isinstance(argument.get(HOLE), Hole):
        return argument
    return {**argument, HOLE: argument[HOLE].plain()}


def metrics_of(scores: Mapping[str, Any]) -> dict[tuple[str, str], Any]:
    """Returns (metric, filter) -> value of one task or group. A mapping is one metric per key."""
    found: dict[tuple[str, str], Any] = {}
    for key, value in scores.items():
        metric, comma, pipeline = str(key).partition(",")
        if comma and not metric.endswith("_stderr"):
            found |= {(name, pipeline): each for name, each in _parts(metric, value)}
    return found


def _parts(metric: str, value: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping):
        for key, item in value.items():
            yield from _parts(f"{metric}.{key}", item)
    else:
        yield metric, value


def unmet_aggregates(groups: Mapping[str, Any], results: Mapping[str, Any]) -> dict[str, list[str]]:
    """Returns, by group, the metrics to aggregate of which no task of the group has a value.

    Args:
        groups: lm-eval's, by name.
        results: lm-eval's, by task and group.
    """
    found = {}
    for name, group in groups.items():
        wanted = [entry.metric for entry in group.aggregate_metric_list or ()]
        have = {metric for metric, _ in metrics_of(results.get(name, {}))}
        if missing := [metric for metric in wanted if metric not in have]:
            found[name] = missing
    return found


def document_number(task: str, position: int | None, chosen: Mapping[str, Sequence[int]]) -> int | None:
    """Returns the number of a request's document in its task; lm-eval numbers only the documents of
    --samples.
    """
    return position if position is None or task not in chosen else chosen[task][position]


def unscored(tasks: Mapping[str, Any], chosen: Mapping[str, Sequence[int]]) -> dict[str, Any]:
    """Returns lm-eval's results of tasks that were answered but could not be scored: answers
    without metrics.
    """
    return {
        "results": {name: {"alias": name} for name in tasks},
        "samples": {name: [_unscored(request, chosen) for request in task._instances] for name, task in tasks.items()},
        **{key: {} for key in ("config", "configs", "versions", "n-shot", "higher_is_better", "n-samples")},
        "group_subtasks": {},
    }


def _unscored(request: Any, chosen: Mapping[str, Sequence[int]]) -> dict[str, Any]:
    hashes = dict.fromkeys(("doc_hash", "prompt_hash", "target_hash"), "")
    answered = {"arguments": [request.args], "resps": [request.resps], "filtered_resps": [], "metrics": []}
    number = document_number(request.task_name, request.doc_id, chosen)
    return {"doc_id": number, "doc": request.doc, "target": None, **answered, "filter": "none", **hashes}


def failed_samples(results: Mapping[str, Any]) -> dict[tuple[str, int], str]:
    """Returns the reasons of failed samples, by task and document."""
    return {
        (task, sample["doc_id"]): sample["error"]
        for task, rows in results["samples"].items()
        for sample in rows
        if "error" in sample
    }


def count_errors(results: Mapping[str, Any]) -> dict[str, int]:
    """Returns the number of failed documents, by task."""
    return dict(Counter(task for task, _ in failed_samples(results)))


def jsonable_config(config: Any) -> Any:
    """Returns a task's configuration with functions by name.

    lm-eval would write the memory addresses of functions inside filters.
    """
    if isinstance(config, dict):
        return {key: jsonable_config(value) for key, value in config.items()}
    if isinstance(config, list):
        return [jsonable_config(value) for value in config]
    return f"{config.__module__}.{config.__qualname__}" if isinstance(config, FunctionType) else config


def public_results(results: Mapping[str, Any]) -> dict[str, Any]:
    """Returns results without secrets and with valid Unicode.

    Settings are redacted by name and value, everything else only by value, since a task, metric or
    column may be called "password".
    """
    found: dict[str, Any] = {key: redact_values(value) for key, value in results.items() if key != "samples"}
    found["config"] = redact(found.get("config", {}))
    found["configs"] = {task: redact(config) for task, config in found.get("configs", {}).items()}
    ours = found.get("dlm_eval", {})
    if ours:
        found["dlm_eval"] = {**ours, "settings": redact(ours.get("settings", {}))}
    if "samples" in results:
        found["samples"] = {task: [_public_sample(s) for s in rows] for task, rows in results["samples"].items()}
    return found


def _public_sample(sample: Mapping[str, Any]) -> dict[str, Any]:
    """Returns a sample without secrets. Only the arguments of its requests are settings."""
    return {**redact_values(sample), "arguments": redact(sample["arguments"])}
