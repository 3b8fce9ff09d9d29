"""What a run adds to lm-eval's results: costs and errors of each sample, and sums of them by task."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from types import FunctionType
from typing import Any

from dlm_eval.canvas import Score
from dlm_eval.engine import Cost
from dlm_eval.harness.records import Record
from dlm_eval.redaction import redact, redact_values
from dlm_eval.scoring.mc_error import correlations

log = logging.getLogger(__name__)


def attach_costs(results: dict[str, Any], records: Sequence[Record], reason: Callable[[str, Any], str | None]) -> None:
    """Adds forwards, rows, tokens, seconds, logprob_stderr (and error) to every logged sample.

    Args:
        results: lm-eval's results with 'samples'.
        records: what each request cost.
        reason: (task, document) -> why it has no metric, or None.
    """
    by_doc: dict[tuple[str, int | None], list[Record]] = {}
    for record in records:
        by_doc.setdefault((record.task, record.doc_id), []).append(record)
    for task, samples in (results.get("samples") or {}).items():
        seen: Counter[str] = Counter()
        for sample in samples:
            number = seen[
                sample["filter"]
            ]  # lm-eval logs each filter's documents in order; its doc_id is permuted under --samples
            seen[sample["filter"]] += 1
            own = sorted(by_doc.get((task, number), []), key=lambda r: (r.idx, r.repeat))
            if own:
                sample["forwards"] = sample["rows"] = sum(r.rows for r in own)
                sample["tokens"] = sum(r.tokens for r in own)
                sample["seconds"] = round(sum(r.seconds for r in own), 6)
                sample["truncated"] = sum(r.truncated for r in own)
                if own[0].kind == "likelihood":
                    sample |= likelihood_columns([r.score for r in own])
                    if own[0].tokens and "text_nats" in own[0].details:  # a whole text, not a choice
                        sample["nats_per_token"] = own[0].details["text_nats"] / own[0].tokens
                else:
                    sample["exit"] = [r.details.get("exit") for r in own]
                    sample["steps"] = [r.details.get("steps_taken") for r in own]
            error = reason(task, sample["doc"])
            if error is not None:
                sample["error"] = error


def likelihood_columns(scores: Sequence[Score | None]) -> dict[str, list[Any]]:
    """Returns the columns of a sample's likelihoods, one entry per request, None where it erred."""
    found: dict[str, list[Any]] = {
        "logprob_stderr": [s and s.stderr for s in scores],
        "logprob_interval": [s and s.interval for s in scores],
        "logprob_kind": [s and s.kind for s in scores],
        "logprob_bounds": [s and (s.lower, s.upper) for s in scores],
        "logprob_bounds_stderr": [s and (s.lower_stderr, s.upper_stderr) for s in scores],
        "logprob_bracket": [s and s.bracket for s in scores],
    }
    if any(s and s.rough_stderr is not None for s in scores):
        found["logprob_rough_stderr"] = [s and s.rough_stderr for s in scores]
        found["logprob_freedom"] = [s and s.freedom for s in scores]
    shared = correlations([s.echo if s else () for s in scores])
    return found if shared is None else {**found, "logprob_correlation": shared}


def unscored(tasks: Mapping[str, Any]) -> dict[str, Any]:
    """Returns lm-eval's results of tasks that were answered and could not be scored: the answers, and no metric."""
    return {
        "results": {name: {"alias": name} for name in tasks},
        "samples": {name: [_unscored(request) for request in task._instances] for name, task in tasks.items()},
        **{key: {} for key in ("config", "configs", "versions", "n-shot", "higher_is_better", "n-samples")},
        "group_subtasks": {},
    }


def _unscored(request: Any) -> dict[str, Any]:
    hashes = dict.fromkeys(("doc_hash", "prompt_hash", "target_hash"), "")
    answered = {"arguments": [request.args], "resps": [request.resps], "filtered_resps": [], "metrics": []}
    return {"doc_id": request.doc_id, "doc": request.doc, "target": None, **answered, "filter": "none", **hashes}


def erred(results: Mapping[str, Any]) -> dict[tuple[str, int], str]:
    """Returns why samples erred, by task and document."""
    return {
        (task, sample["doc_id"]): sample["error"]
        for task, rows in results["samples"].items()
        for sample in rows
        if "error" in sample
    }


def count_errors(results: Mapping[str, Any]) -> dict[str, int]:
    """Returns the number of documents that erred, by task."""
    return dict(Counter(task for task, _ in erred(results)))


def nameable(config: Any) -> Any:
    """Returns a task's configuration with functions by their names: lm-eval would write the address of those inside filters, another in every run."""
    if isinstance(config, dict):
        return {key: nameable(value) for key, value in config.items()}
    if isinstance(config, list):
        return [nameable(value) for value in config]
    return f"{config.__module__}.{config.__qualname__}" if isinstance(config, FunctionType) else config


def public_results(results: Mapping[str, Any]) -> dict[str, Any]:
    """Returns results fit to be written and shown: no secrets, by name in settings and by value everywhere, and valid Unicode.

    What has the names of tasks, metrics or columns for its keys is not asked for names: a task may be called "password".
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
    """Returns a sample without secrets; of its columns only the arguments of its requests are settings."""
    return {**redact_values(sample), "arguments": redact(sample["arguments"])}


def cost_block(
    records: Sequence[Record], errors: Mapping[str, int], device: Cost | None, wall_seconds: float
) -> dict[str, Any]:
    """Returns cost per task and in total. forwards: model calls of the samples' own canvases; `device` has what the device ran."""
    tasks: dict[str, dict[str, Any]] = {}
    nats: dict[str, list[float]] = {}  # of texts that were scored whole, and their tokens
    for record in records:
        cost = tasks.setdefault(
            record.task,
            {
                "samples": set(),
                "errors": 0,
                "requests": 0,
                "forwards": 0,
                "rows": 0,
                "tokens": 0,
                "seconds": 0.0,
                "truncated": 0,
            },
        )
        cost["samples"].add(record.doc_id)
        cost["requests"] += 1
        cost["forwards"] += record.rows
        cost["rows"] += record.rows
        cost["tokens"] += record.tokens
        cost["seconds"] += record.seconds
        cost["truncated"] += record.truncated > 0
        if record.budget:
            cost["budget_forwards"] = cost.get("budget_forwards", 0) + record.budget
        if "text_nats" in record.details:
            texts = nats.setdefault(record.task, [0.0, 0])
            texts[0], texts[1] = texts[0] + record.details["text_nats"], texts[1] + record.tokens
    for task in {*tasks, *errors}:
        tasks.setdefault(task, {})["errors"] = errors.get(task, 0)
    for cost in tasks.values():
        cost["samples"] = len(cost.get("samples", ()))
    for task, (total_nats, tokens) in nats.items():
        tasks[task]["nats_per_token"] = total_nats / tokens
    total: dict[str, Any] = {"wall_seconds": wall_seconds}
    if device is not None:
        total |= {f"device_{key}": value for key, value in vars(device).items()}
    return {**tasks, "total": total}


def task_settings(records: Sequence[Record]) -> dict[str, dict[str, Any]]:
    """Returns per task how it was answered: kind, estimators and what their numbers are, decode settings as they were resolved, lengths."""
    tasks: dict[str, dict[str, Any]] = {}
    for record in records:
        task = tasks.setdefault(record.task, {"kind": record.kind})
        for key in ("estimator", "strategy", "preset", "steps", "block_length", "gen_length"):
            if record.details.get(key) is not None:
                task.setdefault(key, set()).add(record.details[key])
        if record.score is not None:
            task.setdefault("logprob_kind", set()).add(record.score.kind)
        for key in ("decode", "replaced"):
            if record.details.get(key) is not None:
                task[key] = record.details[key]
    return {name: {k: _one(v) for k, v in task.items()} for name, task in tasks.items()}


def _one(value: Any) -> Any:
    if not isinstance(value, set):
        return value
    items = sorted(value)
    if len(items) == 1:
        return items[0]
    return f"{items[0]}-{items[-1]}" if isinstance(items[0], int) else ", ".join(map(str, items))
