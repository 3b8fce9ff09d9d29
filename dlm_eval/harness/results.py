"""The results of a run: cost and outcome of each request, failed samples, and samples and metrics
as plain data without secrets.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from types import FunctionType
from typing import Any

import numpy as np
from lm_eval.api.instance import Instance

from dlm_eval.canvas import Score
from dlm_eval.counts import total
from dlm_eval.engine import Cost
from dlm_eval.harness.requests import Block, ChoiceForm, Hole
from dlm_eval.harness.shard import Shard
from dlm_eval.likelihood.mc_error import correlations
from dlm_eval.redaction import redact, redact_values
from dlm_eval.rng import digest

DEEPEST = 100  # maximum depth of nested containers


def json_value(value: Any, above: tuple[int, ...] = ()) -> Any:
    """Returns a value that JSON can represent: cycles are cut, keys and objects become text.

    Args:
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
                key if isinstance(key, str) else as_text(key): json_value(item, inside)
                for key, item in value.items()
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
        keys = (key if isinstance(key, str) else str(python_numbers(key)) for key in value)
        return dict(zip(keys, map(python_numbers, value.values()), strict=True))
    if isinstance(value, (list, tuple)):
        kind = tuple if type(value) is tuple else list
        return kind(map(python_numbers, value))
    return value


def make_plain(results: dict[str, Any]) -> None:
    """Converts all numbers to Python's, since lm-eval would write numpy's as text."""
    for kind in ("results", "groups"):
        if kind in results:
            results[kind] = {name: python_numbers(scores) for name, scores in results[kind].items()}
    for samples in (results.get("samples") or {}).values():
        for sample in samples:
            sample.update({metric: python_numbers(sample[metric]) for metric in sample["metrics"]})
            sample["arguments"] = [
                tuple(map(plain_argument, arguments)) for arguments in sample["arguments"]
            ]


def plain_argument(argument: Any) -> Any:
    """Returns an argument of a request with its hole, block or the form of its choice as plain
    data."""
    if not isinstance(argument, dict):
        return argument
    ours = {
        key: value.plain()
        for key, value in argument.items()
        if isinstance(value, (Block, ChoiceForm, Hole))
    }
    return {**argument, **ours} if ours else argument


def metrics_of(scores: Mapping[str, Any]) -> dict[tuple[str, str], Any]:
    """Returns (metric, filter) -> value of one task or group; a mapping is one metric per key."""
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
    """Returns group -> metrics to aggregate for which no task of the group has a value."""
    found = {}
    for name, group in groups.items():
        wanted = [entry.metric for entry in group.aggregate_metric_list or ()]
        have = {metric for metric, _ in metrics_of(results.get(name, {}))}
        if missing := [metric for metric in wanted if metric not in have]:
            found[name] = missing
    return found


def unreturned_metrics(
    tasks: Mapping[str, Any], samples: Mapping[str, Sequence[Mapping[str, Any]]]
) -> dict[str, list[str]]:
    """Returns task -> metrics that it declares and that its scorer returned for no document. A task
    whose documents all failed is left out.
    """
    found = {}
    for name, task in tasks.items():
        scored = [sample["metrics"] for sample in samples.get(name, ()) if "error" not in sample]
        returned = {metric for metrics in scored for metric in metrics}
        if scored and (missing := set(task.aggregation()) - returned):
            found[name] = sorted(map(str, missing))
    return found


def document_number(
    task: str, position: int | None, chosen: Mapping[str, Sequence[int]]
) -> int | None:
    """Returns a document's number in its task; `position` counts only documents of --samples."""
    return position if position is None or task not in chosen else chosen[task][position]


def is_in_shard(
    request: Instance, shard: Shard | None, chosen: Mapping[str, Sequence[int]]
) -> bool:
    """Returns whether a request's document belongs to a run's shard (None: all do)."""
    task = request.task_name or ""
    return shard is None or shard.has(task, document_number(task, request.doc_id, chosen))


def unscored(tasks: Mapping[str, Any], chosen: Mapping[str, Sequence[int]]) -> dict[str, Any]:
    """Returns the answers, without metrics, of tasks that were answered but not scored."""
    return {
        "results": {name: {"alias": name} for name in tasks},
        "samples": {
            name: [_unscored(request, chosen) for request in task._instances]
            for name, task in tasks.items()
        },
        **{
            key: {}
            for key in ("config", "configs", "versions", "n-shot", "higher_is_better", "n-samples")
        },
        "group_subtasks": {},
    }


def _unscored(request: Any, chosen: Mapping[str, Sequence[int]]) -> dict[str, Any]:
    hashes = dict.fromkeys(("doc_hash", "prompt_hash", "target_hash"), "")
    answered = {
        "arguments": [request.args],
        "resps": [request.resps],
        "filtered_resps": [],
        "metrics": [],
    }
    number = document_number(request.task_name, request.doc_id, chosen)
    return {
        "doc_id": number,
        "doc": request.doc,
        "target": None,
        **answered,
        "filter": "none",
        **hashes,
    }


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
    """Returns a task's configuration with functions replaced by their names.

    lm-eval would write memory addresses for functions inside filters.
    """
    if isinstance(config, dict):
        return {key: jsonable_config(value) for key, value in config.items()}
    if isinstance(config, list):
        return [jsonable_config(value) for value in config]
    return (
        f"{config.__module__}.{config.__qualname__}" if isinstance(config, FunctionType) else config
    )


def public_results(results: Mapping[str, Any]) -> dict[str, Any]:
    """Returns results without secrets and with valid Unicode.

    Settings are redacted by name and value. Everything else is redacted only by value, since a
    task, metric or column may be called "password".
    """
    found: dict[str, Any] = {
        key: redact_values(value) for key, value in results.items() if key != "samples"
    }
    found["config"] = redact(found.get("config", {}))
    found["configs"] = {task: redact(config) for task, config in found.get("configs", {}).items()}
    ours = found.get("dlm_eval", {})
    if ours:
        found["dlm_eval"] = {**ours, "settings": redact(ours.get("settings", {}))}
    if "samples" in results:
        found["samples"] = {
            task: [_public_sample(s) for s in rows] for task, rows in results["samples"].items()
        }
    return found


def _public_sample(sample: Mapping[str, Any]) -> dict[str, Any]:
    """Returns a sample without secrets. Only the arguments of its requests are settings."""
    return {**redact_values(sample), "arguments": redact(sample["arguments"])}


@dataclass
class Record:
    """Cost and outcome of one request. `cost` in results is the sum of all records.

    `rows` is None for lm-eval's own models, whose forward passes are not known. A document with a
    skipped request is not scored, and is no error. `computed` is the number of positions that the
    rows of a generation ran; None if it is not known.
    """

    task: str
    doc_id: int | None
    idx: int
    repeat: int
    doc: str
    kind: str
    rows: int | None = 0
    tokens: int = 0
    seconds: float = 0.0
    computed: int | None = None
    score: Score | None = None
    budget: int = 0
    truncated: int = 0
    error: str | None = None
    skipped: bool = False
    details: dict[str, Any] = field(default_factory=dict)


def records_of(requests: Iterable[Instance], kind: str, rows: int | None = 0) -> Iterator[Record]:
    """Yields a new record per request. lm-eval lists a repeated request several times."""
    seen: Counter[int] = Counter()
    key_of = document_keys()
    for request in requests:
        repeat = seen[id(request)]
        seen[id(request)] += 1
        task, doc = request.task_name or "", key_of(request)
        yield Record(task, request.doc_id, request.idx, repeat, doc, kind, rows)


def document_keys() -> Callable[[Instance], str]:
    """Returns a function that returns the identity of a request's document, found once for all
    requests of the document.
    """
    known: dict[int, tuple[Any, str]] = {}  # id -> document, which keeps the id its own

    def key_of(request: Instance) -> str:
        if not request.doc:
            return doc_key(request.args)
        if id(request.doc) not in known:
            known[id(request.doc)] = request.doc, doc_key(request.doc)
        return known[id(request.doc)][1]

    return key_of


def doc_key(doc: Any) -> str:
    """Returns the identity of a document, a digest of its content.

    A document's noise therefore does not depend on --limit, --samples or the order of documents.
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
    trajectories: bool = False,
) -> None:
    """Adds forwards, rows, tokens, seconds, logprob_stderr (and error) to every logged sample.

    Args:
        results: lm-eval's results with 'samples'.
        reason: (task, document) -> why the document has no metric, or None.
        chosen: task -> the documents of --samples, ascending. Numbers in requests count only these;
            numbers in logged samples count all documents.
        trajectories: whether samples of generation tasks get `trajectory`, one for each answer.
    """
    by_document: dict[tuple[str, int | None], list[Record]] = {}
    for record in records:
        number = document_number(record.task, record.doc_id, chosen)
        by_document.setdefault((record.task, number), []).append(record)
    for task, samples in (results.get("samples") or {}).items():
        for sample in samples:
            own = sorted(
                by_document.get((task, sample["doc_id"]), []), key=lambda r: (r.idx, r.repeat)
            )
            if own:
                sample |= _cost_columns(own)
                if trajectories and own[0].kind != "likelihood":
                    sample["trajectory"] = [r.details.get("trajectory") for r in own]
            if any(record.skipped for record in own):
                sample["skipped"] = True
            error = reason(task, sample["doc"])
            if error is not None:
                sample["error"] = error


def _cost_columns(own: Sequence[Record]) -> dict[str, Any]:
    """Returns a sample's columns from the records of its requests."""
    spent = {"tokens": sum(r.tokens for r in own), "seconds": round(sum(r.seconds for r in own), 6)}
    if own[0].rows is None:
        return spent
    rows = sum(r.rows or 0 for r in own)
    cut = sum(r.truncated for r in own)
    found: dict[str, Any] = {"forwards": rows, "rows": rows, **spent, "truncated": cut}
    if own[0].kind == "likelihood":
        found |= likelihood_columns([r.score for r in own])
        if own[0].tokens and "text_nats" in own[0].details:  # a whole text
            found["nats_per_token"] = own[0].details["text_nats"] / own[0].tokens
    else:
        found["exit"] = [r.details.get("exit") for r in own]
        found["steps"] = [r.details.get("steps_taken") for r in own]
        found["computed_tokens"] = total([r.computed for r in own])
    return found


def likelihood_columns(scores: Sequence[Score | None]) -> dict[str, list[Any]]:
    """Returns a sample's likelihood columns, with one entry per request; None if it failed."""
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

    `forwards` counts the model calls that each sample needs by itself, `computed_tokens` the
    positions that they run; `device` is the cost on the devices, where samples share calls.
    """
    tasks: dict[str, dict[str, Any]] = {}
    nats: dict[str, list[float]] = {}  # task -> nats and tokens of whole texts
    computed: dict[str, list[int | None]] = {}
    for record in records:
        counts = dict.fromkeys(
            ("errors", "requests", "forwards", "rows", "tokens", "seconds", "truncated"), 0
        )
        cost = tasks.setdefault(record.task, {"samples": set(), **counts})
        cost["samples"].add(record.doc_id)
        cost["requests"] += 1
        cost["tokens"] += record.tokens
        cost["seconds"] += record.seconds
        if record.skipped:
            cost["skipped"] = cost.get("skipped", 0) + 1
        if record.rows is None:
            for name in ("forwards", "rows", "truncated"):
                cost.pop(name, None)
            continue
        cost["forwards"] += record.rows
        cost["rows"] += record.rows
        cost["truncated"] += record.truncated > 0
        if record.kind != "likelihood":
            computed.setdefault(record.task, []).append(record.computed)
        if record.budget:
            cost["budget_forwards"] = cost.get("budget_forwards", 0) + record.budget
        if "text_nats" in record.details:
            texts = nats.setdefault(record.task, [0.0, 0])
            texts[0], texts[1] = texts[0] + record.details["text_nats"], texts[1] + record.tokens
    for task in {*tasks, *errors}:
        tasks.setdefault(task, {})["errors"] = errors.get(task, 0)
    for cost in tasks.values():
        cost["samples"] = len(cost.get("samples", ()))
    for task, counts_of in computed.items():
        tasks[task]["computed_tokens"] = total(counts_of)
    for task, (total_nats, tokens) in nats.items():
        tasks[task]["nats_per_token"] = total_nats / tokens
    whole: dict[str, Any] = {"wall_seconds": wall_seconds}
    if device is not None:
        whole |= {f"device_{key}": value for key, value in vars(device).items()}
    return {**tasks, "total": whole}


def task_settings(records: Sequence[Record]) -> dict[str, dict[str, Any]]:
    """Returns estimators, likelihood kinds, decode settings and lengths used for each task."""
    tasks: dict[str, dict[str, Any]] = {}
    for record in records:
        task = tasks.setdefault(record.task, {"kind": record.kind})
        for key in (
            "estimator", "strategy", "approximation", "preset", "steps", "block_length", "gen_length",
        ):  # fmt: skip
            if record.details.get(key) is not None:
                task.setdefault(key, set()).add(record.details[key])
        if record.score is not None:
            task.setdefault("logprob_kind", set()).add(record.score.kind)
        if record.details.get("replaced") is not None:
            task["replaced"] = record.details["replaced"]
        # Requests of one length share the object.
        if (decode := record.details.get("decode")) is not None:
            task.setdefault("decode", {})[id(decode)] = decode, record.details.get("steps")
        if "finds_length" in record.details:
            task["finds_length"] = record.details["finds_length"] and task.get("finds_length", True)
    for task in tasks.values():
        if "decode" in task:
            task["decode"] = _of_all(list(task["decode"].values()))
    return {name: {k: _one(v) for k, v in task.items()} for name, task in tasks.items()}


def _of_all(settings: Sequence[tuple[Mapping[str, Any], int | None]]) -> dict[str, Any]:
    """Returns decode settings; a range for a number that is not the same for holes of all lengths.

    Args:
        settings: those of holes of one length, each with the number of steps, which settings leave
            out if it is one for each token.
    """
    found = dict(settings[0][0])
    for key, value in found.items():
        values = [decode[key] for decode, _ in settings]
        if any(one != value for one in values):
            if key == "steps":
                values = [decode[key] or steps for decode, steps in settings]
            found[key] = _joined(values)
    return found


def _one(value: Any) -> Any:
    return _joined(value) if isinstance(value, set) else value


def _joined(values: Iterable[Any]) -> Any:
    """Returns what values of several requests are: the value if they are equal, a range of numbers,
    or all of them as text.
    """
    distinct = list({json.dumps(value, default=str): value for value in values}.values())
    if len(distinct) == 1:
        return distinct[0]
    if all(type(value) is int for value in distinct):
        return f"{min(distinct)}-{max(distinct)}"
    return ", ".join(sorted(map(str, distinct)))
