"""The points of one run of a sweep: the score and the cost of each task."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from dlm_eval.harness.run import Finished
from dlm_eval.reports.sweep.plan import Plan
from dlm_eval.reports.sweep.points import Point


def points_of(
    finished: Finished, plan: Plan, decode: Mapping[str, Any], baseline: bool
) -> list[Point]:
    """Returns the points of one run, one per task."""
    results, several = finished.results, len(set(plan.question.values())) < len(plan.question)
    found = []
    for name, question in plan.question.items():
        scores, metric = results["results"][name], plan.metrics[name]
        cost = results["dlm_eval"]["cost"].get(name, {})
        described = results["dlm_eval"]["tasks"].get(name, {})
        filters = [key.partition(",")[2] for key in scores if key.partition(",")[0] == metric]
        chosen = filters[0] if filters else ""
        found.append(
            Point(
                task=question,
                template=name if several else "",
                decode={} if baseline else {key: str(value) for key, value in decode.items()},
                baseline=baseline,
                metric=metric,
                metric_filter=chosen,
                value=_number(scores.get(f"{metric},{chosen}")),
                stderr=_number(scores.get(f"{metric}_stderr,{chosen}")),
                samples=cost.get("samples", 0),
                errors=cost.get("errors", 0),
                forwards=cost.get("forwards", 0),
                tokens=cost.get("tokens", 0),
                seconds=cost.get("seconds", 0.0),
                computed=cost.get("computed_tokens"),
                finds_length=bool(described.get("finds_length")),
                approximation=str(described.get("approximation") or ""),
                values=_values(results, name, metric, chosen),
                better=bool(results.get("higher_is_better", {}).get(name, {}).get(metric, True)),
                results=finished.file.name if finished.file else "",
            )
        )
    return found


def _values(
    results: Mapping[str, Any], task: str, metric: str, filter_name: str
) -> dict[str, float]:
    """Returns document -> its value of a metric, if the score is their mean; else nothing."""
    found = {
        str(sample["doc_id"]): float(sample[metric])
        for sample in results.get("samples", {}).get(task, ())
        if sample.get("filter", "none") == filter_name
        and isinstance(sample.get(metric), (bool, int, float))
        and "error" not in sample
    }
    score = _number(results["results"][task].get(f"{metric},{filter_name}"))
    mean = math.fsum(found.values()) / len(found) if found else math.nan
    return found if score is not None and math.isclose(mean, score, abs_tol=1e-9) else {}


def _number(value: Any) -> float | None:
    return float(value) if isinstance(value, (int, float)) and value == value else None
