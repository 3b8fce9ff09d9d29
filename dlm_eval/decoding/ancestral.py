"""Ancestral sampling: each open position is written with the probability of the reverse process.

With s_y the concrete score of token y at a masked position and S their sum (Lou et al. 2023), a
step from t to s < t writes y with probability

    analytic   (exp(sigma(t) - sigma(s)) - 1) s_y        (Tweedie tau-leaping, their eq. 19)
    euler      (t - s) sigma'(t) s_y                     (their eq. 13)
    ddpm       (1 - s/t) p(y)                            (Sahoo et al. 2024, eq. 7)

and leaves the position open otherwise (never if these sum to more than 1). The ratios of the s_y do
not depend on the step, so the step is equivalent to this: with probability min(1, factor x S),
write a token drawn from s_y / S. A model that predicts tokens has S = 1 / (exp(sigma) - 1). The
probability is then known before the model runs, and only positions that will be written are read.
One more step after the last removes the remaining noise: ddpm writes the most probable tokens, the
others draw them.

Shape letters: N = wanted positions of a batch, V = vocabulary, W = positions that a step considers.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar, cast

import numpy as np
from torch import Tensor

from dlm_eval.canvas import Canvas, Filling
from dlm_eval.decoding.draw import Draw, Measure, without
from dlm_eval.decoding.exits import Halting
from dlm_eval.decoding.gaussian import DEFAULT_STEPS, gaussian_program
from dlm_eval.decoding.schedules import reveal_grid, reveal_rates
from dlm_eval.decoding.step import Bools, Query, StepState
from dlm_eval.decoding.strategy import OF_DRAWS, OF_MASKS, FillRequest
from dlm_eval.decoding.unmasking import Unmasking
from dlm_eval.engine import Program
from dlm_eval.models.denoiser import (
    ConcreteScores,
    Denoiser,
    NoiseSchedule,
    Process,
    noise_schedule,
    offers,
)
from dlm_eval.options import option, option_names

if TYPE_CHECKING:
    from dlm_eval.decoding.settings import DecodeSettings


@dataclass(frozen=True)
class Rates:
    """LogitsOp of log-scores: (token, its log-probability, log-probability that it is written now).

    Each is [N]; logs are in nats.

    Attributes:
        draw: how the token is drawn; it bans the mask.
        log_factor: log of the factor of the scores in this step.
    """

    draw: Draw
    log_factor: float

    def __call__(self, logits: Tensor, payload: Tensor) -> tuple[Tensor, ...]:
        token, logprob, _ = self.draw(logits, payload)
        return (
            token,
            logprob,
            without(logits, self.draw.banned).double().logsumexp(-1) + self.log_factor,
        )


@dataclass(frozen=True, kw_only=True)
class Timestep(Unmasking, name="timestep"):
    """each position with probability 1 - s/t (Dream origin; eps=0: DiffuLLaMA random keep)

    The last step writes all remaining positions.
    """

    takes_schedule: ClassVar[bool] = False

    @property
    def is_random(self) -> bool:
        return True

    def most_steps(self, n: int, steps: int) -> int | None:
        return min(steps, n)

    def commit(self, view: StepState) -> Bools:
        if view.step >= view.steps - 1:
            return ~view.nowhere
        return np.asarray(view.uniform("order") < reveal_rates(view.eps, view.steps)[view.step])


@dataclass(frozen=True, kw_only=True)
class Ancestral(Unmasking):
    """Base: each position is written with its own probability, `StepState.score` (log, nats)."""

    takes_schedule: ClassVar[bool] = False

    @property
    def is_random(self) -> bool:
        return True

    def most_steps(self, n: int, steps: int) -> int | None:
        return min(steps + 1, n)

    def commit(self, view: StepState) -> Bools:
        return np.asarray(view.uniform("order") < np.exp(np.minimum(view.score, 0.0)))


@dataclass(frozen=True, kw_only=True)
class Ddpm(Ancestral, name="ddpm"):
    """ancestral sampling: each position with probability 1 - s/t (MDLM, BD3LM)

    After the last step the remaining positions get their most probable tokens.
    """

    def query(self, view: StepState, op: Draw, model: Denoiser) -> Query:
        if view.step >= view.steps:
            return Query(at_temperature_zero(op), log_chance=0.0)
        grid = reveal_grid(view.eps, view.steps)
        return Query(op, log_chance=_log(float(1 - grid[view.step + 1] / grid[view.step])))


class ReverseTransition(Ancestral):
    """Base: the probability is the step's factor times the concrete scores."""

    reads: ClassVar[Measure | None] = "probability"

    def most_steps(self, n: int, steps: int) -> int | None:
        return steps + 1  # concrete scores are read at every step

    def factor(self, schedule: NoiseSchedule, now: float, after: float) -> float:
        """Returns the factor of the concrete scores in a step from time `now` to `after`."""
        raise NotImplementedError

    def query(self, view: StepState, op: Draw, model: Denoiser) -> Query:
        schedule = noise_schedule(model)
        grid = reveal_grid(view.eps, view.steps)
        now = float(grid[min(view.step, view.steps)])
        sigma = schedule.sigma(now)
        done = view.step >= view.steps
        factor = math.inf if done else self.factor(schedule, now, float(grid[view.step + 1]))
        op = replace(op, banned=tuple({*op.banned, model.mask_id}))
        if offers(model, ConcreteScores):
            return Query(Rates(op, _log(factor)), cast(ConcreteScores, model).score_logits, sigma)
        return Query(op, log_chance=_log(factor / math.expm1(sigma)))


@dataclass(frozen=True, kw_only=True)
class Analytic(ReverseTransition, name="analytic"):
    """each position by its exact reverse transition (SEDD, MDLM analytic; Tweedie tau-leaping)

    After the last step the remaining positions get tokens that are drawn.
    """

    def factor(self, schedule: NoiseSchedule, now: float, after: float) -> float:
        return math.expm1(schedule.sigma(now) - schedule.sigma(after))


@dataclass(frozen=True, kw_only=True)
class Euler(ReverseTransition, Halting, name="euler"):
    """Euler steps of the reverse process (SEDD euler; process 'gaussian': CDCD, DDLM)

    The steps are those of the reverse rates, and of the embeddings for models of process
    'gaussian'.
    """

    noise_scale: float = option(
        1.0, least=0, help="factor of the initial noise (process 'gaussian')"
    )
    score_temperature: float = option(
        1.0,
        above=0,
        help="divides the logits from which E[x_0] is taken; below 1 is sharper (process "
        "'gaussian')",
    )
    processes: ClassVar[tuple[Process, ...]] = ("absorbing", "gaussian")

    @classmethod
    def unused_settings(cls, process: str) -> tuple[str, ...]:
        if process == "gaussian":
            return (*OF_MASKS, *OF_DRAWS)
        return ("noise_scale", "score_temperature", *option_names(Halting))

    @classmethod
    def default_steps(cls, process: str) -> int | None:
        return DEFAULT_STEPS if process == "gaussian" else None

    def why_no_checkpoint(self, process: str) -> str | None:
        return "process 'gaussian'" if process == "gaussian" else super().why_no_checkpoint(process)

    def factor(self, schedule: NoiseSchedule, now: float, after: float) -> float:
        return schedule.rate(now) * (now - after)

    def most_forwards(
        self, model: Denoiser, canvas: Canvas, settings: DecodeSettings
    ) -> int | None:
        if model.process == "gaussian":
            return settings.samples * ((settings.steps or DEFAULT_STEPS) + 1)  # one after the last
        return super().most_forwards(model, canvas, settings)

    def program(self, request: FillRequest) -> Program[Filling]:
        if request.model.process == "gaussian":
            return (
                yield from gaussian_program(request, self, self.noise_scale, self.score_temperature)
            )
        return (yield from super().program(request))


def at_temperature_zero(op: Draw) -> Draw:
    """Returns the op that reads the most probable token."""
    return replace(op, temperature=0.0, of_drawn=False)


def _log(number: float) -> float:
    return math.log(number) if number > 0 else -math.inf
