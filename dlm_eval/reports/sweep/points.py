"""The grid of decode settings of a sweep, and the score and speed of each of its points.

    words of --decode -> grid -> (runs) -> points -> mean over templates -> Pareto front, AUP ->
    CSV, plot

cli/sweep.py makes the plan and does the runs.
"""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from dlm_eval.decoding.settings import speed_settings
from dlm_eval.errors import UserError
from dlm_eval.reports.files.json_values import total
from dlm_eval.reports.regression.statistics import Paired, paired
from dlm_eval.settings import split_commas

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
        return (
            BASELINE
            if self.baseline
            else ", ".join(
                f"{k}={v}" for k, v in self.decode.items() if k not in self.speed_settings
            )
        )

    @property
    def speed_settings(self) -> frozenset[str]:
        """Settings that trade quality for speed. They vary along a curve; others distinguish curves."""
        return speed_settings(self.decode.get("strategy"))


def grid(groups: Sequence[Sequence[str]]) -> list[dict[str, str]]:
    """Returns all combinations of settings, group by group, without duplicates.

    Args:
        groups: the words of each --decode, for example "steps=8,16". A comma outside brackets
            separates alternatives.

    Raises:
        UserError: a word is not key=value[,value...], or a group has a key twice.
    """
    points: list[dict[str, str]] = []
    for words in groups:
        axes = _axes(words)
        for values in itertools.product(*axes.values()):
            point = dict(zip(axes, values, strict=True))
            if point not in points:
                points.append(point)
    return points


def _axes(words: Sequence[str]) -> dict[str, list[str]]:
    axes: dict[str, list[str]] = {}
    wrong = UserError(
        f"--decode '{' '.join(words)}' is not of the form key=value[,value...] key=value[,value...]"
    )
    for part in split_commas(",".join(words)):
        named = re.match(r"(\w+)\s*=\s*(.*)", part, re.DOTALL)
        if named and named[1] in axes:
            raise UserError(
                f"--decode {named[1]} is given twice; write its alternatives with commas: "
                f"{named[1]}=VALUE,VALUE"
            )
        if named:
            axes[named[1]] = []
        value = named[2] if named else part
        if not axes or not value:
            raise wrong
        axes[next(reversed(axes))].append(value)
    if not axes:
        raise wrong
    return axes


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
