"""A canvas within its budget: its blocks at once, or in rounds that end as soon as the standard error is small enough.

A choice of a question ends as soon as the question is settled (question.py). Rounds extend each other (nested.py).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import replace

from dlm_eval.canvas import Score
from dlm_eval.engine import Walk
from dlm_eval.noise import Noise, digest
from dlm_eval.scoring.echo import added
from dlm_eval.scoring.estimates import ESTIMATES, rule_logs, rule_score
from dlm_eval.scoring.flow import together
from dlm_eval.scoring.nested import nested
from dlm_eval.scoring.registry import ESTIMATORS, EstimatorSettings
from dlm_eval.scoring.target import Floats, Target
from dlm_eval.uncertainty import Error, summed

KINDS = ("exact", "lower bound", "upper bound", "score")  # of a sum: the last of its parts'


def estimate(parts: Sequence[Target], settings: EstimatorSettings, noise: Noise) -> Walk[Score]:
    """Returns the score of a canvas, given as the blocks whose log-likelihoods add up, within one budget.

    Each block has random numbers of its own: blocks that hid the same places and sizes would err together, and their errors would not add in squares.
    """
    share, own = shared(settings, len(parts)), block_noise(noise, len(parts))
    return merge((yield from together([_part(part, share, one) for part, one in zip(parts, own, strict=True)])))


def shared(settings: EstimatorSettings, blocks: int) -> EstimatorSettings:
    """Returns the settings of one of `blocks`, which has its share of the forwards and spends all of it."""
    return replace(
        settings, samples=max(1, settings.samples // blocks), precision=None, target_stderr=None, decide=None
    )


def block_noise(noise: Noise, blocks: int) -> list[Noise]:
    """Returns the random numbers of each block of a canvas."""
    return [noise, *(Noise(digest(noise.key, "block", number)) for number in range(1, blocks))]


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
        rough_stderr=error.rough,
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


class Rounds:
    """One canvas, sampled in rounds.

    Attributes:
        parts: its blocks, whose log-likelihoods add up.
        settings: of each block.
        noise: of each block.
        rules: of each block, after each round, and the order of its tokens.
        done: rounds that have been run.
        found: the score of each block after them.
        logs: [R, n] what each block's rule reads (nats; tokens in the order of the rule), None where the block is known without error.
    """

    def __init__(self, parts: Sequence[Target], settings: EstimatorSettings, noise: Noise) -> None:
        self.parts = parts
        self.settings = shared(settings, len(parts))
        self.noise = block_noise(noise, len(parts))
        self.rules = [nested(part.n, self.settings.samples, own) for part, own in zip(parts, self.noise, strict=True)]
        self.done = 0
        self.found: list[Score] = []
        self.logs: list[Floats | None] = []

    @property
    def total(self) -> int:
        """Rounds until all of the budget is spent."""
        return max(len(rules) for rules, _ in self.rules)

    @property
    def over(self) -> bool:
        """Whether nothing is left to learn, or to spend."""
        return self.done == self.total or any(math.isinf(score.logprob) for score in self.found)

    def next(self) -> Walk[None]:
        """Runs one more round."""
        answers = yield from together([self._block(number) for number in range(len(self.parts))])
        self.found, self.logs = [score for score, _ in answers], [logs for _, logs in answers]
        self.done += 1

    def _block(self, number: int) -> Walk[tuple[Score, Floats | None]]:
        part, (rules, order) = self.parts[number], self.rules[number]
        place = min(self.done, len(rules) - 1)
        if place == len(rules) - 1:  # all of the block's budget: what it is without rounds
            score = yield from ESTIMATES[self.settings.name](part, self.settings, self.noise[number])
            known = score.stderr == 0
            return score, None if known else (
                yield from rule_logs(part, rules[place], order)
            )  # read before: runs nothing
        logs = yield from rule_logs(part, rules[place], order)
        return rule_score(rules[place], logs, replace(self.settings, name="cubature")), logs

    def score(self) -> Score:
        """Returns the score after the rounds so far."""
        return merge(self.found)

    def lead(self, other: Rounds, length: float, other_length: float) -> tuple[float, Error]:
        """Returns how much higher this canvas' score per length is than that of `other` (nats), and the error of that.

        Canvases of one length that have run as many rounds read the same patterns, so the spread of their differences tells the error. Others are
        taken for independent.
        """
        mine, theirs = self.score(), other.score()
        gap = mine.logprob / length - theirs.logprob / other_length
        logs, other_logs = self.logs[0], other.logs[0]
        alike = (
            len(self.parts) == len(other.parts) == 1 and self.done == other.done and self.parts[0].n == other.parts[0].n
        )
        if alike and logs is not None and other_logs is not None and math.isfinite(gap):
            rules, _ = self.rules[0]
            return gap, rules[self.done - 1].error(logs / length - other_logs / other_length)
        return gap, summed([mine.error.scaled(1 / length), theirs.error.scaled(1 / other_length)])


def in_rounds(parts: Sequence[Target], settings: EstimatorSettings, noise: Noise) -> Walk[Score]:
    """Returns the score of one canvas; with `precision` or `target_stderr`, sampled until its standard error is that small."""
    enough = settings.enough(sum(part.n for part in parts))
    if enough is None:
        return (yield from estimate(parts, settings, noise))
    rounds = Rounds(parts, settings, noise)
    while True:
        yield from rounds.next()
        score = rounds.score()
        if rounds.over or (score.stderr is not None and score.stderr <= enough):
            return score
