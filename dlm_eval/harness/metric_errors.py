"""Standard errors of metrics: the estimator's part, and sampling errors that lm-eval lacks.

The estimator's part is the standard deviation of a metric over repeated estimation of the
likelihoods. It is simulated: normal noise with their Monte Carlo standard errors and correlations
(choices share random numbers) is added to the log-likelihoods of each document, and the task scores
the document again. Perplexities are treated on the logarithmic scale. lm-eval has no sampling error
of perplexities and bits per byte.

    samples -> metric_errors -> results["dlm_eval"] by the keys of KEYS -> error_of -> table and
    boards
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from dlm_eval.harness.lm_eval_patches import rendered_once
from dlm_eval.harness.results import Record
from dlm_eval.harness.sampling_errors import sampling_intervals
from dlm_eval.likelihood.target import merge
from dlm_eval.uncertainty import Error, student, summed

EXPONENTIAL = ("perplexity", "weighted_perplexity")  # lm-eval's aggregates, by name
KEYS = ("estimator_stderr", "estimator_interval", "perplexity_stderr", "perplexity_interval")
DRAWS = 30  # enough for one significant digit of a standard deviation

# Derivatives of lm-eval's aggregates with respect to the log-likelihood per word.
SLOPES: dict[str, Callable[[float], float]] = {
    "weighted_perplexity": lambda ratio: math.exp(-ratio),
    "bits_per_byte": lambda ratio: 1 / math.log(2),
}


def metric_errors(
    tasks: Mapping[str, Any], results: Mapping[str, Any]
) -> dict[str, dict[str, dict[str, Any]]]:
    """Returns key of `KEYS` -> task -> metric -> standard error or interval."""
    found: dict[str, dict[str, dict[str, Any]]] = {key: {} for key in KEYS}
    for name, task in tasks["tasks"].items():
        first = [
            s
            for s in results["samples"][name]
            if s["filter"] == results["samples"][name][0]["filter"]
        ]
        if task.OUTPUT_TYPE == "generate_until":
            if intervals := sampling_intervals(task, first):
                found["perplexity_interval"][name] = intervals
            continue
        parts = estimator_parts(task, first)
        own: tuple[dict[str, Any], ...] = (
            {metric: part and part.stderr for metric, part in parts.items()},
            {metric: part.interval for metric, part in parts.items() if part and part.interval},
            *perplexity_errors(task, first),
        )
        for key, errors in zip(KEYS, own, strict=True):
            if errors:
                found[key][name] = errors
    return found


def error_of(results: Mapping[str, Any], key: str, task: str, metric: str) -> Any:
    """Returns the entry of a metric under a key of `KEYS` in the results, or None."""
    return results.get("dlm_eval", {}).get(key, {}).get(task, {}).get(metric)


def perplexity_bounds(
    tasks: Mapping[str, Any], results: Mapping[str, Any], records: Sequence[Record]
) -> dict[str, dict[str, tuple[float, float | None]]]:
    """Returns task -> perplexity -> (at least, at most): what the model's own is in 95 %.

    The ends of the bracket of the log-likelihood of all texts together; an end is 0 or None if
    nothing is known. Tasks whose likelihoods are exact, or no bounds, are left out.
    """
    found: dict[str, dict[str, tuple[float, float | None]]] = {}
    for name, task in tasks["tasks"].items():
        scores = [
            record.score
            for record in records
            if record.task == name and record.score is not None and record.error is None
        ]
        if not scores or task.OUTPUT_TYPE != "loglikelihood_rolling":
            continue
        whole = merge(scores)
        if whole.kind == "exact" or whole.bracket == (None, None):
            continue
        for metric, units in _units(task, results["samples"][name]).items():
            low, high = (
                None if end is None else math.exp(min(700.0, -end / units))
                for end in reversed(whole.bracket)
            )
            found.setdefault(name, {})[metric] = (low or 0.0, high)
    return found


def _units(task: Any, samples: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Returns perplexity -> number of words, bytes or tokens of all samples of the first filter."""
    scored = [s for s in samples if "error" not in s and s["filter"] == samples[0]["filter"]]
    return {
        metric: float(sum(s[metric][1] for s in scored if metric in s))
        for metric, aggregate in task.aggregation().items()
        if getattr(aggregate, "__name__", "") == "weighted_perplexity"
    }


def is_exponential(task: Any, metric: str) -> bool:
    """Returns whether a metric is the exponential of a mean log-likelihood."""
    return getattr(task.aggregation().get(metric), "__name__", "") in EXPONENTIAL


@dataclass(frozen=True)
class Part:
    """The estimator's part of a metric: standard deviation, and interval of a perplexity."""

    stderr: float
    interval: tuple[float, float] | None = None


def estimator_parts(
    task: Any, samples: Sequence[Mapping[str, Any]], seed: int = 0
) -> dict[str, Part | None]:
    """Returns metric -> its spread over repeated estimation of the likelihoods.

    The mapping is empty if all likelihoods are exact, and lacks infinite metrics. All values are
    None if the error of a likelihood is unknown.

    Args:
        samples: the task's logged samples of one filter, with `logprob_stderr` and
            `logprob_correlation`.
    """
    if not any(_moves(s) for s in samples if "error" not in s):
        return {}
    generator = np.random.default_rng(seed)
    scored = [s for s in samples if "error" not in s]
    with rendered_once(task):
        # Samples with exact likelihoods have the same metrics in every draw.
        fixed = [None if _moves(s) else _values(task, s) for s in scored]
        draws = [_metrics(task, scored, fixed, generator) for _ in range(DRAWS)]
    names = [
        name for name, value in draws[0].items() if isinstance(value, (int, float, np.floating))
    ]
    moved = {name: np.array([draw[name] for draw in draws], dtype=np.float64) for name in names}
    known = summed(error for s in scored for error in _errors(s)).stderr is not None
    values = _metrics(task, scored, [_values(task, s) for s in scored], generator)
    return {
        name: _part(values[name], own, is_exponential(task, name)) if known else None
        for name, own in moved.items()
        if np.isfinite(own).all() and np.isfinite(values[name])
    }


def _part(value: float, draws: Any, exponential: bool) -> Part:
    """Returns the estimator's part of a metric from its value and its draws."""
    if not exponential or value <= 0:
        return Part(_deviation(draws))
    spread = _deviation(np.log(draws))
    reach = student(len(draws) - 1.0) * spread
    return Part(
        value * spread,
        (value * math.exp(-reach), value * math.exp(min(reach, 700.0 - math.log(value)))),
    )


def _deviation(draws: Any) -> float:
    """Returns the standard deviation of draws; exactly 0 if all are equal."""
    return float(draws.std(ddof=1)) if np.ptp(draws) > 0 else 0.0


def _moves(sample: Mapping[str, Any]) -> bool:
    """Returns whether a likelihood of the sample is not exact."""
    return any(error.stderr != 0 for error in _errors(sample))


def _errors(sample: Mapping[str, Any]) -> list[Error]:
    """Returns the errors of a sample's likelihoods."""
    known = sample.get("logprob_stderr") or []
    nothing = [None] * len(known)
    rough, freedom = (
        sample.get("logprob_rough_stderr", nothing),
        sample.get("logprob_freedom", nothing),
    )
    return [Error(a, b or math.inf, c) for a, b, c in zip(known, freedom, rough, strict=True)]


def _metrics(
    task: Any,
    samples: Sequence[Mapping[str, Any]],
    fixed: Sequence[dict[str, Any] | None],
    generator: np.random.Generator,
) -> dict[str, Any]:
    """Returns the aggregated metrics of one draw."""
    values: dict[str, list[Any]] = {}
    for sample, known in zip(samples, fixed, strict=True):
        for metric, value in (known or _values(task, sample, generator)).items():
            values.setdefault(metric, []).append(value)
    aggregation = task.aggregation()
    return {
        metric: aggregation[metric](items)
        for metric, items in values.items()
        if metric in aggregation
    }


def _values(
    task: Any, sample: Mapping[str, Any], generator: np.random.Generator | None = None
) -> dict[str, Any]:
    """Returns the metrics of one sample, with noise added to its likelihoods if `generator`."""
    answers = sample["filtered_resps"] if generator is None else _moved(sample, generator)
    return dict(task.process_results(sample["doc"], answers))


def _moved(sample: Mapping[str, Any], generator: np.random.Generator) -> list[Any]:
    """Returns the answers plus noise with the standard errors and correlations of the sample."""
    errors = _errors(sample)
    noise = generator.standard_normal(len(errors))
    shared = sample.get("logprob_correlation")
    if shared is not None:  # it may be slightly indefinite because of rounding
        values, vectors = np.linalg.eigh(np.array(shared))
        noise = vectors @ (np.sqrt(np.maximum(values, 0.0)) * noise)
    steps = noise * np.array([error.best or 0.0 for error in errors])
    pairs = zip(sample["filtered_resps"], steps.tolist(), strict=True)
    return [
        (a[0] + step, *a[1:]) if isinstance(a, (tuple, list)) else a + step for a, step in pairs
    ]


def perplexity_errors(
    task: Any, samples: Sequence[Mapping[str, Any]]
) -> tuple[dict[str, float], dict[str, tuple[float, float]]]:
    """Returns the sampling errors of perplexities (per word or byte) and bits per byte.

    All three metrics are functions of r = sum of log-likelihoods / sum of words, a ratio estimate
    over n documents. The error of r is that of the sum of (log-likelihood - r * words). The delta
    method gives the errors of the functions.

    Args:
        samples: the task's logged samples of one filter.

    Returns:
        metric -> standard error, and metric -> 95 % Student interval of perplexities, computed on
        the logarithmic scale.
    """
    stderr, interval = {}, {}
    for metric, (slope, ratio, error, count) in _ratios(task, samples).items():
        stderr[metric] = slope(ratio) * error
        if slope is SLOPES["weighted_perplexity"]:
            reach = student(count - 1.0) * error
            interval[metric] = (
                math.exp(min(700.0, -ratio - reach)),
                math.exp(min(700.0, -ratio + reach)),
            )
    return stderr, interval


def _ratios(
    task: Any, samples: Sequence[Mapping[str, Any]]
) -> dict[str, tuple[Callable[[float], float], float, float, int]]:
    """Returns metric -> (derivative, log-likelihood per word, its standard error, documents)."""
    found = {}
    for metric, aggregate in task.aggregation().items():
        slope = SLOPES.get(getattr(aggregate, "__name__", ""))
        pairs = np.array(
            [s[metric] for s in samples if metric in s and "error" not in s], dtype=np.float64
        )
        if slope is None or len(pairs) < 2 or not np.isfinite(pairs).all():
            continue
        logs, words = pairs.T
        ratio = logs.sum() / words.sum()
        error = math.sqrt(len(pairs) * np.var(logs - ratio * words, ddof=1)) / words.sum()
        found[metric] = slope, float(ratio), float(error), len(pairs)
    return found
