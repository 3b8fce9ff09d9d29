"""STS-B, the regression task of GLUE (Wang et al. 2019, arXiv 1804.07461), which lm-eval lacks.

The six choices are the scores "0" to "5". The prediction is the expected score under the softmax of
their log-likelihoods. An argmax would tie most sentence pairs, which makes a rank correlation
nearly meaningless.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np


def stsb_results(
    doc: dict[str, Any], results: Sequence[tuple[float, bool]]
) -> dict[str, tuple[float, float]]:
    """Returns (label, predicted score) for both metrics, from log-likelihoods of "0" to "5"."""
    logprobs = np.array([logprob for logprob, _ in results], dtype=np.float64)
    weights = np.exp(logprobs - logprobs.max())
    predicted = float(weights @ np.arange(len(weights)) / weights.sum())
    pair = (float(doc["label"]), predicted)
    return {"pearson": pair, "spearman": pair}


def pearson(items: Sequence[tuple[float, float]]) -> float:
    """Returns Pearson's correlation in [-1, 1]; 0 if labels or predictions are constant."""
    from scipy.stats import pearsonr

    return _correlation(pearsonr, items)


def spearman(items: Sequence[tuple[float, float]]) -> float:
    """Returns Spearman's rank correlation in [-1, 1]; 0 if one of them is constant."""
    from scipy.stats import spearmanr

    return _correlation(spearmanr, items)


def _correlation(statistic: Any, items: Sequence[tuple[float, float]]) -> float:
    labels, predictions = (np.array(column) for column in zip(*items, strict=True))
    if np.ptp(labels) == 0 or np.ptp(predictions) == 0:
        return 0.0  # not NaN: a constant prediction has no skill (as scikit-learn's Matthews)
    return float(statistic(labels, predictions).statistic)
