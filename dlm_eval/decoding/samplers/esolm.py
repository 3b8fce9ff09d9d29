"""Eso-LM's sampler: diffusion writes a share of the tokens in random order, then left to right.

Sahoo et al. 2025, arXiv 2506.01928; github.com/s-sahoo/Eso-LMs 92e7982, algo.py
`EsoLM.generate_samples` and `_tokens_unmasked_per_step`.

Shape letters: n = open positions, L = positions of the canvas.
"""

from __future__ import annotations

import math
from collections.abc import Generator
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, cast

import numpy as np

from dlm_eval.decoding.draw import Draw
from dlm_eval.decoding.state import DecodeState
from dlm_eval.decoding.step import Edit, Ints, Query, StepState
from dlm_eval.decoding.unmasking import Ends, Unmasking
from dlm_eval.engine import ForwardRow, Layout, Output
from dlm_eval.models.denoiser import Denoiser, WritingOrder, offers
from dlm_eval.options import option
from dlm_eval.rng import Noise

if TYPE_CHECKING:
    pass

NOISE_LEFT = 1e-3  # of the authors' log-linear schedule, at t = 1 and below
STEPS = 1000  # the authors' sampling.steps


@dataclass(frozen=True, eq=False)
class Order:
    """When each position is written.

    Attributes:
        places: positions in the order of writing; the given ones are not among them.
        counts: how many of them each step writes.
    """

    places: Ints
    counts: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class EsoLM(Unmasking, name="esolm"):
    """a share of the tokens by diffusion in random order, the others from left to right (Eso-LM)

    `diffusion_steps` steps of a log-linear schedule draw how many tokens each one writes (steps that
    write none run nothing); what is left is written from the left, one token per step. A row holds the
    written tokens in the order of writing and the masks of its step behind them: no token sees
    a later one, so this equals the authors' KV cache and gives their tokens and forwards.

    The authors write texts from nothing; here given text comes first, from left to right. Their
    `subcontext_len` (fixed orders that split the text into parts) is left out.
    """

    alpha_0: float | None = option(
        None,
        least=0,
        most=1,
        help="share of the tokens that diffusion writes; None: that of the model's training",
    )
    diffusion_steps: int = option(
        STEPS,
        least=1,
        help="steps of the schedule of the diffusion phase (the authors' steps)",
        speed=True,
    )
    takes_schedule: ClassVar[bool] = False
    takes_steps: ClassVar[bool] = False
    takes_guidance: ClassVar[bool] = False
    keeps_state: ClassVar[bool] = True
    takes_block_length: ClassVar[bool] = False
    owns_blocks: ClassVar[bool] = True
    ends: ClassVar[Ends] = "full"
    shows_whole: ClassVar[str] = "shows tokens in the order of writing"
    full_attention: ClassVar[bool] = True

    @classmethod
    def why_not(cls, model: Denoiser) -> str | None:
        if not offers(model, WritingOrder):
            return "it does not attend in the order of writing"
        if cast(WritingOrder, model).sees_masks_behind:
            return "its masks see those behind them (the authors sample from variant B)"
        return None

    @property
    def is_random(self) -> bool:
        return True

    def most_steps(self, n: int, steps: int) -> int | None:
        return n

    def memory(self, state: DecodeState) -> Order:
        places = np.flatnonzero(state.open)
        model = cast(WritingOrder, state.model)
        alpha = model.alpha_0 if self.alpha_0 is None else self.alpha_0
        counts = tokens_per_step(len(places), alpha, self.diffusion_steps, state.noise)
        order = state.noise.uniforms("order", 0, len(state.ids))[places].argsort()
        diffused = sum(counts)
        order[diffused:].sort()
        return Order(places[order], (*counts, *[1] * (len(places) - diffused)))

    def step(
        self, state: DecodeState, view: StepState, op: Draw
    ) -> Generator[list[ForwardRow], list[Output], Edit]:
        """Writes the tokens that are next in the order."""
        order: Order = state.memory
        written = len(order.places) - int(np.count_nonzero(state.open[order.places]))
        begins = np.concatenate([[0], np.cumsum(order.counts)])
        count = order.counts[int(np.searchsorted(begins, written))]
        now = order.places[written : written + count]
        places = np.concatenate([np.flatnonzero(state.given), order.places[: written + count]])
        is_mask = np.arange(len(places)) >= len(places) - count
        layout = Layout(places, cast(WritingOrder, state.model).visible(is_mask))
        uniform = state.uniforms(now)
        row = state.row(np.flatnonzero(is_mask), Query(op), state.tokens[places], uniform, layout)
        token, logprob, *_ = (yield from state.run([row]))[0]
        sorted_ = now.argsort()
        return Edit(now[sorted_], token[sorted_], logprob[sorted_])


def tokens_per_step(n: int, alpha_0: float, steps: int, noise: Noise) -> tuple[int, ...]:
    """Returns the numbers of tokens that diffusion writes in each step that writes any.

    A step from t to t - 1/steps writes each open token with probability (alpha_s - alpha_t) / (1 -
    alpha_t), where alpha_t = alpha_0 (1 - (1 - 0.001) t). With alpha_0 = 1 all of them are written.
    """
    uniform = noise.uniforms("tokens per step", 0, steps)
    found, left = [], n
    for step, t in enumerate(np.linspace(1, 1 / steps, steps)):
        now, after = (alpha_0 * (1 - (1 - NOISE_LEFT) * each) for each in (t, t - 1 / steps))
        chance = min(1.0, (after - now) / (1 - now)) if now < 1 else 1.0
        count = drawn_binomial(left, chance, float(uniform[step]))
        if count:
            found.append(count)
            left -= count
    return (*found, left) if left and alpha_0 == 1 else tuple(found)


def drawn_binomial(n: int, chance: float, uniform: float) -> int:
    """Returns the number of successes of `n` draws at the quantile `uniform` in [0, 1)."""
    if chance <= 0 or chance >= 1:
        return n if chance >= 1 else 0
    counts = np.arange(n)
    # in logarithms: (1 - chance)^n is 0 in float64 for long texts
    ratios = np.log((n - counts) / (counts + 1)) + math.log(chance) - math.log1p(-chance)
    log_mass = n * math.log1p(-chance) + np.append(0.0, np.cumsum(ratios))
    return min(n, int(np.searchsorted(np.exp(log_mass).cumsum(), uniform, side="right")))
