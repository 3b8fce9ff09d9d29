"""Metrics that a task's code loads by name while it scores (`evaluate.load("rouge")`): tried before the model is loaded, not after it has answered."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Mapping
from typing import Any

from dlm_eval.errors import UserError
from dlm_eval.harness.code_scan import MODULE, SCRIPT, reach
from dlm_eval.harness.code_tasks import starts
from dlm_eval.metrics.code_eval import METRIC

LOAD = re.compile(r"evaluate\.load\((.+)\)")


def check_loaded_metrics(tasks: Mapping[str, Any]) -> None:
    """Raises UserError if a metric that one of the tasks loads while it scores cannot be had here.

    What a metric itself fetches when it computes (BERTScore its model) is not seen: that costs the metric, which is named.
    """
    tried: dict[str, str | None] = {}
    for task, metric in _needed(tasks):
        if metric not in tried:
            tried[metric] = _fault(metric)
        if tried[metric] is not None:
            raise UserError(
                f"task '{task}' scores with the metric '{metric}' of HF evaluate, which cannot be loaded: {tried[metric]};"
                " leave the task out, run once where the hub can be reached, or keep the answers alone (--predict_only)"
            )


def _needed(tasks: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yields task and metric of every `evaluate.load("name")` that a function of the task can come to; what a file's top level loads has been loaded."""
    for name, task in tasks.items():
        for hit in sorted(reach(set(starts(task)))):
            match = LOAD.fullmatch(hit.name)
            if (
                match
                and hit.inside not in (MODULE, SCRIPT)
                and (metric := _literal(match[1])) not in (None, METRIC.name)
            ):
                yield name, str(metric)


def _literal(text: str) -> str | None:
    try:
        value = ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return None  # a name that is put together when it runs
    return value if isinstance(value, str) else None


def _fault(metric: str) -> str | None:
    """Returns why a metric cannot be loaded, or None."""
    import evaluate

    from dlm_eval.hub import hub_reachable

    try:
        evaluate.load(metric)
    except ImportError as error:
        return " ".join(str(error).split())
    except (Exception, SystemExit) as error:  # a metric is a script of somebody's
        if not hub_reachable():
            return "the hub is out of reach and the cache lacks it"
        return f"{type(error).__name__}: {' '.join(str(error).split())}"
    return None
