"""The table that a run prints: every metric with its errors, and what it cost."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterator, Mapping
from typing import Any

from dlm_eval.boards.result_file import UNSANDBOXED, outside
from dlm_eval.harness.plain import metrics_of
from dlm_eval.output import table

HEADERS = (
    "task", "metric", "value", "stderr", "MC stderr", "log-probs", "n", "errors", "forwards/sample", "tokens/s",
)  # fmt: skip
# What Markdown reads as the end of a cell, code, HTML, a link or emphasis; a name has none of these as a rule.
MARKDOWN = re.compile(r"[\\|`<>\[\]*~&]")
NORMALISED = {"acc_norm": "character", "acc_bytes": "byte"}  # what lm-eval divides a choice's log-likelihood by


def render(results: Mapping[str, Any]) -> str:
    """Returns the table as text (GitHub markdown), with a line for every group below the tasks."""
    named = [name for name in results["results"] if _has_row(name, results)]
    rows = [[MARKDOWN.sub(r"\\\g<0>", cell) for cell in row] for name in named for row in _rows(name, results)]
    return table(rows, HEADERS, tablefmt="github", colalign=("left", "left", *["right"] * 3, "left", *["right"] * 4))


def _has_row(name: str, results: Mapping[str, Any]) -> bool:
    """Returns whether there is something to say about a name: a group that sums up nothing has only its tasks' rows."""
    return bool(
        metrics_of(results["results"][name]) or _unmet(name, results) or name not in results.get("group_subtasks", {})
    )


def _unmet(name: str, results: Mapping[str, Any]) -> list[str]:
    return list(results.get("dlm_eval", {}).get("unmet_aggregates", {}).get(name, ()))


def _rows(name: str, results: Mapping[str, Any]) -> Iterator[list[str]]:
    scores = results["results"][name]
    cost = results.get("dlm_eval", {}).get("cost", {}).get(name, {})
    samples, seconds = cost.get("samples") or 0, cost.get("seconds") or 0
    counted = [
        results.get("dlm_eval", {}).get("tasks", {}).get(name, {}).get("logprob_kind", ""),
        str(results["n-samples"].get(name, {}).get("effective", "")),
        str(cost.get("errors", 0) or ""),
        f"{cost['forwards'] / samples:.1f}" if samples and "forwards" in cost else "",
        f"{cost['tokens'] / seconds:.0f}" if seconds else "",
    ]
    found = metrics_of(scores)
    for place, ((metric, filter_name), value) in enumerate(found.items()):
        shown = metric if filter_name == "none" else f"{metric} ({filter_name})"
        shown += f" (per {NORMALISED[metric]})" if metric in NORMALISED else ""
        sampling = scores.get(f"{metric}_stderr,{filter_name}")
        if not isinstance(sampling, (int, float)):
            sampling = _of(results, "perplexity_stderr", name, metric)
        shown_name = f"{name} ({UNSANDBOXED})" if outside(dict(results), name) else name
        first = [shown_name, *counted] if place == 0 else [""] * 6
        yield [
            first[0],
            shown,
            _number(value),
            _interval(results, "perplexity_interval", name, metric) or _number(sampling),
            _part(results, name, metric),
            *first[1:],
        ]
    for place, metric in enumerate(_unmet(name, results), len(found)):
        first = [name, *counted] if place == 0 else [""] * 6
        yield [first[0], f"{metric} (none of its tasks has it)", "", "", "", *first[1:]]
    if not found and name not in results.get("group_subtasks", {}):
        why = "(no sample could be scored)" if cost.get("errors") else "(answers only)"
        yield [name, why, "", "", "", *counted]


def _part(results: Mapping[str, Any], name: str, metric: str) -> str:
    """Returns the estimator's part of a metric's error; "-" where it has one that is not known."""
    parts = results.get("dlm_eval", {}).get("estimator_stderr", {}).get(name, {})
    if metric in parts and parts[metric] is None:
        return "-"
    return _interval(results, "estimator_interval", name, metric) or _number(parts.get(metric))


def _interval(results: Mapping[str, Any], kind: str, name: str, metric: str) -> str:
    """Returns the 95 % interval of a perplexity as it is printed; nothing of other metrics."""
    ends = _of(results, kind, name, metric)
    return f"{_number(ends[0])} to {_number(ends[1])}" if ends else ""


def _of(results: Mapping[str, Any], kind: str, name: str, metric: str) -> Any:
    return results.get("dlm_eval", {}).get(kind, {}).get(name, {}).get(metric)


def _number(value: Any) -> str:
    """Returns a number as it is printed; what is none (a text, a list) shortened, so that no metric is blank."""
    if isinstance(value, (int, float)):
        return f"{value:.4f}" if abs(value) < 1e6 else f"{value:.4g}"
    return "" if value is None else textwrap.shorten(str(value), 24, placeholder="...")
