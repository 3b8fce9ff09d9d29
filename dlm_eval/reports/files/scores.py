"""The scores of a result file: metrics of each task in order, with sizes, settings and costs."""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Iterator
from typing import Any

from dlm_eval.counts import total
from dlm_eval.reports.files.content import MOST_MEMBERS, Content
from dlm_eval.reports.files.digests import Digests
from dlm_eval.reports.files.json_values import count, first_text, listed, number
from dlm_eval.reports.files.row import GENERATION, LIKELIHOOD
from dlm_eval.sandbox import UNSANDBOXED

# Metrics that are fractions if a task's metric_list declares them. Python-class tasks (squadv2)
# declare none, and their "f1" is in percent.
FRACTION = re.compile(
    r"acc(_norm|_bytes|_mutual_info)?|cell_acc|exact_match|em(_official)?|alias_match|contains|((token|macro|micro)_)?f1|mcc|pearson|spearman"
    r"|pass(@|_at_)\d+"
)
# What --repeats and --vote add to a metric's name; pass@k is added to pass@1 (harness/repeats.py,
# harness/votes.py).
ADDED = re.compile(r"_(maj|pass)@\d+$|^pass@\d+$|_vote@(fixed|linear|exp[0-9.e+-]+)$")
RATIOS = (1e-12, 1e12)  # of tokens, forwards and seconds
_DEEPEST = 8  # objects within a metric
_PROCEDURE = (
    "estimator", "strategy", "steps", "gen_length", "block_length", "logprob_kind",
)  # fmt: skip


def task_cells(content: Content, digests: Digests, task: str) -> Iterator[dict[str, Any]]:
    """Yields the cells of each score of one task (or group of tasks), headline first."""
    scores, values = content.part("results", task), _values(content, task)
    shared = {"task": task, **_size(content, task), **_procedure(content, digests, task)}
    better, declared = content.part("higher_is_better", task), _declared(content, task)
    for position, (metric, pipeline) in enumerate(_ordered(content, task, values)):
        value, direction = values[metric, pipeline], better.get(metric)
        yield {
            **shared,
            "metric": metric,
            "filter": pipeline or None,
            "value": value,
            "stderr": number(scores.get(f"{metric}_stderr,{pipeline}")),
            "unit": _unit(value) if _is_fraction(metric, declared) else None,
            "higher_is_better": direction if isinstance(direction, bool) else None,
            "headline": position == 0,
        }


def _is_fraction(metric: str, declared: Collection[str]) -> bool:
    """Returns whether a metric is a fraction: declared by its task, or added by --repeats or --vote to
    one that is.
    """
    base = ADDED.sub("", metric) or "pass@1"
    return bool({metric, base} & set(declared)) and FRACTION.fullmatch(base) is not None


def _unit(value: float) -> str | None:
    return "fraction" if math.isnan(value) or abs(value) <= 1 else None


def _values(content: Content, task: str) -> dict[tuple[str, str], float]:
    """Returns (metric, filter) -> value of every score; an object is one metric per key."""
    found: dict[tuple[str, str], float] = {}

    def add(metric: str, pipeline: str, value: Any, depth: int = 0) -> None:
        if isinstance(value, dict) and depth < _DEEPEST:
            for key, item in value.items():
                add(f"{metric}.{key}", pipeline, item, depth + 1)
        elif (found_number := number(value)) is not None:
            found[metric, pipeline] = found_number

    for key, value in content.part("results", task).items():
        metric, comma, pipeline = str(key).partition(",")
        # Keys without a comma describe the task (alias, sample_len). "bypass" means "not scored" in
        # lm-eval.
        if comma and not metric.endswith("_stderr") and metric != "bypass":
            add(metric, pipeline, value)
    return found


def _ordered(
    content: Content, task: str, values: dict[tuple[str, str], float]
) -> list[tuple[str, str]]:
    """Returns (metric, filter) of all scores, ordered as in the task's lists, then the file."""
    metrics = _places(_named(content, task, "metric_list", "metric"))
    filters = _places(_named(content, task, "filter_list", "name"))

    def place(pair: tuple[str, str]) -> tuple[int, int]:
        metric, pipeline = pair
        # `metric` or its parent metric
        own = min(metrics.get(name, MOST_MEMBERS) for name in (metric, metric.partition(".")[0]))
        return own, filters.get(pipeline, MOST_MEMBERS)

    return sorted(values, key=place)


def _places(names: list[str]) -> dict[str, int]:
    return {name: place for place, name in reversed(list(enumerate(names)))}


def _named(content: Content, task: str, entries: str, key: str) -> list[str]:
    """Returns the names in a list of a task's YAML."""
    found = listed(content.part("configs", task).get(entries))
    return [str(entry.get(key)) for entry in found if isinstance(entry, dict)]


def _declared(content: Content, task: str) -> set[str]:
    """Returns the metrics that the task, or a task of the group, declares."""
    own = (_named(content, leaf, "metric_list", "metric") for leaf in content.tasks[task])
    return {name for names in own for name in names}


def _size(content: Content, task: str) -> dict[str, Any]:
    """Returns the numbers of documents and examples; for a group, sums over its tasks."""
    counts = [content.part("n-samples", leaf) for leaf in content.tasks[task]]
    scored = total([count(each.get("effective")) for each in counts])
    alone = count(content.part("results", task).get("sample_len"))
    return {
        "n": alone if scored is None else scored,
        "n_total": total([count(each.get("original")) for each in counts]),
        "shots": first_text(content.part("n-shot").get(task)),
        "task_version": first_text(content.part("versions").get(task)),
    }


def _procedure(content: Content, digests: Digests, task: str) -> dict[str, Any]:
    """Returns the cells of estimator, decoding and cost; empty for files of lm-eval alone."""
    how, tasks = content.part("dlm_eval", "tasks", task), content.tasks[task]
    fingerprint = digests.of(task, "fingerprint")
    kinds = {_kind(content, leaf) for leaf in tasks}
    return {
        **{name: first_text(how.get(name)) for name in _PROCEDURE},
        **_cost(content, task),
        **{name: digests.of(task, name) for name in ("configuration", "scoring", "documents")},
        "fingerprint": fingerprint or first_text(content.part("dlm_eval").get("fingerprint")),
        "code": UNSANDBOXED if outside_sandbox(content, task) else None,
        "kind": kinds.pop() if len(kinds) == 1 else None,
        "approximation": approximation(content, task) or None,
        "finds_length": "yes" if finds_length(content, task) else None,
    }


def _cost(content: Content, task: str) -> dict[str, Any]:
    costs = [content.part("dlm_eval", "cost", leaf) for leaf in content.tasks[task]]
    names = ("forwards", "samples", "tokens", "seconds", "computed_tokens")
    forwards, samples, tokens, seconds, computed = (
        total([number(cost.get(name)) for cost in costs]) for name in names
    )
    return {
        "forwards_per_sample": _ratio(forwards, samples),
        "tokens_per_forward": _ratio(tokens, forwards),
        "tokens_per_second": _ratio(tokens, seconds),
        "computed_per_sample": _ratio(computed, samples),
        "errors": total([count(cost.get("errors")) for cost in costs]),
    }


def _ratio(part: float | None, whole: float | None) -> float | None:
    """Returns a cost over another; None if it cannot be one."""
    if part is None or whole is None or part < 0 or not whole > 0:
        return None
    ratio = part / whole
    return ratio if ratio == 0 or RATIOS[0] <= ratio <= RATIOS[1] else None


def approximation(content: Content, task: str) -> str:
    """Returns the approximations of a task, or of the tasks of a group, with commas; "" if none."""
    parts = (content.part("dlm_eval", "tasks", leaf) for leaf in content.tasks[task])
    names = (first_text(how.get("approximation")) for how in parts)
    return ", ".join(dict.fromkeys(name for name in names if name))


def finds_length(content: Content, task: str) -> bool:
    """Returns whether the decoder was not told the length in a task, or in all tasks of a group."""
    parts = [content.part("dlm_eval", "tasks", leaf) for leaf in content.tasks[task]]
    return bool(parts) and all(how.get("finds_length") is True for how in parts)


def _kind(content: Content, task: str) -> str | None:
    kind = content.part("dlm_eval", "tasks", task).get("kind")
    if kind in (LIKELIHOOD, GENERATION):
        return str(kind)
    output = content.part("configs", task).get("output_type")
    if not isinstance(output, str):
        return None
    return GENERATION if output == "generate_until" else LIKELIHOOD


def outside_sandbox(content: Content, task: str) -> bool:
    """Returns whether programs of a task or group ran outside the sandbox (code_tasks.py)."""
    sandboxes = content.part("dlm_eval", "environment", "sandbox")
    return any(UNSANDBOXED in listed(sandboxes.get(leaf)) for leaf in content.tasks[task])
