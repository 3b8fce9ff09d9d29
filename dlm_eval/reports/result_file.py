"""One result file, of dlm_eval or of lm-eval alone, as rows of the long leaderboard table.

Files of lm-eval alone lack the `dlm_eval` block, so their rows have no estimator, strategy, cost or
fingerprint. Files are untrusted. A value that does not have the expected type counts as missing. A
file that is not a result file raises ValueError with the reason.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from dlm_eval.printable import valid_unicode
from dlm_eval.sandbox import UNSANDBOXED

# Metrics that are fractions if a task's metric_list declares them. Python-class tasks (squadv2)
# declare none, and their "f1" is in percent.
FRACTION = re.compile(
    r"acc(_norm|_bytes|_mutual_info)?|exact_match|em|alias_match|contains|((token|macro|micro)_)?f1|mcc|pearson|spearman"
    r"|pass(@|_at_)\d+"
)
# What --repeats adds to a metric's name; pass@k is added to pass@1 (harness/repeats.py).
OF_REPEATS = re.compile(r"_(maj|pass)@\d+$|^pass@\d+$")
MOST_BYTES = 64 << 20  # of a result file (samples are in other files)
MOST_MEMBERS = 100_000  # tasks of all groups
MOST_SCORES = 20_000
MOST_CHARACTERS = 500  # of a cell
# lm-eval takes model_name from the first of these arguments.
_CHECKPOINT_ARGS = ("peft", "delta", "pretrained", "model", "path", "engine")
_DEEPEST = 8  # objects within a metric
# Config keys that do not change the answers.
_VOLATILE = ("batch_size", "batch_sizes", "device", "use_cache")
_SEEDS = ("random_seed", "numpy_seed", "torch_seed", "fewshot_seed")
# Config keys that are no part of a run's setup: a task's own settings, and what of it was asked.
_OF_TASKS = (*_VOLATILE, *_SEEDS, "gen_kwargs", "limit", "bootstrap_iters", "fingerprint")
_LAYOUT = ("device", "device_map", "batch_size", "max_batch_size", "parallelize")
# Settings of a run of dlm_eval that are part of every task's configuration.
_COMMON = ("apply_chat_template", "system_instruction", "fewshot_as_multiturn", "overlong")
LIKELIHOOD, GENERATION = "likelihood", "generation"
BETWEEN = "; "  # the settings of both kinds
MOST_RESOLVED = 300  # settings of a task
LONGEST_RESOLVED = 200  # characters of a setting
RATIOS = (1e-12, 1e12)  # of tokens, forwards and seconds


@dataclass(frozen=True)
class Row:
    """One score: a task's metric under one filter in one run.

    The fields are the long table's columns, in order.
    """

    model: str | None
    checkpoint: str | None
    revision: str | None
    task: str
    metric: str
    filter: str | None
    value: float
    stderr: float | None
    n: int | None  # number of scored documents
    shots: str | None
    estimator: str | None
    strategy: str | None
    steps: str | None  # a number, or "length"
    gen_length: str | None
    block_length: str | None
    forwards_per_sample: float | None
    tokens_per_forward: float | None
    tokens_per_second: float | None
    device: str | None
    dtype: str | None
    date: str | None  # UTC, ISO 8601
    fingerprint: str | None
    source: str
    errors: int | None
    n_total: int | None  # number of documents in the task
    unit: str | None  # "fraction" or unknown
    higher_is_better: bool | None
    task_version: str | None
    headline: bool  # the one metric of the task that the wide table shows
    logprob_kind: str | None = None  # kind of likelihoods: exact, a bound, or a score
    configuration: str | None = None  # digest of everything but seeds that can change an answer
    seed: str | None = None  # python, numpy, torch, few-shot; one number if equal
    scoring: str | None = None  # digest of everything that turns an answer into a metric
    documents: str | None = None  # the scored documents: "first N", or a digest of their numbers
    code: str | None = None  # "UNSANDBOXED" if the model's programs ran outside the sandbox
    label: str | None = None  # --label of the run
    kind: str | None = None  # "likelihood" or "generation"; None if a group has both
    options: str | None = None  # of the run: "k=v,k=v" for likelihoods; "k=v" for generation
    setup: str | None = None  # digest of the model and of the run's settings for all tasks


@dataclass(frozen=True)
class ResultFile:
    """The rows of one run, and the identity that marks repeated runs.

    Attributes:
        identity: task -> fingerprint, or a hash of all recorded settings if there is none.
        time: start of the run in seconds since 1970; 0.0 if unknown.
        rows: rows in the order of the file's tasks, with each task's headline first.
        settings: setting of the run -> value as text; `pretrained` is the hub id or folder.
        resolved: task -> setting -> value as text, as the task was run.
    """

    identity: dict[str, str]
    time: float
    rows: tuple[Row, ...]
    settings: dict[str, str] = field(default_factory=dict)
    resolved: dict[str, dict[str, str]] = field(default_factory=dict)


def read_result_file(path: Path, source: str) -> ResultFile:
    """Returns the rows of one lm-eval result file.

    Raises:
        ValueError: the file cannot be read, is not JSON, or is not a result file; the message has
            the reason.
    """
    try:
        return rows_of(load_document(path), source)
    except OSError as error:
        raise ValueError(error.strerror or type(error).__name__) from error
    except (RecursionError, MemoryError) as error:
        raise ValueError(
            f"it is nested too deeply or too large ({type(error).__name__})"
        ) from error


def load_document(path: Path) -> Any:
    """Returns the parsed JSON of a result file.

    Raises:
        ValueError: it is empty, too large or not JSON; the message has the reason.
    """
    if path.stat().st_size == 0:
        raise ValueError("it is empty")  # or a kernel file, which may be endless
    if path.stat().st_size > MOST_BYTES:
        raise ValueError(f"it is larger than {MOST_BYTES >> 20} MiB")
    try:
        return _valid(json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"not JSON ({type(error).__name__})") from error


def _valid(value: Any) -> Any:
    """Returns JSON data with valid Unicode in all texts.

    JSON can contain half of a surrogate pair, which cannot be written to a file.
    """
    if isinstance(value, str):
        return valid_unicode(value)
    if isinstance(value, dict):
        return {valid_unicode(key): _valid(item) for key, item in value.items()}
    return [_valid(item) for item in value] if isinstance(value, list) else value


def rows_of(document: Any, source: str) -> ResultFile:
    """Returns the rows of a parsed result file.

    Raises:
        ValueError: it is not a result file; the message has the reason.
    """
    source = valid_unicode(source)
    if not isinstance(document, dict) or not isinstance(document.get("results"), dict):
        raise ValueError("not an lm-eval result file (no 'results' object)")
    document = {**document, "group_subtasks": flat_groups(document)}
    document["configurations"] = _recorded_configurations(document)
    run = _short(_run_cells(document, source))
    found: list[tuple[str, Row]] = []
    for task in document["results"]:
        for cells in _task_rows(document, task):
            found.append((task, Row(**run, **_short(cells))))
            if len(found) > MOST_SCORES:
                raise ValueError(f"it holds more than {MOST_SCORES} scores")
    rows = tuple(row for _, row in found)
    if not rows and "dlm_eval" not in document:  # in a run of dlm_eval all samples may have failed
        raise ValueError("it holds no scores")
    recorded = _Recorded(document)
    identity = {row.task: _named(row) or recorded.of(task) for task, row in dict(found).items()}
    model = nested(document, "dlm_eval", "settings", "model")
    pretrained = _first(model.get("pretrained"), _named_checkpoint(document))
    return ResultFile(
        identity=identity,
        time=_time(document),
        rows=rows,
        settings=_texts(nested(document, "dlm_eval", "settings"))
        | ({} if pretrained is None else {"pretrained": pretrained}),
        resolved={
            task: _texts(
                {**(how := nested(document, "dlm_eval", "tasks", task)), **nested(how, "decode")}
            )
            for task in dict(found)
        },
    )


def _texts(settings: dict[str, Any]) -> dict[str, str]:
    """Returns settings that are one text, number or boolean, as text."""
    texts = {
        str(key): str(value)
        for key, value in list(settings.items())[:MOST_RESOLVED]
        if isinstance(value, (str, int, float, bool))
    }
    return {key: text for key, text in texts.items() if len(text) <= LONGEST_RESOLVED}


def _short(cells: dict[str, Any]) -> dict[str, Any]:
    """Returns cells with long texts cut for tables. A cut text ends in a hash of the whole text."""

    def short(name: str, value: Any) -> Any:
        if not isinstance(value, str) or len(value) <= MOST_CHARACTERS or name == "source":
            return value
        return f"{value[:MOST_CHARACTERS]}…{hashlib.sha256(value.encode()).hexdigest()[:8]}"

    return {name: short(name, value) for name, value in cells.items()}


def _named(row: Row) -> str | None:
    """Returns the identity of a score: fingerprint, scoring and documents."""
    parts = (row.fingerprint, row.scoring, row.documents)
    return " ".join(str(part) for part in parts) if row.fingerprint else None


def _run_cells(document: dict[str, Any], source: str) -> dict[str, Any]:
    """Returns the cells that all rows of the run share."""
    config, block = nested(document, "config"), nested(document, "dlm_eval")
    model, environment = nested(block, "settings", "model"), nested(block, "environment")
    return {
        "model": _first(model.get("family"), config.get("model"), document.get("model_source")),
        "checkpoint": _first(
            model.get("checkpoint"), model.get("pretrained"), _named_checkpoint(document)
        ),
        "revision": _first(
            model.get("revision"), config.get("model_sha"), config.get("model_revision")
        ),
        "device": _first(environment.get("device_name"), model.get("device"), config.get("device")),
        "dtype": (_first(model.get("dtype"), config.get("model_dtype")) or "").removeprefix(
            "torch."
        )
        or None,
        "date": _utc(_time(document)),
        "seed": _seeds(nested(block, "settings", "seeds")) or _recorded_seeds(config),
        "source": source,
        "label": _first(block.get("label")),
        "setup": _setup(document),
        "options": _options(document),
    }


def _setup(document: dict[str, Any]) -> str | None:
    """Returns a digest of the model and of the settings that all tasks of a run share."""
    settings = nested(document, "dlm_eval", "settings")
    if settings:
        model = {k: v for k, v in nested(settings, "model").items() if k not in _LAYOUT}
        return _hash([model, {name: settings.get(name) for name in _COMMON}])[:16]
    config = {k: v for k, v in nested(document, "config").items() if k not in _OF_TASKS}
    if not config:
        return None
    names = ("model_source", "system_instruction", "chat_template_sha", "fewshot_as_multiturn")
    return _hash([config, [document.get(name) for name in names]])[:16]


def _recorded_seeds(config: dict[str, Any]) -> str | None:
    """Returns the seeds of a file of lm-eval alone."""
    if not any(name in config for name in _SEEDS):
        return None
    names = ("python", "numpy", "torch", "fewshot")
    return _seeds({name: config.get(key) for name, key in zip(names, _SEEDS, strict=True)})


def _task_rows(document: dict[str, Any], task: str) -> Iterator[dict[str, Any]]:
    """Yields the cells of each score of one task (or group of tasks), headline first."""
    scores, values = nested(document, "results", task), _values(document, task)
    shared = {"task": task, **_size_cells(document, task), **_procedure_cells(document, task)}
    better = nested(document, "higher_is_better", task)
    leaves = _leaves(document, task)
    declared = {
        name
        for leaf in leaves
        for name in _names(nested(document, "configs", leaf), "metric_list", "metric")
    }
    for position, (metric, pipeline) in enumerate(_ordered_metrics(document, task)):
        value = values[metric, pipeline]
        direction = better.get(metric)
        yield {
            **shared,
            "metric": metric,
            "filter": pipeline or None,
            "value": value,
            "stderr": _number(scores.get(f"{metric}_stderr,{pipeline}")),
            "unit": _unit(value) if _is_fraction(metric, declared) else None,
            "higher_is_better": direction if isinstance(direction, bool) else None,
            "headline": position == 0,
        }


def _is_fraction(metric: str, declared: Collection[str]) -> bool:
    """Returns whether a metric is a fraction: declared by its task, or added by --repeats to one
    that is.
    """
    base = OF_REPEATS.sub("", metric) or "pass@1"
    return bool({metric, base} & set(declared)) and FRACTION.fullmatch(base) is not None


def _ordered_metrics(document: dict[str, Any], task: str) -> list[tuple[str, str]]:
    """Returns (metric, filter) of all scores, ordered as in the task's lists, then the file."""
    config = nested(document, "configs", task)
    metrics, filters = (
        _places(_names(config, *where))
        for where in (("metric_list", "metric"), ("filter_list", "name"))
    )
    return sorted(
        _values(document, task),
        key=lambda pair: (_metric_place(metrics, pair[0]), _place(filters, pair[1])),
    )


def _values(document: dict[str, Any], task: str) -> dict[tuple[str, str], float]:
    """Returns (metric, filter) -> value of every score; an object is one metric per key."""
    found: dict[tuple[str, str], float] = {}

    def add(metric: str, pipeline: str, value: Any, depth: int = 0) -> None:
        if isinstance(value, dict) and depth < _DEEPEST:
            for key, item in value.items():
                add(f"{metric}.{key}", pipeline, item, depth + 1)
        elif (number := _number(value)) is not None:
            found[metric, pipeline] = number

    for key, value in nested(document, "results", task).items():
        metric, comma, pipeline = str(key).partition(",")
        # Keys without a comma describe the task (alias, sample_len). "bypass" means "not scored" in
        # lm-eval.
        if comma and not metric.endswith("_stderr") and metric != "bypass":
            add(metric, pipeline, value)
    return found


def _metric_place(metrics: dict[str, int], metric: str) -> int:
    """Returns the index of a metric, or of its parent metric, in the task's list."""
    return min(_place(metrics, metric), _place(metrics, metric.partition(".")[0]))


def _size_cells(document: dict[str, Any], task: str) -> dict[str, Any]:
    """Returns the numbers of documents and examples; for a group, sums over its tasks."""
    counts, scores = nested(document, "n-samples"), nested(document, "results", task)
    leaves = _leaves(document, task)
    scored = _total([_count(nested(counts, leaf).get("effective")) for leaf in leaves])
    return {
        "n": scored if scored is not None else _count(scores.get("sample_len")),
        "n_total": _total([_count(nested(counts, leaf).get("original")) for leaf in leaves]),
        "shots": _first(nested(document, "n-shot").get(task)),
        "task_version": _first(nested(document, "versions").get(task)),
    }


def _procedure_cells(document: dict[str, Any], task: str) -> dict[str, Any]:
    """Returns the cells of estimator, decoding and cost; empty for files of lm-eval alone."""
    block = nested(document, "dlm_eval")
    how = nested(block, "tasks", task)
    costs = [nested(block, "cost", leaf) for leaf in _leaves(document, task)]
    kinds = {_kind(document, leaf) for leaf in _leaves(document, task)}

    def spent(name: str) -> float | None:
        total: float | None = _total([_number(cost.get(name)) for cost in costs])
        return total

    return {
        **{
            name: _first(how.get(name))
            for name in (
                "estimator",
                "strategy",
                "steps",
                "gen_length",
                "block_length",
                "logprob_kind",
            )
        },
        "forwards_per_sample": _ratio(spent("forwards"), spent("samples")),
        "tokens_per_forward": _ratio(spent("tokens"), spent("forwards")),
        "tokens_per_second": _ratio(spent("tokens"), spent("seconds")),
        "errors": _total([_count(cost.get("errors")) for cost in costs]),
        "fingerprint": _digest(document, task, "fingerprint") or _first(block.get("fingerprint")),
        **{
            name: _digest(document, task, name)
            for name in ("configuration", "scoring", "documents")
        },
        "code": UNSANDBOXED if outside(document, task) else None,
        "kind": kinds.pop() if len(kinds) == 1 else None,
    }


def _options(document: dict[str, Any]) -> str | None:
    """Returns the run's settings for both kinds of tasks."""
    settings, config = nested(document, "dlm_eval", "settings"), nested(document, "config")
    given = config.get("gen_kwargs")
    written = {
        **(given if isinstance(given, dict) else {"gen_kwargs": given} if given else {}),
        **nested(settings, "gen_kwargs"),
        **nested(settings, "decode"),
    }
    estimator = nested(settings, "estimator")
    scored = {
        **({"estimator": estimator.get("name")} if estimator else {}),
        **{name: value for name, value in estimator.items() if name != "name"},
        "stride": settings.get("stride"),
    }
    texts = [
        ",".join(f"{key}={_plain(value)}" for key, value in part.items() if value is not None)
        for part in (scored, written)
    ]
    return BETWEEN.join(texts) if any(texts) else None


def _plain(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _kind(document: dict[str, Any], task: str) -> str | None:
    kind = nested(document, "dlm_eval", "tasks", task).get("kind")
    if kind in (LIKELIHOOD, GENERATION):
        return str(kind)
    output = nested(document, "configs", task).get("output_type")
    return (
        None
        if not isinstance(output, str)
        else GENERATION
        if output == "generate_until"
        else LIKELIHOOD
    )


def _digest(document: dict[str, Any], task: str, name: str) -> str | None:
    """Returns the digest `name` of a task, or of all tasks of a group."""
    leaves = _leaves(document, task)
    found = [_first(nested(document, "dlm_eval", "tasks", leaf).get(name)) for leaf in leaves]
    if name == "configuration" and document["configurations"]:
        found = [document["configurations"][leaf] for leaf in leaves]
    if any(value is None for value in found):
        return None
    if len(set(found)) == 1 and (len(leaves) == 1 or name == "documents"):
        return found[0]
    return _hash(sorted(zip(leaves, map(str, found), strict=True)))


def _recorded_configurations(document: dict[str, Any]) -> dict[str, str]:
    """Returns task -> digest of all but seeds that lm-eval records of its settings; empty for files
    of dlm_eval. The groups of `document` are flat.
    """
    if "dlm_eval" in document or not nested(document, "config"):
        return {}
    config = {
        key: value
        for key, value in nested(document, "config").items()
        if key not in (*_VOLATILE, *_SEEDS, "limit", "bootstrap_iters")
    }
    kinds = [nested(document, kind) for kind in ("configs", "versions", "n-shot")]
    names = [
        document.get(name) for name in ("model_source", "lm_eval_version", "chat_template_sha")
    ]
    shared = hashlib.sha256(f"[{json.dumps(config, sort_keys=True)}, ".encode())

    def digest(task: str) -> str:  # of [config, the task's settings, names]; config may be large
        whole, own = shared.copy(), [kind.get(task) for kind in kinds]
        whole.update(json.dumps([own, names], sort_keys=True)[1:].encode())
        return whole.hexdigest()

    below: dict[str, list[str]] = document["group_subtasks"]
    return {leaf: digest(leaf) for leaves in below.values() for leaf in leaves}


def _seeds(seeds: dict[str, Any]) -> str | None:
    """Returns the seeds of a run as one cell: one number if all are equal, else all four."""
    values = [seeds.get(name) for name in ("python", "numpy", "torch", "fewshot")]
    if not seeds:
        return None
    texts = ["none" if value is None else str(value) for value in values]
    return texts[0] if len(set(texts)) == 1 else ",".join(texts)


def outside(document: dict[str, Any], task: str) -> bool:
    """Returns whether programs of a task or group ran outside the sandbox (code_tasks.py)."""
    sandboxes = nested(document, "dlm_eval", "environment", "sandbox")
    lists = [sandboxes.get(leaf) for leaf in _leaves(document, task)]
    return any(isinstance(each, list) and UNSANDBOXED in each for each in lists)


def _unit(value: float) -> str | None:
    return "fraction" if math.isnan(value) or abs(value) <= 1 else None


def _leaves(document: dict[str, Any], task: str) -> list[str]:
    """Returns the tasks of a group, or the task itself.

    The groups of `document` are flat (`flat_groups`).
    """
    return nested(document, "group_subtasks").get(task) or [task]


def flat_groups(document: dict[str, Any]) -> dict[str, list[str]]:
    """Returns the tasks of each group of the results, including tasks of nested groups.

    Raises:
        ValueError: there are more than `MOST_MEMBERS`.
    """
    below = nested(document, "group_subtasks")
    flat: dict[str, list[str]] = {}
    count = 0
    for group in document["results"]:
        leaves, waiting, seen = [], [group], set()
        while waiting:
            name = waiting.pop()
            if name in seen:
                continue
            seen.add(name)
            children = below.get(name)
            if isinstance(children, list) and children:
                count += len(children)
                if count > MOST_MEMBERS:
                    raise ValueError(f"its groups have more than {MOST_MEMBERS} tasks")
                waiting.extend(str(child) for child in reversed(children))
            else:
                leaves.append(name)
        flat[group] = leaves
    return flat


def _named_checkpoint(document: dict[str, Any]) -> object:
    """Returns lm-eval's model_name if model_args sets it, else None: it is then random letters."""
    arguments = nested(document, "config").get("model_args")
    if isinstance(arguments, dict):
        return next((arguments[key] for key in _CHECKPOINT_ARGS if key in arguments), None)
    named = isinstance(arguments, str) and any(f"{key}=" in arguments for key in _CHECKPOINT_ARGS)
    return document.get("model_name") if named else None


class _Recorded:
    """Hashes of the settings in a file of lm-eval alone, for the run and each of its tasks."""

    def __init__(self, document: dict[str, Any]) -> None:
        self._document = document
        self._tasks: dict[str, str] = {}
        self._run = ""

    def of(self, task: str) -> str:
        """Returns a hash of all recorded settings of a task, or of a group's tasks."""
        if not self._run:
            config = {
                k: v for k, v in nested(self._document, "config").items() if k not in _VOLATILE
            }
            named = [
                self._document.get(name)
                for name in ("model_source", "lm_eval_version", "chat_template_sha")
            ]
            self._run = _hash([config, *named])
        return _hash([self._run, *map(self._of_task, _leaves(self._document, task))])

    def _of_task(self, task: str) -> str:
        if task not in self._tasks:
            kinds = ("configs", "versions", "n-shot", "n-samples")
            self._tasks[task] = _hash([nested(self._document, kind).get(task) for kind in kinds])
        return self._tasks[task]


def _hash(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def _time(document: dict[str, Any]) -> float:
    time = _number(document.get("date"))
    return time if time is not None and math.isfinite(time) else 0.0


def _utc(time: float) -> str | None:
    try:
        return (
            datetime.fromtimestamp(time, timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")
            if time
            else None
        )
    except (ValueError, OverflowError, OSError):
        return None


def nested(outer: Mapping[str, Any], *keys: str) -> dict[str, Any]:
    """Returns the nested object, or an empty one if the file has something else."""
    inner: Any = outer
    for key in keys:
        inner = inner.get(key) if isinstance(inner, Mapping) else None
    return inner if isinstance(inner, dict) else {}


def _names(config: dict[str, Any], listed: str, key: str) -> list[str]:
    entries = config.get(listed)
    return (
        [str(entry.get(key)) for entry in entries if isinstance(entry, dict)]
        if isinstance(entries, list)
        else []
    )


def _places(names: list[str]) -> dict[str, int]:
    return {name: place for place, name in reversed(list(enumerate(names)))}


def _place(places: dict[str, int], name: str) -> int:
    return places.get(name, MOST_MEMBERS)


def _first(*values: object) -> str | None:
    """Returns the first value that is a number or a non-empty text, as text."""
    scalars = (
        value
        for value in values
        if isinstance(value, (str, int, float)) and not isinstance(value, bool)
    )
    return next((str(value) for value in scalars if value != ""), None)


def _number(value: object) -> float | None:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    try:
        return float(value)
    except OverflowError:
        return None


def _count(value: object) -> int | None:
    number = _number(value)
    return (
        int(number)
        if number is not None and 0 <= number < 2**63 and number == int(number)
        else None
    )


def _total(values: list[Any]) -> Any:
    return None if not values or any(value is None for value in values) else sum(values)


def _ratio(part: float | None, whole: float | None) -> float | None:
    """Returns a cost over another; None if it cannot be one."""
    if part is None or whole is None or part < 0 or not whole > 0:
        return None
    ratio = part / whole
    return ratio if ratio == 0 or RATIOS[0] <= ratio <= RATIOS[1] else None
