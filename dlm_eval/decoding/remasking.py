"""Strategies that remask: a written token can become a mask again, or another token.

They consider all positions of the block. Decoding cannot end early, since no token is final before
the last step.

Shape letter: W = positions that a step considers.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np

from dlm_eval.decoding.ancestral import at_temperature_zero
from dlm_eval.decoding.draw import Draw, Measure
from dlm_eval.decoding.schedules import kept_rate, reveal_grid
from dlm_eval.decoding.step import Bools, Floats, Query, StepState
from dlm_eval.decoding.strategies import gumbel, highest, lowest
from dlm_eval.decoding.unmasking import Ends, Unmasking
from dlm_eval.models.denoiser import Denoiser
from dlm_eval.options import option, value_error

LOWEST = float(np.finfo(np.float64).min)


@dataclass(frozen=True, kw_only=True)
class Rdm(Unmasking, name="rdm"):
    """the highest scores; written tokens of low score are remasked (RDM, DiffusionLLM)"""

    # Zheng et al. 2023: reparameterised discrete diffusion

    rdm_condition: Literal["uncond", "cond"] = option(
        "uncond",
        help="'uncond' remasks every written token among the lowest scores; 'cond' only one that "
        "is drawn again with a lower"
        " score",
    )
    rdm_noise: float = option(
        0.0,
        least=0,
        help="scale of the Gumbel noise on scores, times the share kept open; 0 is deterministic",
    )
    default_schedule: ClassVar[str | None] = "cosine"
    reads: ClassVar[Measure | None] = "probability"
    ends: ClassVar[Ends] = "steps"
    revises: ClassVar[bool] = True

    @property
    def is_random(self) -> bool:
        return self.rdm_noise > 0

    def commit(self, view: StepState) -> Bools:
        return view.open & ~self._stays_masked(view)

    def erase(self, view: StepState) -> Bools:
        erased = ~view.open & self._stays_masked(view)
        if self.rdm_condition == "cond":
            erased &= (view.token == view.current) & (view.score < view.old_logprob)
        return erased

    def _stays_masked(self, view: StepState) -> Bools:
        score = view.score
        if self.rdm_noise > 0:
            rate = kept_rate(view.schedule or "cosine", view.step, view.steps)
            score = score + self.rdm_noise * rate * gumbel(view.uniform("order"))
        return lowest(score, view.left_open)


@dataclass(frozen=True, kw_only=True)
class P2(Unmasking, name="p2"):
    """as rdm; a written token's score is p2_eta times its log-probability (P2 self-planning)"""

    # Peng et al. 2025, arXiv 2502.03540: path planning with the model as its own planner

    p2_eta: float = option(
        1.0, least=0, help="factor of the log-probability of a written token; 0 never remasks it"
    )
    default_schedule: ClassVar[str | None] = "linear"
    reads: ClassVar[Measure | None] = "probability"
    ends: ClassVar[Ends] = "steps"
    revises: ClassVar[bool] = True

    def commit(self, view: StepState) -> Bools:
        return view.open & ~self._stays_masked(view)

    def erase(self, view: StepState) -> Bools:
        return ~view.open & self._stays_masked(view)

    def _stays_masked(self, view: StepState) -> Bools:
        """Returns [W] bool, true at the floor(n (1 - kappa)) lowest scores."""
        score = np.where(view.open, view.score, view.score * self.p2_eta)
        return highest(-score, view.left_open)


@dataclass(frozen=True, kw_only=True)
class Remask(Unmasking, name="remask"):
    """positions at random; written tokens are remasked at random (ReMDM cap, rescale, conf, loop)"""

    # Wang et al. 2025, arXiv 2503.00307. alpha = 1 - t is the share of clean tokens. sigma is
    # `eta`, limited to its largest value ('cap') or times that value ('rescale'). Under 'conf' the
    # largest value is distributed by how improbable each token was when it was written. 'loop'
    # holds alpha at `alpha_on` while t is between `t_on` and `t_off`, and remasks only then.

    remask: Literal["cap", "rescale", "conf", "loop"] = option(
        "cap", help="how ReMDM chooses the probability of remasking"
    )
    eta: float = option(0.02, least=0, most=1, help="strength of remasking")
    t_on: float = option(0.55, least=0, most=1, help="'loop': time at which remasking begins")
    t_off: float = option(0.05, least=0, most=1, help="'loop': time at which remasking ends")
    alpha_on: float = option(0.9, least=0, below=1, help="'loop': share of clean tokens in between")
    takes_schedule: ClassVar[bool] = False
    ends: ClassVar[Ends] = "steps"
    revises: ClassVar[bool] = True
    last_step_fills: ClassVar[bool] = True

    def check(self) -> None:
        if self.t_off >= self.t_on:
            raise value_error("decode t_off", self.t_off, f"below t_on {self.t_on}")

    @property
    def is_random(self) -> bool:
        return True

    def query(self, view: StepState, op: Draw, model: Denoiser) -> Query:
        return Query(at_temperature_zero(op) if view.step >= view.steps else op)

    def commit(self, view: StepState) -> Bools:
        """Returns [W]: each open position with probability (alpha_s - (1 - sigma) alpha_t) / (1 -
        alpha_t).

        After the last step, all of them.
        """
        if view.step >= view.steps:
            return view.open
        return view.open & (view.uniform("order") < self._chances(view)[0])

    def erase(self, view: StepState) -> Bools:
        """Returns [W]: each written position with probability sigma; none after the last step."""
        if view.step >= view.steps:
            return view.nowhere
        return ~view.open & (view.uniform("order") < self._chances(view)[1])

    def _chances(self, view: StepState) -> tuple[float, Floats]:
        """Returns the probability of writing an open position, and [W] of remasking others."""
        grid = reveal_grid(view.eps, view.steps)
        t, s = float(grid[view.step]), float(grid[view.step + 1])
        none = np.zeros(len(view.open))
        if self.remask == "loop":
            before, after = self._looped(t, t), self._looped(s, t)
            inside = self.t_off < t <= self.t_on
            return _written(before, after, self.eta * inside), none + self.eta * inside
        before, after = 1 - t, 1 - s
        largest = min(1.0, (1 - after) / before) if before > 0 else 1.0
        if self.remask == "conf":
            doubt = np.where(view.open, 0.0, np.exp(-np.exp(view.old_logprob)))
            return _written(before, after, 0.0), largest * doubt / max(float(doubt.sum()), 1e-300)
        sigma = min(self.eta, largest) if self.remask == "cap" else self.eta * largest
        return _written(before, after, sigma), none + sigma

    def _looped(self, t: float, phase: float) -> float:
        """Returns alpha at `t` by the rule of the phase of time `phase` (section 4.3)."""
        if phase > self.t_on:
            return (1 - t) * self.alpha_on / (1 - self.t_on)
        return self.alpha_on if phase > self.t_off else 1 - t * (1 - self.alpha_on) / self.t_off


def _written(before: float, after: float, sigma: float) -> float:
    return (after - (1 - sigma) * before) / (1 - before)


@dataclass(frozen=True, kw_only=True)
class EditTokens(Unmasking, name="edit"):
    """as threshold; written tokens are also replaced by more probable ones (LLaDA2.1)"""

    threshold: float = option(
        least=0, most=1, help="minimum probability of a token that is written", speed=True
    )
    editing_threshold: float = option(
        least=0,
        most=1,
        help="minimum probability of a token that replaces a written one",
        speed=True,
    )
    num_to_transfer: int = option(
        1, least=1, help="minimum number of tokens that a step writes", speed=True
    )
    max_post_steps: int = option(16, least=0, help="maximum number of steps on a full block")
    takes_schedule: ClassVar[bool] = False
    ignores_steps: ClassVar[bool] = True
    reads: ClassVar[Measure | None] = "probability"
    ends: ClassVar[Ends] = "stable"
    revises: ClassVar[bool] = True

    @property
    def steps_when_full(self) -> int:
        return self.max_post_steps

    def most_steps(self, n: int, steps: int) -> int | None:
        return n + self.max_post_steps

    def commit(self, view: StepState) -> Bools:
        probability = np.exp(view.score)
        sure: Bools = view.open & (probability > self.threshold)
        if view.open.any() and sure.sum() < self.num_to_transfer:
            # An open position ranks above any written one, even if its candidate has probability 0
            # (an end token with confidence 0).
            rank = np.where(view.open, np.maximum(view.score, LOWEST), -np.inf)
            sure = view.open & highest(rank, self.num_to_transfer)
        better: Bools = (probability > self.editing_threshold) & (view.token != view.current)
        return sure | (~view.open & better)
