"""Strategies that write each masked position once.

Shape letter: W = positions that a step considers.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np

from dlm_eval.decoding.draw import Measure
from dlm_eval.decoding.step import Bools, Floats, Ints, StepState
from dlm_eval.decoding.unmasking import Unmasking
from dlm_eval.options import option


def highest(rank: Floats, count: int) -> Bools:
    """Returns [W] bool, true at the `count` highest ranks.

    Of equal ranks, earlier positions come first.
    """
    chosen = np.zeros(len(rank), dtype=bool)
    if count == 1 and len(rank):  # as in most steps; of equal ranks this is the first too
        chosen[rank.argmax()] = True
        return chosen
    chosen[np.argsort(-rank, kind="stable")[: max(0, count)]] = True
    return chosen


def lowest(score: Floats, count: int) -> Bools:
    """Returns [W] bool, true at the `count` lowest scores, but ties with the next one."""
    return score < np.sort(score)[count] if count < len(score) else np.ones(len(score), dtype=bool)


def gumbel(uniform: Floats) -> Floats:
    """Returns standard Gumbel numbers from uniform numbers in [0, 1)."""
    return -np.log(-np.log1p(-uniform))


# -- the schedule decides how many -----------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Confidence(Unmasking, name="confidence"):
    """the most probable candidates first (LLaDA low_confidence, Dream maskgit_plus, DiffuLLaMA)"""

    alg_temp: float = option(
        0.0,
        least=0,
        help="temperature of the choice of positions (Dream); 0 takes the most confident",
    )
    rescore: bool = option(
        False,
        help="written tokens compete for the quota with their new scores (DiffuLLaMA); they are "
        "not rewritten",
    )
    default_schedule: ClassVar[str | None] = "even"
    reads: ClassVar[Measure | None] = "probability"

    @property
    def is_random(self) -> bool:
        return self.alg_temp > 0

    @property
    def revisits(self) -> bool:
        return self.rescore

    def most_steps(self, n: int, steps: int) -> int | None:
        return steps if self.rescore else min(steps, n)

    def commit(self, view: StepState) -> Bools:
        score = view.score
        if self.alg_temp > 0:
            # Gumbel-top-k (Kool et al. 2019) draws without replacement with one random number for
            # each position.
            score = np.exp(score) if self.reads == "probability" else score
            score = score / self.alg_temp + gumbel(view.uniform("order"))
        if self.rescore:
            return view.open & ~lowest(score, view.left_open)
        return highest(score, view.quota)


@dataclass(frozen=True, kw_only=True)
class Margin(Confidence, name="margin"):
    """the largest lead over the runner-up first (Dream topk_margin)"""

    reads: ClassVar[Measure | None] = "margin"


@dataclass(frozen=True, kw_only=True)
class Entropy(Confidence, name="entropy"):
    """the lowest entropy first (Dream entropy)"""

    reads: ClassVar[Measure | None] = "entropy"


@dataclass(frozen=True, kw_only=True)
class Random(Unmasking, name="random"):
    """random positions, as many per step as the schedule says (LLaDA random)"""

    default_schedule: ClassVar[str | None] = "even"

    @property
    def is_random(self) -> bool:
        return True

    def most_steps(self, n: int, steps: int) -> int | None:
        return min(steps, n)

    def commit(self, view: StepState) -> Bools:
        return highest(view.uniform("order"), view.quota)


@dataclass(frozen=True, kw_only=True)
class LeftToRight(Unmasking, name="left_to_right"):
    """from left to right (SDAR sequential)"""

    default_schedule: ClassVar[str | None] = "even"

    def most_steps(self, n: int, steps: int) -> int | None:
        return min(steps, n)

    def commit(self, view: StepState) -> Bools:
        return np.arange(len(view.position)) < view.quota


# -- the strategy decides how many -----------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class FirstHitting(Unmasking, name="first_hitting"):
    """one random position per step: the reverse process without idle steps (BD3LM first_hitting)"""

    takes_schedule: ClassVar[bool] = False
    takes_steps: ClassVar[bool] = False

    @property
    def is_random(self) -> bool:
        return True

    def most_steps(self, n: int, steps: int) -> int | None:
        return n

    def commit(self, view: StepState) -> Bools:
        return highest(view.uniform("order"), 1)  # all with equal probability (arXiv 2409.02908)


@dataclass(frozen=True, kw_only=True)
class Threshold(Unmasking, name="threshold"):
    """all candidates of at least a threshold's probability, at least one (Fast-dLLM, SDAR, LLaDA2)"""

    threshold: float = option(
        least=0, most=1, help="minimum probability of a token that is written", speed=True
    )
    min_per_step: int | Literal["schedule"] | None = option(
        None,
        least=1,
        help="minimum number of tokens that a step writes, the most probable ones; 'schedule': the "
        "schedule's quota (SDAR,"
        " LLaDA2). None: the quota if there is a schedule that is not the maximum, else 1",
    )
    max_per_step: int | Literal["schedule"] | None = option(
        None,
        least=1,
        help="maximum number of tokens that a step writes; 'schedule': the schedule's quota "
        "(Fast-dLLM on Dream)",
    )
    ignores_steps: ClassVar[bool] = True
    reads: ClassVar[Measure | None] = "probability"

    def most_steps(self, n: int, steps: int) -> int | None:
        return n

    def commit(self, view: StepState) -> Bools:
        sure: Bools = np.exp(view.score) >= self.threshold
        most = view.quota if self.max_per_step == "schedule" else self.max_per_step
        if most is not None:
            sure &= highest(view.score, most)
        quota = (
            view.quota if self.min_per_step == "schedule" or self.max_per_step != "schedule" else 1
        )
        least = max(1, self.min_per_step if isinstance(self.min_per_step, int) else quota)
        return sure if sure.sum() >= least else highest(view.score, least)


@dataclass(frozen=True, kw_only=True)
class Factor(Unmasking, name="factor"):
    """the n most probable while the n-th is at least 1 - factor / (n + 1) (Fast-dLLM)"""

    factor: float = option(least=0, help="Fast-dLLM's factor", speed=True)
    takes_schedule: ClassVar[bool] = False
    ignores_steps: ClassVar[bool] = True
    reads: ClassVar[Measure | None] = "probability"

    def most_steps(self, n: int, steps: int) -> int | None:
        return n

    def commit(self, view: StepState) -> Bools:
        ranked = np.sort(np.exp(view.score))[::-1]
        needed = 1 - self.factor / np.arange(2, len(ranked) + 2)
        # As published, the most probable candidate is always written, and the last one if all
        # before it are.
        needed[0] = needed[-1] = -np.inf
        refused = np.nonzero(ranked < needed)[0]
        return highest(view.score, int(refused[0]) if len(refused) else len(ranked))


@dataclass(frozen=True, kw_only=True)
class EntropyBound(Unmasking, name="entropy_bound"):
    """the lowest entropies, while the sum without the largest is at most a bound (EB-sampler)"""

    entropy_bound: float = option(
        least=0,
        help="maximum sum of the entropies without the largest (nats; arXiv 2505.24857)",
        speed=True,
    )
    takes_schedule: ClassVar[bool] = False
    ignores_steps: ClassVar[bool] = True
    reads: ClassVar[Measure | None] = "entropy"

    def most_steps(self, n: int, steps: int) -> int | None:
        return n

    def commit(self, view: StepState) -> Bools:
        ranked = np.sort(-view.score)  # ascending: the largest of the first n is the n-th
        excess = np.cumsum(ranked) - ranked
        return highest(
            view.score, max(1, int(np.searchsorted(excess, self.entropy_bound, side="right")))
        )


@dataclass(frozen=True, kw_only=True)
class Window(Unmasking, name="window"):
    """all of low entropy in a window after the first open position; distance counts as entropy (WeDLM)"""

    window: int = option(16, least=1, help="length of the window, from the first open position on")
    entropy_threshold: float = option(
        0.4,
        least=0,
        help="entropy in nats below which a candidate is written; 0 writes one at a time",
        speed=True,
    )
    pos_penalty: float = option(
        0.02,
        least=0,
        help="nats added to a candidate's entropy for each position after the first open one",
    )
    takes_schedule: ClassVar[bool] = False
    ignores_steps: ClassVar[bool] = True
    reads: ClassVar[Measure | None] = "entropy"

    def candidates(self, at: Ints) -> Ints:
        inside: Ints = at[at < at[0] + self.window]
        return inside

    def most_steps(self, n: int, steps: int) -> int | None:
        return n

    def commit(self, view: StepState) -> Bools:
        # ArXiv 2512.22737.
        doubt = -view.score + self.pos_penalty * (view.position - view.position[0])
        sure: Bools = doubt < self.entropy_threshold
        return sure if sure.any() else highest(-doubt, 1)
