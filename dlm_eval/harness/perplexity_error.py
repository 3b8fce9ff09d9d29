"""The sampling error of perplexities and of bits per byte, for which lm-eval has none."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from dlm_eval.uncertainty import student

# How fast lm-eval's aggregates change with the log-likelihood per word, by their names.
SLOPES: dict[str, Callable[[float], float]] = {
    "weighted_perplexity": lambda ratio: math.exp(-ratio),
    "bits_per_byte": lambda ratio: 1 / math.log(2),
}


def perplexity_stderr(task: Any, samples: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Returns metric -> sampling standard error of perplexities per word or byte and of bits per byte.

    They are functions of r = sum of log-likelihoods / sum of words, a ratio estimate over n documents, whose error is that of the sum of
    (log-likelihood - r * words); the delta method does the rest.

    Args:
        task: lm-eval's task.
        samples: its logged samples, one filter's.
    """
    found = {}
    for metric, (slope, ratio, error, _) in _ratios(task, samples).items():
        found[metric] = slope(ratio) * error
    return found


def perplexity_interval(task: Any, samples: Sequence[Mapping[str, Any]]) -> dict[str, tuple[float, float]]:
    """Returns metric -> 95 % interval of perplexities per word or byte over documents: Student's on the logarithmic scale."""
    found = {}
    for metric, (slope, ratio, error, count) in _ratios(task, samples).items():
        if slope is SLOPES["weighted_perplexity"]:
            reach = student(count - 1.0) * error
            found[metric] = math.exp(min(700.0, -ratio - reach)), math.exp(min(700.0, -ratio + reach))
    return found


def _ratios(
    task: Any, samples: Sequence[Mapping[str, Any]]
) -> dict[str, tuple[Callable[[float], float], float, float, int]]:
    """Returns metric -> its slope, log-likelihood per word, the standard error of that, and the documents."""
    found = {}
    for metric, aggregate in task.aggregation().items():
        slope = SLOPES.get(getattr(aggregate, "__name__", ""))
        pairs = np.array([s[metric] for s in samples if metric in s and "error" not in s], dtype=np.float64)
        if slope is None or len(pairs) < 2 or not np.isfinite(pairs).all():
            continue
        logs, words = pairs.T
        ratio = logs.sum() / words.sum()
        error = math.sqrt(len(pairs) * np.var(logs - ratio * words, ddof=1)) / words.sum()
        found[metric] = slope, float(ratio), float(error), len(pairs)
    return found
