"""How much of a metric's uncertainty is the estimator's: what would change if the likelihoods were estimated again.

Each log-likelihood is moved by normal noise of its own Monte Carlo standard error and the task scores the document anew; the standard deviation of the
metric over such draws is the estimator's part of its spread. The noise is independent between choices. Choices that share random numbers err
together, so the part is rather over- than understated.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest.mock import patch

import numpy as np

DRAWS = 30  # enough for one significant digit of a standard deviation, which is what a reader needs


def estimator_spread(task: Any, samples: Sequence[Mapping[str, Any]], seed: int = 0) -> dict[str, float | None]:
    """Returns metric -> standard deviation that estimating the likelihoods again would give it.

    Empty where all are exact; infinite metrics have none; None where the error of a likelihood is not known.

    Args:
        task: lm-eval's task.
        samples: its logged samples with `logprob_stderr`, one filter's.
        seed: of the noise.
    """
    if not any(_moves(s) for s in samples if "error" not in s):
        return {}
    generator = np.random.default_rng(seed)
    scored = [s for s in samples if "error" not in s]
    with _read_once(task):
        # What is exact scores the same in every draw.
        fixed = [None if _moves(s) else _values(task, s, generator) for s in scored]
        draws = [_metrics(task, scored, fixed, generator) for _ in range(DRAWS)]
    names = [name for name, value in draws[0].items() if isinstance(value, (int, float, np.floating))]
    moved = {name: np.array([draw[name] for draw in draws], dtype=np.float64) for name in names}
    known = all(stderr is not None for s in scored for stderr in s["logprob_stderr"])
    return {name: float(own.std(ddof=1)) if known else None for name, own in moved.items() if np.isfinite(own).all()}


def _moves(sample: Mapping[str, Any]) -> bool:
    """Returns whether a likelihood of the sample was sampled."""
    return any(stderr != 0 for stderr in sample.get("logprob_stderr") or ())


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


def _values(task: Any, sample: Mapping[str, Any], generator: np.random.Generator) -> dict[str, Any]:
    """Returns the metrics of one sample, its likelihoods moved."""
    return dict(task.process_results(sample["doc"], _moved(sample, generator)))


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
    moved = []
    for answer, stderr in zip(sample["filtered_resps"], sample["logprob_stderr"], strict=True):
        noise = generator.normal(0.0, stderr or 0.0)
        moved.append((answer[0] + noise, *answer[1:]) if isinstance(answer, (tuple, list)) else answer + noise)
    return moved
