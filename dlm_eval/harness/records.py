"""Cost and outcome of each request: columns of the samples files, and sums by task."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from lm_eval.api.instance import Instance

from dlm_eval.canvas import Score
from dlm_eval.engine import Cost
from dlm_eval.harness.results import document_number, json_value
from dlm_eval.likelihood.mc_error import correlations
from dlm_eval.rng import digest


@dataclass
class Record:
    """Cost and outcome of one request. `cost` in results sums them up."""

    task: str
    doc_id: int | None
    idx: int
    repeat: int
    doc: str
    kind: str
    rows: int = 0
    tokens: int = 0
    seconds: float = 0.0
    score: Score | None = None
    budget: int = 0
    truncated: int = 0
    error: str | None = None
    details: dict[str, Any] = field(default_factory=dict)


def records_of(requests: Iterable[Instance], kind: str) -> Iterable[Record]:
    """Yields a new record per request. lm-eval repeats a request by listing the same object several
    times.
    """
    seen: Counter[int] = Counter()
    for request in requests:
        repeat = seen[id(request)]
        seen[id(request)] += 1
        yield Record(
            request.task_name or "", request.doc_id, request.idx, repeat, doc_key(request.doc or request.args), kind
        )


def doc_key(doc: Any) -> str:
    """Returns the identity of a document: a digest of its content.

    --limit, --samples and order therefore do not change its noise.
    """
    try:
        return digest(doc)
    except (TypeError, ValueError, RecursionError):  # keys of several types, or a cycle
        return digest(json_value(doc))


def attach_costs(
    results: dict[str, Any],
    records: Sequence[Record],
    reason: Callable[[str, Any], str | None],
    chosen: Mapping[str, Sequence[int]],
) -> None:
    """Adds forwards, rows, tokens, seconds, logprob_stderr (and error) to every logged sample.

    Args:
        results: lm-eval's results with 'samples'.
        records: of all requests.
        reason: (task, document) -> why it has no metric, or None.
        chosen: task -> the documents of --samples, ascending. Requests number these, logged samples
            all documents.
    """
    by_document: dict[tuple[str, int | None], list[Record]] = {}
    for record in records:
        number = document_number(record.task, record.doc_id, chosen)
        by_document.setdefault((record.task, number), []).append(record)
    for task, samples in (results.get("samples") or {}).items():
        for sample in samples:
            own = sorted(by_document.get((task, sample["doc_id"]), []), key=lambda r: (r.idx, r.repeat))
            if own:
                sample["forwards"] = sample["rows"] = sum(r.rows for r in own)
                sample["tokens"] = sum(r.tokens for r in own)
                sample["seconds"] = round(sum(r.seconds for r in own), 6)
                sample["truncated"] = sum(r.truncated for r in own)
                if own[0].kind == "likelihood":
                    sample |= likelihood_columns([r.score for r in own])
                    if own[0].tokens and "text_nats" in own[0].details:  # a whole text
                        sample["nats_per_token"] = own[0].details["text_nats"] / own[0].tokens
                else:
                    sample["exit"] = [r.details.get("exit") for r in own]
                    sample["steps"] = [r.details.get("steps_taken") for r in own]
            error = reason(task, sample["doc"])
            if error is not None:
                sample["error"] = error


def likelihood_columns(scores: Sequence[Score | None]) -> dict[str, list[Any]]:
    """Returns the columns of a sample's likelihoods, one entry per request, None if it failed."""
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


def cost_block(
    records: Sequence[Record], errors: Mapping[str, int], device: Cost | None, wall_seconds: float
) -> dict[str, Any]:
    """Returns cost per task and in total.

    `forwards` counts model calls of the samples' own canvases; `device` is the cost on the devices.
    """
    tasks: dict[str, dict[str, Any]] = {}
    nats: dict[str, list[float]] = {}  # task -> nats and tokens of whole texts
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
    """Returns per task how it was answered: kind, estimators, kinds of likelihood, decode settings,
    lengths.
    """
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
