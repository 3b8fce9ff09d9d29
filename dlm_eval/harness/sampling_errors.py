"""Standard errors, over samples, of metrics of a whole set of samples.

lm-eval has them for means, and "N/A" for entropy, distinct n-grams, self-BLEU and the like. Here
they are found by leaving samples out (metrics/jackknife.py).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from dlm_eval.metrics import brier, mauve, samples
from dlm_eval.metrics.jackknife import half_samples, jackknife
from dlm_eval.uncertainty import student

# Aggregation -> number of groups of samples, or of halves if each set of samples is clustered anew.
# Each costs one more computation of the metric.
GROUPS: dict[Callable[..., float], int] = {
    samples.perplexity: 32,
    **dict.fromkeys(samples.CORPUS.values(), 32),
    samples.self_bleu: 8,
    brier.brier_lm: 32,
}
HALVES: dict[Callable[..., float], int] = {mauve.mauve: 32}


def add_sampling_errors(results: dict[str, Any], tasks: Mapping[str, Any]) -> None:
    """Puts standard errors where lm-eval has none.

    With `--repeats` a metric of all samples is the mean of several corpora; it has no error.
    """
    for name, task in tasks.items():
        scores, aggregation = results["results"].get(name, {}), task.aggregation()
        logged = [s for s in (results.get("samples") or {}).get(name, ()) if "error" not in s]
        for metric, aggregate in aggregation.items():
            if aggregate not in GROUPS and aggregate not in HALVES:
                continue
            for pipeline in dict.fromkeys(sample["filter"] for sample in logged):
                own = [s for s in logged if s["filter"] == pipeline and metric in s]
                items = [sample[metric] for sample in own]
                if f"{metric},{pipeline}" not in scores or any(isinstance(i, list) for i in items):
                    continue
                error = (
                    half_samples(items, aggregate, HALVES[aggregate])
                    if aggregate in HALVES
                    else jackknife(items, aggregate, GROUPS[aggregate])
                )
                if error is not None:
                    scores[f"{metric}_stderr,{pipeline}"] = error


def sampling_intervals(
    task: Any, logged: Sequence[Mapping[str, Any]]
) -> dict[str, tuple[float, float]]:
    """Returns a judge's perplexity -> its 95 % interval over samples, Student's on the logarithmic
    scale.

    Args:
        logged: the task's samples of one filter.
    """
    found = {}
    for metric, aggregate in task.aggregation().items():
        items = [s[metric] for s in logged if metric in s and "error" not in s]
        if aggregate is not samples.perplexity or any(isinstance(i, list) for i in items):
            continue
        groups = min(GROUPS[aggregate], len(items))
        error = jackknife(items, lambda own: math.log(samples.perplexity(own)), groups)
        value = samples.perplexity(items)
        if error is not None and 0 < value < math.inf:
            reach = student(groups - 1.0) * error
            low, high = math.log(value) - reach, math.log(value) + reach
            found[metric] = (math.exp(low), math.exp(min(700.0, high)))
    return found
