"""The sampling error of perplexities and of bits per byte, for which lm-eval has none."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

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
    for metric, aggregate in task.aggregation().items():
        slope = SLOPES.get(getattr(aggregate, "__name__", ""))
        pairs = np.array([s[metric] for s in samples if metric in s and "error" not in s], dtype=np.float64)
        if slope is None or len(pairs) < 2 or not np.isfinite(pairs).all():
            continue
        logs, words = pairs.T
        ratio = logs.sum() / words.sum()
        found[metric] = slope(ratio) * math.sqrt(len(pairs) * np.var(logs - ratio * words, ddof=1)) / words.sum()
    return found
