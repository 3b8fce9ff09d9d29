"""A judge's perplexity of samples against their entropy, over the steps or temperatures of a sampler.

A judge finds text that repeats itself likely, so a sampler can lower its perplexity by writing less
varied text (arXiv 2606.08417). `warnings_of` names the places where a perplexity falls and entropy
falls with it: there the lower perplexity says nothing about quality.

runs of a suite or a sweep -> points -> frontier (not beaten in both) and warnings
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from dlm_eval.uncertainty import student

PERPLEXITY, ENTROPY = "gen_ppl", "sample_entropy"
VARIED = ("steps", "temperature")


@dataclass(frozen=True)
class Estimate:
    """A value with its standard error; None if that is unknown."""

    value: float
    stderr: float | None = None

    def falls_to(self, other: Estimate) -> bool:
        """Whether `other` is lower, by more than the 95 % error of the difference."""
        error = math.hypot(self.stderr or 0.0, other.stderr or 0.0)
        return other.value < self.value - student(math.inf) * error


@dataclass(frozen=True)
class Point:
    """The samples of one run.

    Attributes:
        task: the task.
        judge: the model that scored them.
        steps, temperature: of the sampler; None if the run leaves them to the task or a preset.
        others: all other decode settings, as text.
        perplexity: the judge's.
        entropy: of the tokens of a sample, mean, nats.
    """

    task: str
    judge: str
    steps: float | None
    temperature: float | None
    others: str
    perplexity: Estimate
    entropy: Estimate

    @property
    def label(self) -> str:
        """The settings that vary, for tables."""
        varied = (("steps", self.steps), ("temperature", self.temperature))
        shown = [f"{name} {value:g}" for name, value in varied if value is not None]
        return ", ".join(shown) or "the task's own settings"

    def is_beaten_by(self, other: Point) -> bool:
        """Whether `other` has a lower perplexity and no lower entropy, or the other way round."""
        mine, theirs = ((point.perplexity.value, -point.entropy.value) for point in (self, other))
        return theirs != mine and theirs[0] <= mine[0] and theirs[1] <= mine[1]


def points_of(decode: Mapping[str, Any], results: Mapping[str, Any]) -> Iterator[Point]:
    """Yields a point for each task of a run whose samples a judge has scored.

    Args:
        decode: the run's decode settings.
        results: lm-eval's results.
    """
    steps, temperature = (_number(decode.get(name)) for name in VARIED)
    others = {key: value for key, value in decode.items() if key not in VARIED}
    for task, scores in results["results"].items():
        found = [_estimate(scores, metric) for metric in (PERPLEXITY, ENTROPY)]
        perplexity, entropy = found
        if perplexity is None or entropy is None:
            continue
        metadata = results["configs"].get(task, {}).get("metadata") or {}
        text = json.dumps(others, sort_keys=True, default=str)
        judge = str(metadata.get("judge", ""))
        yield Point(task, judge, steps, temperature, text, perplexity, entropy)


def _estimate(scores: Mapping[str, Any], metric: str) -> Estimate | None:
    value, stderr = (_number(scores.get(f"{metric}{end},none")) for end in ("", "_stderr"))
    return None if value is None else Estimate(value, stderr)


def _number(value: Any) -> float | None:
    """Returns a finite number; text of a command line counts."""
    try:
        number = float(value)
    except (TypeError, ValueError):
        return None
    return number if math.isfinite(number) else None


def frontier(points: Sequence[Point]) -> list[Point]:
    """Returns the points of a task that no other point of it beats in both."""
    return [
        point
        for point in points
        if not any(point.is_beaten_by(other) for other in points if other.task == point.task)
    ]


def warnings_of(points: Iterable[Point]) -> list[str]:
    """Returns a line for each rise of steps, or fall of temperature, with which perplexity and
    entropy both fall."""
    every = list(points)
    found = []
    for name, order in (("steps", 1), ("temperature", -1)):
        for chain in _chains(every, name, order):
            found += [_warning(a, b, name) for a, b in pairwise(chain) if _misleads(a, b)]
    return found


def _chains(points: Sequence[Point], name: str, order: int) -> Iterator[list[Point]]:
    """Yields the points that differ in one setting only, in its order."""
    alike: dict[tuple[Any, ...], dict[float, Point]] = {}
    for point in points:
        value, fixed = (
            (point.steps, point.temperature)
            if name == "steps"
            else (point.temperature, point.steps)
        )
        if value is not None:
            alike.setdefault((point.task, point.judge, point.others, fixed), {})[value] = point
    for chain in alike.values():
        yield [chain[value] for value in sorted(chain, key=lambda value: order * value)]


def _misleads(a: Point, b: Point) -> bool:
    return a.perplexity.falls_to(b.perplexity) and a.entropy.falls_to(b.entropy)


def _warning(a: Point, b: Point, name: str) -> str:
    before, after = (
        f"{point.steps if name == 'steps' else point.temperature:g}" for point in (a, b)
    )
    return (
        f"{a.task}, {name} {before} to {after}: the perplexity of {a.judge or 'the judge'} falls"
        f" from {a.perplexity.value:.4g} to {b.perplexity.value:.4g} while entropy falls from"
        f" {a.entropy.value:.4g} to {b.entropy.value:.4g} nats; less varied text is more likely to"
        " a judge, so this is no evidence of better text (arXiv 2606.08417)"
    )
