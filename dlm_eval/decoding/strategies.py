"""Strategies: one function each that says where to write at a step.

A strategy sees a `Look` at the open positions of the block that is being filled and returns what to write. Some need
the model's candidates first; *blind* ones choose by position or chance alone, so that only what they chose has to be
read.

Shape letter: W = positions in the look.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from dlm_eval.decoding.draw import Measure
from dlm_eval.decoding.schedules import reveal_rates
from dlm_eval.noise import Noise

if TYPE_CHECKING:
    from dlm_eval.decoding.settings import DecodeSettings

Bools = NDArray[np.bool_]
Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Look:
    """What a strategy sees.

    Attributes:
        step: step of this block, from 0.
        steps: steps of this block.
        clock: step of the whole canvas, from 0; it numbers the random draws.
        quota: tokens to write by the schedule.
        position: [W] places in the canvas, ascending.
        open: [W] whether the position is still open (with `rescore`, written positions are in the look too).
        score: [W] how sure the model is of its candidate, by the strategy's measure; empty for blind strategies.
        noise: random streams of the request.
    """

    step: int
    steps: int
    clock: int
    quota: int
    position: Ints
    open: Bools
    score: Floats
    noise: Noise

    def uniform(self, stream: str) -> Floats:
        """Returns [W] uniforms, one for (stream, step, position)."""
        return self.noise.uniforms(stream, self.clock, int(self.position[-1]) + 1)[self.position]


@dataclass(frozen=True)
class Strategy:
    """A strategy with its one-line description.

    Attributes:
        about: one line for `dlm-eval ls strategies`.
        choose: returns [W] bool, true where to write.
        measure: what `Look.score` holds, or None for a blind strategy.
        schedule: its schedule unless set otherwise; None where it decides by itself how many to write.
        options: settings that are its own.
    """

    about: str
    choose: Callable[[Look, DecodeSettings], Bools]
    measure: Measure | None
    schedule: str | None = "even"
    options: tuple[str, ...] = ()


def highest(rank: Floats, count: int) -> Bools:
    """Returns [W] bool, true at the `count` highest ranks; the earlier position first where ranks are equal."""
    chosen = np.zeros(len(rank), dtype=bool)
    chosen[np.argsort(-rank, kind="stable")[: max(0, count)]] = True
    return chosen


def by_score(look: Look, settings: DecodeSettings) -> Bools:
    """Writes the quota's most certain candidates; with `alg_temp`, draws them by softmax(score / alg_temp) without
    replacement."""
    score = np.exp(look.score) if settings.alg_temp > 0 and settings.strategy == "confidence" else look.score
    if settings.alg_temp > 0:
        # Gumbel-top-k (Kool et al. 2019) is a draw without replacement, one random number for each position.
        score = score / settings.alg_temp - np.log(-np.log1p(-look.uniform("order")))
    if settings.rescore:
        return _above_lowest(look, score)
    return highest(score, look.quota)


def _above_lowest(look: Look, score: Floats) -> Bools:
    """Writes open positions that are not among the k lowest scores of all, those already written included
    (DiffuLLaMA)."""
    kept = int(look.open.sum()) - look.quota
    cutoff = np.sort(score)[kept] if kept < len(score) else np.inf
    return look.open & (score >= cutoff)


def at_random(look: Look, settings: DecodeSettings) -> Bools:
    """Writes the quota at random places."""
    return highest(look.uniform("order"), look.quota)


def in_reading_order(look: Look, settings: DecodeSettings) -> Bools:
    """Writes the quota's first open positions."""
    return np.arange(len(look.position)) < look.quota


def by_timestep(look: Look, settings: DecodeSettings) -> Bools:
    """Writes each open position with probability 1 - s/t, and everything in the last step."""
    if look.step >= look.steps - 1:
        return np.ones(len(look.position), dtype=bool)
    return look.uniform("order") < reveal_rates(settings.eps, look.steps)[look.step]


def above_threshold(look: Look, settings: DecodeSettings) -> Bools:
    """Writes every candidate at least as probable as `threshold`, or the quota's most probable ones where that is
    more."""
    assert settings.threshold is not None
    sure = np.exp(look.score) >= settings.threshold
    return sure if sure.sum() >= max(1, look.quota) else highest(look.score, max(1, look.quota))


def by_factor(look: Look, settings: DecodeSettings) -> Bools:
    """Writes the n most probable candidates while the n-th is at least 1 - factor / (n + 1) (Fast-dLLM).

    As published, the most probable one is always written, and the last one whenever all before it are.
    """
    assert settings.factor is not None
    ranked = np.sort(np.exp(look.score))[::-1]
    needed = 1 - settings.factor / np.arange(2, len(ranked) + 2)
    needed[0] = -np.inf
    needed[-1] = -np.inf
    refused = np.nonzero(ranked < needed)[0]
    return highest(look.score, int(refused[0]) if len(refused) else len(ranked))


def within_entropy_bound(look: Look, settings: DecodeSettings) -> Bools:
    """Writes the most certain candidates while their joint entropy less the largest is at most `entropy_bound` nats
    (arXiv 2505.24857)."""
    assert settings.entropy_bound is not None
    ranked = np.sort(-look.score)  # ascending: the largest of the first n is the n-th
    excess = np.cumsum(ranked) - ranked
    return highest(look.score, max(1, int(np.searchsorted(excess, settings.entropy_bound, side="right"))))


STRATEGIES: dict[str, Strategy] = {
    "confidence": Strategy(
        "the most probable candidates first (LLaDA low_confidence, Dream maskgit_plus, DiffuLLaMA with rescore)",
        by_score,
        "probability",
        options=("alg_temp", "rescore"),
    ),
    "margin": Strategy(
        "the largest lead over the runner-up first (Dream topk_margin)",
        by_score,
        "margin",
        options=("alg_temp", "rescore"),
    ),
    "entropy": Strategy(
        "the lowest entropy first (Dream entropy)", by_score, "entropy", options=("alg_temp", "rescore")
    ),
    "random": Strategy("places drawn at random, so many each step (LLaDA random)", at_random, None),
    "left_to_right": Strategy("in reading order", in_reading_order, None),
    "timestep": Strategy(
        "each position with probability 1 - s/t (Dream origin; eps=0: DiffuLLaMA random keep)",
        by_timestep,
        None,
        None,
        ("eps",),
    ),
    "threshold": Strategy(
        "all candidates at least as probable as a threshold, at least one (Fast-dLLM, SDAR dynamic, LLaDA2)",
        above_threshold,
        "probability",
        None,
        ("threshold",),
    ),
    "factor": Strategy(
        "the n most probable while the n-th is at least 1 - factor / (n + 1) (Fast-dLLM)",
        by_factor,
        "probability",
        None,
        ("factor",),
    ),
    "entropy_bound": Strategy(
        "as many as keep the joint entropy's excess under a bound (EB-sampler)",
        within_entropy_bound,
        "entropy",
        None,
        ("entropy_bound",),
    ),
}
