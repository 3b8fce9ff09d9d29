"""Early stopping: samples in rounds until the result is certain enough.

A canvas stops when its standard error is small enough. A question (multiple choice) stops when its
best choice is statistically separated from the others.

Each round extends the one before (cubature/nested.py). A canvas that runs all rounds therefore has
the score of the full budget.

A choice is eliminated if its score is more than t standard errors of the difference below the best
one. With error rate a, t is the quantile of Student's distribution at a / (looks * rivals *
orders): the rounds but the last, the other choices, and 1 (2 if scores per length count too). By
the union bound, the probability that a question ends early on a choice whose exact score is not the
best is at most a. Eliminated choices are sampled no further. A question ends when one choice is
left.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

from dlm_eval.canvas import Score
from dlm_eval.engine.rows import Program, together
from dlm_eval.likelihood.auto import as_cubature, rule_logs
from dlm_eval.likelihood.cubature.nested import nested
from dlm_eval.likelihood.estimator import EarlyStopping
from dlm_eval.likelihood.patterns import Floats
from dlm_eval.likelihood.target import Target, block_noise, merge
from dlm_eval.rng import Noise
from dlm_eval.uncertainty import Error, half_width, summed


class Rounds:
    """One canvas, sampled in rounds.

    Attributes:
        parts: its blocks, whose log-likelihoods add up.
        estimator: the estimator of one block.
        noise: random numbers of each block.
        rules: for each block, the rule after each round, and the order of its tokens.
        done: number of rounds that have been run.
        found: score of each block after these rounds.
        logs: for each block, log-probabilities [R, n] that its rule reads (nats; tokens in the
            order of the rule), or None if its score has no error.
    """

    def __init__(self, parts: Sequence[Target], estimator: EarlyStopping, noise: Noise) -> None:
        self.parts = parts
        self.estimator = estimator.share(len(parts))
        self.noise = block_noise(noise, len(parts))
        self.rules = [
            nested(part.n, self.estimator.max_forwards, own)
            for part, own in zip(parts, self.noise, strict=True)
        ]
        self.done = 0
        self.found: list[Score] = []
        self.logs: list[Floats | None] = []

    @property
    def total(self) -> int:
        """Number of rounds that spend the whole budget."""
        return max(len(rules) for rules, _ in self.rules)

    @property
    def over(self) -> bool:
        """Whether the budget is spent, or a score is infinite."""
        return self.done == self.total or any(math.isinf(score.logprob) for score in self.found)

    @property
    def rows(self) -> int:
        """Forward passes so far."""
        return sum(part.rows for part in self.parts)

    def next(self) -> Program[None]:
        """Runs one more round."""
        answers = yield from together([self._block(number) for number in range(len(self.parts))])
        self.found, self.logs = [score for score, _ in answers], [logs for _, logs in answers]
        self.done += 1

    def until(self, enough: float) -> Program[Score]:
        """Runs rounds until the standard error is `enough` nats or less, or the budget is spent."""
        while True:
            yield from self.next()
            score = self.score()
            if self.over or (score.stderr is not None and score.stderr <= enough):
                return score

    def _block(self, number: int) -> Program[tuple[Score, Floats | None]]:
        part, (rules, order) = self.parts[number], self.rules[number]
        place = min(self.done, len(rules) - 1)
        if place < len(rules) - 1:
            logs = yield from rule_logs(part, rules[place], order)
            return as_cubature(self.estimator).from_rule(rules[place], logs), logs
        # The last round: the score of the full budget, as without rounds.
        score = yield from self.estimator.estimate(part, self.noise[number])
        if score.stderr == 0:
            return score, None
        return score, (yield from rule_logs(part, rules[place], order))  # read before: runs nothing

    def score(self) -> Score:
        """Returns the score after the rounds so far."""
        return merge(self.found)

    def lead(self, other: Rounds, length: float, other_length: float) -> tuple[float, Error]:
        """Returns by how much this score per length exceeds that of `other` (nats), with its error.

        Two canvases of equal length read the same patterns in equally many rounds. The error then
        comes from the differences of their log-probabilities. Other errors are assumed to be
        independent.
        """
        mine, theirs = self.score(), other.score()
        gap = mine.logprob / length - theirs.logprob / other_length
        logs, other_logs = self.logs[0], other.logs[0]
        alike = (
            len(self.parts) == len(other.parts) == 1
            and self.done == other.done
            and self.parts[0].n == other.parts[0].n
        )
        if alike and logs is not None and other_logs is not None and math.isfinite(gap):
            rules, _ = self.rules[0]
            error = rules[self.done - 1].error(logs / length - other_logs / other_length)
        else:
            error = summed([mine.error.scaled(1 / length), theirs.error.scaled(1 / other_length)])
        return gap, replace(error, least=0.0)  # the error rate of `race` was measured without it


def race(
    choices: Sequence[Rounds], lengths: Sequence[float] | None, error_rate: float
) -> Program[None]:
    """Runs the rounds of a question's choices until the best one is separated from the others.

    Args:
        choices: two or more.
        lengths: if given, the best choice by score per length must be separated too.
        error_rate: maximum probability that it ends on a choice that is not the best.
    """
    orders = [[1.0] * len(choices)] + ([] if lengths is None else [list(lengths)])
    # the last round needs no test, since nothing runs after it
    looks = max(1, max(choice.total for choice in choices) - 1)
    alpha = error_rate / (looks * (len(choices) - 1) * len(orders))
    running = list(range(len(choices)))
    while running:
        yield from together([choices[c].next() for c in running])
        left = sorted(set().union(*[_unbeaten(choices, lengths, alpha) for lengths in orders]))
        running = [c for c in left if len(left) > 1 and not choices[c].over]


def _unbeaten(choices: Sequence[Rounds], lengths: Sequence[float], alpha: float) -> set[int]:
    """Returns the choices that may still have the best score per length."""
    values = [
        choice.score().logprob / length for choice, length in zip(choices, lengths, strict=True)
    ]
    best = max(range(len(choices)), key=values.__getitem__)
    return {
        c for c in range(len(choices)) if c == best or not _beats(choices, lengths, best, c, alpha)
    }


def _beats(
    choices: Sequence[Rounds], lengths: Sequence[float], best: int, other: int, alpha: float
) -> bool:
    gap, error = choices[best].lead(choices[other], lengths[best], lengths[other])
    width = half_width(error, 1 - 2 * alpha)
    return width is not None and gap > width
