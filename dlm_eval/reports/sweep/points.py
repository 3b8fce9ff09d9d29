"""The score and speed of each point of a sweep's grid.

    words of --decode -> grid.py -> plan.py -> (runs) -> run_points.py -> points -> mean over
    templates -> Pareto front, AUP -> CSV, plot, text

cli/sweep.py does the runs.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from dlm_eval.counts import total
from dlm_eval.decoding.layers import speed_settings
from dlm_eval.reports.regression.statistics import Paired, paired

BASELINE = "one token per step"


@dataclass(frozen=True)
class Point:
    """The result of one combination of settings on one task.

    Attributes:
        task: a task, or a question that several templates ask.
        template: the task of one template if there are several; '' for their mean.
        decode: the settings of the grid.
        baseline: whether it is the one-token-per-step baseline.
        metric, metric_filter: metric and filter of `value`.
        value: the score; None if no sample could be scored.
        stderr: standard error of `value`; for a mean over templates the mean of their standard
            errors, which is an upper bound.
        low, high: scores of the worst and the best template of a mean.
        templates: number of templates in the mean.
        samples, errors: number of documents, and of failed documents.
        forwards, tokens, seconds: model calls, visible tokens and model seconds of all samples.
        better: whether higher values are better.
        results: name of the results file.
        computed: positions that the model calls ran; None if it is not known.
        values: document -> its value, if the score is their mean; empty otherwise.
        finds_length: whether the decoder was not told the length of the text.
        approximation: the approximate cache, in words; "" if there is none.
    """

    task: str
    template: str
    decode: Mapping[str, str]
    baseline: bool
    metric: str
    metric_filter: str
    value: float | None
    stderr: float | None
    samples: int
    errors: int
    forwards: int
    tokens: int
    seconds: float
    better: bool = True
    low: float | None = None
    high: float | None = None
    templates: int = 1
    results: str = ""
    computed: int | None = None
    values: Mapping[str, float] = field(default_factory=dict, repr=False)
    finds_length: bool = False
    approximation: str = ""

    def minus(self, other: Point) -> Paired | None:
        """Returns the paired difference to another point on the documents that both have scored.

        None if a score is no mean over documents, or if they have none in common.
        """
        common = [key for key in self.values if key in other.values]
        if not common:
            return None
        own, others = (np.array([point.values[k] for k in common]) for point in (self, other))
        return paired(others, own)

    @property
    def tokens_per_computed(self) -> float | None:
        """Visible tokens per position that a model call ran."""
        return self.tokens / self.computed if self.computed and self.tokens else None

    @property
    def tokens_per_forward(self) -> float | None:
        """Parallelism rho: visible tokens per model call of the sample."""
        return self.tokens / self.forwards if self.forwards and self.tokens else None

    @property
    def tokens_per_second(self) -> float | None:
        """Visible tokens per second of model time."""
        return self.tokens / self.seconds if self.seconds > 0 else None

    @property
    def curve(self) -> str:
        """The settings that all points on the same curve share."""
        shared = {k: v for k, v in self.decode.items() if k not in self.speed_settings}
        return BASELINE if self.baseline else words_of(shared)

    @property
    def speed_settings(self) -> frozenset[str]:
        """Settings that trade quality for speed. They vary along a curve; others distinguish curves."""
        return speed_settings(self.decode.get("strategy"))


def words_of(decode: Mapping[str, object]) -> str:
    """Returns decode settings as text."""
    return ", ".join(f"{key}={value}" for key, value in decode.items())


def mean_of_templates(points: Sequence[Point]) -> Point:
    """Returns the mean over the templates of a question for one combination of settings."""
    values = [p.value for p in points if p.value is not None]
    errors = [p.stderr for p in points if p.stderr is not None]
    whole = len(values) == len(points)
    return replace(
        points[0],
        template="",
        value=math.fsum(values) / len(values) if whole else None,
        stderr=math.fsum(errors) / len(errors) if len(errors) == len(points) else None,
        low=min(values) if whole else None,
        high=max(values) if whole else None,
        templates=len(points),
        samples=sum(p.samples for p in points),
        errors=sum(p.errors for p in points),
        forwards=sum(p.forwards for p in points),
        tokens=sum(p.tokens for p in points),
        seconds=math.fsum(p.seconds for p in points),
        results="",
        computed=total([p.computed for p in points]),
        values=_mean_values([p.values for p in points]),
        finds_length=all(p.finds_length for p in points),
        approximation=", ".join(dict.fromkeys(p.approximation for p in points if p.approximation)),
    )


def _mean_values(values: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Returns the mean value of each document that every template has scored."""
    first, *others = values
    return {
        key: math.fsum(one[key] for one in values) / len(values)
        for key in first
        if all(key in other for other in others)
    }
