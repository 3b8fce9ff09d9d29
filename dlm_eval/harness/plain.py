"""Metrics as plain Python values: a scorer may return numpy's or torch's, which lm-eval would write into its files as text."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np


def plain(value: Any) -> Any:
    """Returns a value with every number of numpy or torch in it as Python's own."""
    import torch

    if isinstance(value, (np.generic, np.ndarray, torch.Tensor)):
        return value.tolist()
    if isinstance(value, Mapping):
        return {key if isinstance(key, str) else str(plain(key)): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(map(plain, value)) if type(value) in (list, tuple) else [plain(item) for item in value]
    return value


def make_plain(results: dict[str, Any]) -> None:
    """Makes all metrics of lm-eval's results plain, those of samples too."""
    for kind in ("results", "groups"):
        if kind in results:
            results[kind] = {name: plain(scores) for name, scores in results[kind].items()}
    for samples in (results.get("samples") or {}).values():
        for sample in samples:
            sample.update({metric: plain(sample[metric]) for metric in sample["metrics"]})


def metrics_of(scores: Mapping[str, Any]) -> dict[tuple[str, str], Any]:
    """Returns (metric, filter) -> value of one task or group of results; a metric that is a mapping is a metric for each of its keys."""
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


def unmet(groups: Mapping[str, Any], results: Mapping[str, Any]) -> dict[str, list[str]]:
    """Returns the metrics that groups are to sum up and of which none of their tasks has a value, by group.

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
