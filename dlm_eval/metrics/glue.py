"""GLUE (Wang et al. 2019, arXiv 1804.07461): what lm-eval's own metrics leave out, the regression
task STS-B.

Its score from 0 to 5 is verbalised as six choices; the prediction is the expectation of the score
under the softmax of their log-likelihoods. An argmax would tie most sentence pairs, and a rank
correlation of ties says little.
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
        return 0.0  # as scikit-learn does for Matthews: a model that always says the same has no skill, not NaN
    return float(statistic(labels, predictions).statistic)
