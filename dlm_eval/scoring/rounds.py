"""Sampling in rounds: a canvas stops as soon as its standard error is small enough (question.py: or its question is settled).

The rounds spend 1/8, 1/8, 1/4, 1/2 of the budget. They are independent and each estimate is unbiased, so their average with
weights fixed beforehand is too.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace

from dlm_eval.canvas import Score
from dlm_eval.engine import Walk
from dlm_eval.noise import Noise, digest
from dlm_eval.scoring.cubature import precision
from dlm_eval.scoring.echo import added, scaled
from dlm_eval.scoring.estimates import ESTIMATES
from dlm_eval.scoring.flow import together
from dlm_eval.scoring.registry import ESTIMATORS, EstimatorSettings
from dlm_eval.scoring.target import Target
from dlm_eval.uncertainty import Error, summed

KINDS = ("exact", "lower bound", "upper bound", "score")  # of a sum: the last of its parts'
LEAST = 4  # forwards of a round: fewer hardly know their own error


def sizes(budget: int) -> list[int]:
    """Returns the forwards of each round, `budget` in all: an eighth of it, then as many again as were run so far; none has less than `LEAST`."""
    rounds = [budget if budget < 2 * LEAST else max(LEAST, math.ceil(budget / 8))]
    while left := budget - sum(rounds):
        rounds.append(sum(rounds) if left >= 2 * sum(rounds) else left)
    return rounds


def estimate(parts: Sequence[Target], settings: EstimatorSettings, noise: Noise) -> Walk[Score]:
    """Returns the score of a canvas, given as the blocks whose log-likelihoods add up, within one budget.

    Each block has random numbers of its own: blocks that hid the same places and sizes would err together, and their errors would not add in squares.
    """
    share = replace(settings, samples=max(1, settings.samples // len(parts)), target_stderr=None, decide=None)
    own = [noise, *(Noise(digest(noise.key, "block", number)) for number in range(1, len(parts)))]
    return merge((yield from together([_part(part, share, one) for part, one in zip(parts, own, strict=True)])))


def _part(part: Target, settings: EstimatorSettings, noise: Noise) -> Walk[Score]:
    """Returns the score of one block. A single token needs no draws: one forward tells its log-likelihood, which is the bound."""
    if part.n > 1 or settings.name not in ("k", "t", "chain"):
        return (yield from ESTIMATES[settings.name](part, settings, noise))
    single = yield from ESTIMATES["exact"](part, EstimatorSettings("exact", cfg_scale=settings.cfg_scale), noise)
    kind = "score" if settings.cfg_scale else ESTIMATORS[settings.name].kind
    return replace(single, kind=kind, estimator=settings.name)


def merge(scores: Sequence[Score]) -> Score:
    """Returns the score of a whole text from those of its blocks, given their pasts (log-likelihoods add up, so do bounds)."""
    if len(scores) == 1:
        return scores[0]
    error = summed(s.error for s in scores)
    return Score(
        logprob=sum(s.logprob for s in scores),
        stderr=error.stderr,
        freedom=error.freedom,
        echo=added([s.echo for s in scores]),
        kind=max((s.kind for s in scores), key=KINDS.index),
        rows=sum(s.rows for s in scores),
        estimator="+".join(sorted({s.estimator for s in scores})),
        lower=_sum(s.lower for s in scores),
        upper=_sum(s.upper for s in scores),
        lower_stderr=summed(Error(s.lower_stderr) for s in scores).stderr,
        upper_stderr=summed(Error(s.upper_stderr) for s in scores).stderr,
        # The sum of ends that each hold does so too: errors of blocks, being independent, add up to less.
        bracket=(_sum(s.bracket[0] for s in scores), _sum(s.bracket[1] for s in scores)),
    )


def _sum(values: Iterable[float | None]) -> float | None:
    """Returns the sum, None as soon as one is."""
    known = list(values)
    return None if None in known else sum(value for value in known if value is not None)


@dataclass
class Rounds:
    """One canvas' rounds so far: scores, the weights of their average, and whether the last one is without error."""

    parts: Sequence[Target]
    settings: EstimatorSettings
    scores: list[Score] = field(default_factory=list)
    weights: list[float] = field(default_factory=list)
    final: bool = False

    @property
    def over(self) -> bool:
        """Whether nothing is left to learn, or to spend."""
        return self.final or len(self.scores) == len(sizes(self.settings.samples))

    @property
    def error(self) -> float:
        """The standard error so far; nan where it is not known."""
        error = self.score().stderr
        return math.nan if error is None else error

    def next(self, noise: Noise) -> Walk[None]:
        """Runs one more round. Where all patterns cost no more than two rounds like it, it runs them all and is the last."""
        number = len(self.scores)
        size, *later = sizes(self.settings.samples)[number:]
        all_patterns = sum(2 ** min(part.n, 30) - 1 for part in self.parts)
        name = self.settings.name
        enumerates = name in ("auto", "cubature") and all_patterns <= min(size + sum(later), 2 * size)
        if enumerates:
            settings = EstimatorSettings("exact", cfg_scale=self.settings.cfg_scale)
        else:
            settings = replace(self.settings, samples=size)
        fresh = Noise(digest(noise.key, "round", number))
        score = yield from estimate(self.parts, settings, fresh)
        self.scores.append(score)
        self.weights.append(min(WEIGHT[name](part.n, max(1, size // len(self.parts))) for part in self.parts))
        self.final = enumerates or all(part.n == 1 for part in self.parts) or math.isinf(score.logprob)

    def score(self) -> Score:
        """Returns the average of the rounds; that of the last alone where it is without error."""
        if self.final or len(self.scores) == 1:
            return self.scores[-1]
        total = sum(self.weights)
        value = sum(w * s.logprob for w, s in zip(self.weights, self.scores, strict=True)) / total
        error = summed(s.error.scaled(w / total) for w, s in zip(self.weights, self.scores, strict=True))
        echo = added([scaled(s.echo, w / total) for w, s in zip(self.weights, self.scores, strict=True)])
        mean = replace(self.scores[-1], logprob=value, stderr=error.stderr, freedom=error.freedom, echo=echo)
        if mean.lower is None:
            return mean
        low, _ = mean.interval or (None, None)
        return replace(mean, lower=value, lower_stderr=error.stderr, bracket=(low, None))


# What a round of an estimator counts in the average, from n and its forwards: about the inverse of its variance.
WEIGHT: dict[str, Callable[[int, int], float]] = {
    "auto": precision,
    "cubature": precision,
    "k": lambda n, samples: float(samples),
}


def in_rounds(parts: Sequence[Target], settings: EstimatorSettings, noise: Noise) -> Walk[Score]:
    """Returns the score of one canvas; with `target_stderr`, sampled until its standard error is that small."""
    if settings.target_stderr is None:
        return (yield from estimate(parts, settings, noise))
    rounds = Rounds(parts, settings)
    while not rounds.over and not (rounds.scores and rounds.error <= settings.target_stderr):
        yield from rounds.next(noise)
    return rounds.score()
