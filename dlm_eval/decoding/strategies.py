"""Strategies: one function each that says where to write at a step.

A strategy sees a `Look` at the open positions of the block that is being filled and returns what to write. Some need
the model's candidates first; *blind* ones choose by position or chance alone, so that only what they chose has to be
read.

Shape letter: W = positions in the look.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from dlm_eval.decoding.draw import Measure
from dlm_eval.decoding.schedules import reveal_rates
from dlm_eval.models.denoiser import Process
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
        position: [W] places in the canvas, ascending: the open ones of the block, and with `rescore` or a strategy that
            rewrites those already written too.
        open: [W] whether the position is still open.
        noise: random streams of the request.
        was: [W] log-probability with which a written token was written (nats).
        current: [W] what stands there.
        token: [W] candidates; empty for blind strategies, as `score` is.
        score: [W] how sure the model is of its candidate, by the strategy's measure.
    """

    step: int
    steps: int
    clock: int
    quota: int
    position: Ints
    open: Bools
    noise: Noise
    was: Floats
    current: Ints
    token: Ints
    score: Floats

    def uniform(self, stream: str) -> Floats:
        """Returns [W] uniforms, one for (stream, step, position)."""
        return self.noise.uniforms(stream, self.clock, int(self.position[-1]) + 1)[self.position]

    @property
    def kept(self) -> int:
        """Positions that the schedule leaves open."""
        return int(self.open.sum()) - self.quota


Ends = Literal["full", "steps", "settled"]


@dataclass(frozen=True)
class Strategy:
    """A strategy with its one-line description.

    Attributes:
        about: one line for `dlm-eval ls strategies`.
        choose: returns [W] bool, true where to write the candidate.
        measure: what `Look.score` holds, or None for a blind strategy.
        schedule: its schedule unless set otherwise; None where it decides by itself how many to write.
        options: settings that are its own.
        erase: returns [W] bool, true where a written token becomes a mask again; None where that never happens.
        ends: when a block is done: once 'full', after all 'steps', or once full and 'settled'. Only what ends when full
            never rewrites a token.
        processes: corruptions of the models that it can fill with.
        removes_noise: whether what is open after the last step is written in one more (`decoding.rates`).
        by_chance: whether it draws random numbers even at temperature 0.
        slides: whether a look holds only the open positions among the `window` ones that begin with the first open one.
    """

    about: str
    choose: Callable[[Look, DecodeSettings], Bools]
    measure: Measure | None
    schedule: str | None = "even"
    options: tuple[str, ...] = ()
    erase: Callable[[Look, DecodeSettings], Bools] | None = None
    ends: Ends = "full"
    processes: tuple[Process, ...] = ("absorbing",)
    removes_noise: bool = False
    slides: bool = False
    by_chance: bool = False


def highest(rank: Floats, count: int) -> Bools:
    """Returns [W] bool, true at the `count` highest ranks; the earlier position first where ranks are equal."""
    chosen = np.zeros(len(rank), dtype=bool)
    chosen[np.argsort(-rank, kind="stable")[: max(0, count)]] = True
    return chosen


def gumbel(uniform: Floats) -> Floats:
    """Returns standard Gumbel numbers from uniforms in [0, 1)."""
    return -np.log(-np.log1p(-uniform))


def lowest(score: Floats, count: int) -> Bools:
    """Returns [W] bool, true below the score that `count` others lie under; equal scores at the border are not
    lowest."""
    return score < np.sort(score)[count] if count < len(score) else np.ones(len(score), dtype=bool)


def by_score(look: Look, settings: DecodeSettings) -> Bools:
    """Writes the quota's most certain candidates; with `alg_temp`, draws places by softmax(score / alg_temp).

    With `rescore`, written tokens compete: open positions are written unless among the lowest scores of all
    (DiffuLLaMA).
    """
    score = look.score
    if settings.alg_temp > 0:
        # Gumbel-top-k (Kool et al. 2019) draws without replacement with one random number for each position.
        score = np.exp(score) if settings.strategy == "confidence" else score
        score = score / settings.alg_temp + gumbel(look.uniform("order"))
    if settings.rescore:
        return look.open & ~lowest(score, look.kept)
    return highest(score, look.quota)


def at_random(look: Look, settings: DecodeSettings) -> Bools:
    """Writes the quota at random places."""
    return highest(look.uniform("order"), look.quota)


def first_hit(look: Look, settings: DecodeSettings) -> Bools:
    """Writes one position, each with the same chance: the first that the reverse process reaches (arXiv 2409.02908)."""
    return highest(look.uniform("order"), 1)


def in_reading_order(look: Look, settings: DecodeSettings) -> Bools:
    """Writes the quota's first open positions."""
    return np.arange(len(look.position)) < look.quota


def by_timestep(look: Look, settings: DecodeSettings) -> Bools:
    """Writes each open position with probability 1 - s/t, and everything in the last step."""
    if look.step >= look.steps - 1:
        return np.ones(len(look.position), dtype=bool)
    return np.asarray(look.uniform("order") < reveal_rates(settings.eps, look.steps)[look.step])


def above_threshold(look: Look, settings: DecodeSettings) -> Bools:
    """Writes every candidate at least as probable as `threshold`, the quota's most probable ones at least (or at most), and always one."""
    assert settings.threshold is not None
    sure: Bools = np.exp(look.score) >= settings.threshold
    least = max(1, look.quota)
    if settings.quota_is == "most":
        sure, least = sure & highest(look.score, look.quota), 1
    return sure if sure.sum() >= least else highest(look.score, least)


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


def within_window(look: Look, settings: DecodeSettings) -> Bools:
    """Writes every candidate whose entropy plus `pos_penalty` nats per position behind the first open one is below
    `entropy_threshold`, or the one with the least (WeDLM, arXiv 2512.22737)."""
    doubt = -look.score + settings.pos_penalty * (look.position - look.position[0])
    sure: Bools = doubt < settings.entropy_threshold
    return sure if sure.any() else highest(-doubt, 1)
