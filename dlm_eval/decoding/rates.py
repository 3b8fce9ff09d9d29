"""Samplers that step back in time: each open position is written with the chance of the time that has passed.

With s_y the concrete score of token y at a masked position and S their sum (Lou et al. 2023), a step from t to s < t writes y with probability

    analytic   (exp(sigma(t) - sigma(s)) - 1) s_y        (Tweedie tau-leaping, their eq. 19)
    euler      (t - s) sigma'(t) s_y                     (their eq. 13)
    ddpm       (1 - s/t) p(y)                            (Sahoo et al. 2024, eq. 7)

and leaves the position open otherwise (never, where these sum to more than 1). Since ratios of the s_y do not depend on the step, that is: write
with probability min(1, factor x S) a token drawn from s_y / S. A model that predicts tokens themselves has S = 1 / (exp(sigma) - 1): there the chance is known
before anything is read, and only what will be written is read. After the last step one more removes what noise is left: ddpm writes the most probable
tokens, the others draw them.

Shape letters: N = wanted positions of a batch, V = vocabulary.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from torch import Tensor

from dlm_eval.decoding.draw import Draw, without
from dlm_eval.decoding.schedules import reveal_grid
from dlm_eval.decoding.strategies import Bools, Look
from dlm_eval.models.denoiser import ConcreteScores, Denoiser, noise_schedule, offers
from dlm_eval.models.noise_schedules import NoiseSchedule
from dlm_eval.rows import Reader

if TYPE_CHECKING:
    from dlm_eval.decoding.settings import DecodeSettings

SCORES = "score_logits"  # method of models of concrete scores


@dataclass(frozen=True)
class Ask:
    """What a step asks of the model.

    Attributes:
        reader: what to read off its logits.
        head: by which of its methods.
        time: noise level that it is told; 0 for none.
        log_chance: log of the chance that a position is written, where that is known before anything is read (nats).
    """

    reader: Reader
    head: str = "logits"
    time: float = 0.0
    log_chance: float | None = None


@dataclass(frozen=True)
class Rates:
    """Reader of log-scores: (token, its log-probability [nats], log of the chance that it is written now [nats]), each [N].

    Attributes:
        draw: how the token is drawn; it bans the mask.
        log_factor: log of what multiplies the scores in this step.
    """

    draw: Draw
    log_factor: float

    def __call__(self, logits: Tensor, payload: Tensor) -> tuple[Tensor, ...]:
        token, logprob, _ = self.draw(logits, payload)
        return token, logprob, without(logits, self.draw.banned).double().logsumexp(-1) + self.log_factor


def ask(model: Denoiser, draw: Draw, look: Look, settings: DecodeSettings) -> Ask:
    """Returns what the step asks of the model (of concrete scores, or of tokens), which draws tokens by `draw`."""
    done = look.step >= look.steps
    if settings.strategy not in ("analytic", "euler"):
        draw = replace(draw, temperature=0.0, of_drawn=False) if done else draw
        if settings.strategy != "ddpm":
            return Ask(draw)
        return Ask(draw, log_chance=_log(1.0 if done else _ancestral(look, settings.eps)))
    schedule: NoiseSchedule = noise_schedule(model)
    grid = reveal_grid(settings.eps, look.steps)
    now = float(grid[min(look.step, look.steps)])
    sigma = schedule.sigma(now)
    factor = math.inf if done else _factor(schedule, now, float(grid[look.step + 1]), settings.strategy)
    draw = replace(draw, banned=tuple({*draw.banned, model.mask_id}))
    if offers(model, ConcreteScores):
        return Ask(Rates(draw, _log(factor)), SCORES, sigma)
    return Ask(draw, log_chance=_log(factor / math.expm1(sigma)))


def by_chance(look: Look, settings: DecodeSettings) -> Bools:
    """Writes each position with its chance."""
    return np.asarray(look.uniform("order") < np.exp(np.minimum(look.score, 0.0)))


def _factor(schedule: NoiseSchedule, now: float, after: float, strategy: str) -> float:
    if strategy == "analytic":
        return math.expm1(schedule.sigma(now) - schedule.sigma(after))
    return schedule.rate(now) * (now - after)


def _ancestral(look: Look, eps: float) -> float:
    grid = reveal_grid(eps, look.steps)
    return float(1 - grid[look.step + 1] / grid[look.step])


def _log(number: float) -> float:
    return math.log(number) if number > 0 else -math.inf
