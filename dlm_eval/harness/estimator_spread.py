"""How much of a metric's uncertainty is the estimator's: what would change if the likelihoods were estimated again.

The log-likelihoods of a document are moved by normal noise of their Monte Carlo standard errors, correlated as their errors are (choices that share random
numbers err together), and the task scores the document anew; the standard deviation of the metric over such draws is the estimator's part of its spread.
Perplexities, which are exponentials, are taken on the logarithmic scale.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any
from unittest.mock import patch

import numpy as np

from dlm_eval.uncertainty import Error, student, summed

EXPONENTIAL = ("perplexity", "weighted_perplexity")  # lm-eval's aggregates, by name
DRAWS = 30  # enough for one significant digit of a standard deviation, which is what a reader needs


def estimator_spread(task: Any, samples: Sequence[Mapping[str, Any]], seed: int = 0) -> dict[str, float | None]:
    """Returns metric -> standard deviation that estimating the likelihoods again would give it.

    Empty where all are exact; infinite metrics have none; None where the error of a likelihood is not known.

    Args:
        task: lm-eval's task.
        samples: its logged samples with `logprob_stderr` and `logprob_correlation`, one filter's.
        seed: of the noise.
    """
    return {name: None if part is None else part.stderr for name, part in estimator_parts(task, samples, seed).items()}


def is_exponential(task: Any, metric: str) -> bool:
    """Returns whether a metric is the exponential of a mean log-likelihood."""
    return getattr(task.aggregation().get(metric), "__name__", "") in EXPONENTIAL


@dataclass(frozen=True)
class Part:
    """The estimator's part of a metric's spread: standard deviation, and the interval of a perplexity."""

    stderr: float
    interval: tuple[float, float] | None = None


def estimator_parts(task: Any, samples: Sequence[Mapping[str, Any]], seed: int = 0) -> dict[str, Part | None]:
    """Returns metric -> the estimator's part, as `estimator_spread` does."""
    if not any(_moves(s) for s in samples if "error" not in s):
        return {}
    generator = np.random.default_rng(seed)
    scored = [s for s in samples if "error" not in s]
    with _read_once(task):
        # What is exact scores the same in every draw.
        fixed = [None if _moves(s) else _values(task, s) for s in scored]
        draws = [_metrics(task, scored, fixed, generator) for _ in range(DRAWS)]
    names = [name for name, value in draws[0].items() if isinstance(value, (int, float, np.floating))]
    moved = {name: np.array([draw[name] for draw in draws], dtype=np.float64) for name in names}
    known = summed(error for s in scored for error in _errors(s)).stderr is not None
    values = _metrics(task, scored, [_values(task, s) for s in scored], generator)
    return {
        name: _part(values[name], own, is_exponential(task, name)) if known else None
        for name, own in moved.items()
        if np.isfinite(own).all() and np.isfinite(values[name])
    }


def _part(value: float, draws: Any, exponential: bool) -> Part:
    """Returns the part of a metric with this value from its draws."""
    if not exponential or value <= 0:
        return Part(float(draws.std(ddof=1)))
    spread = float(np.log(draws).std(ddof=1))
    reach = student(len(draws) - 1.0) * spread
    return Part(value * spread, (value * math.exp(-reach), value * math.exp(min(reach, 700.0 - math.log(value)))))


def _moves(sample: Mapping[str, Any]) -> bool:
    """Returns whether a likelihood of the sample was sampled."""
    return any(error.stderr != 0 for error in _errors(sample))


def _errors(sample: Mapping[str, Any]) -> list[Error]:
    """Returns the errors of a sample's likelihoods."""
    known = sample.get("logprob_stderr") or []
    nothing = [None] * len(known)
    rough, freedom = sample.get("logprob_rough_stderr", nothing), sample.get("logprob_freedom", nothing)
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
    return {metric: aggregation[metric](items) for metric, items in values.items() if metric in aggregation}


def _values(task: Any, sample: Mapping[str, Any], generator: np.random.Generator | None = None) -> dict[str, Any]:
    """Returns the metrics of one sample; with a generator, its likelihoods are moved."""
    answers = sample["filtered_resps"] if generator is None else _moved(sample, generator)
    return dict(task.process_results(sample["doc"], answers))


@contextmanager
def _read_once(task: Any) -> Iterator[None]:
    """Has the task render the choices and the target of each document once, not for every draw (lm-eval renders and parses templates each time)."""
    with ExitStack() as stack:
        for name in ("doc_to_choice", "doc_to_target"):
            if hasattr(task, name):
                stack.enter_context(patch.object(task, name, _by_document(getattr(task, name))))
        yield


def _by_document(read: Callable[..., Any]) -> Callable[..., Any]:
    known: dict[tuple[Any, ...], Any] = {}

    def once(doc: Any, *more: Any) -> Any:
        key = (id(doc), *map(repr, more))
        if key not in known:
            known[key] = read(doc, *more)
        return known[key]

    return once


def _moved(sample: Mapping[str, Any], generator: np.random.Generator) -> list[Any]:
    """Returns the answers with their log-likelihoods moved by errors as large and as correlated as theirs."""
    errors = _errors(sample)
    noise = generator.standard_normal(len(errors))
    shared = sample.get("logprob_correlation")
    if shared is not None:  # rounding may have made it a little indefinite
        values, vectors = np.linalg.eigh(np.array(shared))
        noise = vectors @ (np.sqrt(np.maximum(values, 0.0)) * noise)
    steps = noise * np.array([error.best or 0.0 for error in errors])
    pairs = zip(sample["filtered_resps"], steps.tolist(), strict=True)
    return [(a[0] + step, *a[1:]) if isinstance(a, (tuple, list)) else a + step for a, step in pairs]
