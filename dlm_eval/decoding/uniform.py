"""Decoding from random tokens: models of process 'uniform'.

'uniform' (SUNDAE, Savinov et al. 2022; AR2Diff, Han et al. 2024, arXiv 2401.17181): all tokens are
rewritten at every step; 10 steps at temperature 0.2, the best of 8 samples by the model's own
score.

'uniform', told the noise level (Duo, Sahoo et al. 2025, arXiv 2506.10892; psi-samplers: arXiv
2602.21185): steps of the reverse process from noise to text (`models.uniform_state`).

Shape letters: L = positions of the sequence, n = open ones, N = wanted positions of a batch, V =
vocabulary.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar, Literal, cast

import numpy as np
import torch
from torch import Tensor

from dlm_eval.canvas import BLANK, Canvas, Filling
from dlm_eval.decoding.draw import CHUNK, Draw, restrict
from dlm_eval.decoding.samples import mean_logprob, repeat
from dlm_eval.decoding.step import Bools, TraceStep
from dlm_eval.decoding.strategy import OF_MASKS, FillRequest, Strategy
from dlm_eval.decoding.unmasking import candidate_op
from dlm_eval.engine import ForwardRow, Program
from dlm_eval.engine.rows import together
from dlm_eval.models.denoiser import Denoiser, LogitsOp, NoiseLevels, Process, offers
from dlm_eval.models.uniform_state import log_noised, log_reverse
from dlm_eval.options import option

if TYPE_CHECKING:
    from dlm_eval.decoding.settings import DecodeSettings

REWRITE_STEPS = 10


@dataclass(frozen=True)
class Rewriter:
    """LogitsOp of (next token, its log-probability [nats], log-probability of the present token
    [nats]).

    The payload is [N, 2] float64: a uniform number in [0, 1), and the present token.
    """

    draw: Draw

    def __call__(self, logits: Tensor, payload: Tensor) -> tuple[Tensor, ...]:
        token, logprob, _ = self.draw(logits, payload[:, 0])
        standing = logits.gather(-1, payload[:, 1:].long()).squeeze(-1) - logits.logsumexp(-1)
        return token, logprob, standing.double()


@dataclass(frozen=True, kw_only=True)
class Rewrite(Strategy, name="rewrite"):
    """every position at every step, from random tokens (SUNDAE, AR2Diff; process 'uniform')"""

    processes: ClassVar[tuple[Process, ...]] = ("uniform",)
    revises: ClassVar[bool] = True

    @classmethod
    def why_not(cls, model: Denoiser) -> str | None:
        return "it has to be told the noise level" if offers(model, NoiseLevels) else None

    @property
    def is_random(self) -> bool:
        return True

    @classmethod
    def unused_settings(cls, process: str) -> tuple[str, ...]:
        return OF_MASKS

    @classmethod
    def default_steps(cls, process: str) -> int | None:
        return REWRITE_STEPS

    def most_forwards(
        self, model: Denoiser, canvas: Canvas, settings: DecodeSettings
    ) -> int | None:
        return settings.samples * (settings.steps or REWRITE_STEPS)

    def program(self, request: FillRequest) -> Program[Filling]:
        """Returns the program that fills the canvas, with the best of `samples` samples (`forwards`
        counts all).

        Under rerank 'score' the best has the lowest cross-entropy between the input of its last
        step and the logits there (AR2Diff 4.1), which needs no further forward. Under 'probability'
        it has the most probable tokens as they were written.
        """
        settings = request.settings
        noises = [repeat(request.noise, i) for i in range(settings.samples)]
        step = Planned(Rewriter(candidate_op(request.model, settings)))
        plan = [step] * (settings.steps or REWRITE_STEPS)
        # without draws, a step that changes nothing is the last one that could
        still = settings.temperature == 0
        return (
            yield from _best(
                settings, [_sample(replace(request, noise=one), plan, still) for one in noises]
            )
        )


@dataclass(frozen=True)
class Planned:
    """A step that rewrites every position: what reads the logits, the method of the model that gives
    them (None for `logits`), and the noise level that it is told.
    """

    op: LogitsOp
    head: Callable[..., Any] | None = None
    time: float = 0.0


def _best(
    settings: DecodeSettings, samples: Sequence[Program[tuple[Filling, float]]]
) -> Program[Filling]:
    """Returns the best of several samples by `rerank`, with the forwards of all."""
    found = yield from together(samples)
    ranks = [
        score if settings.rerank == "score" else mean_logprob(filling) for filling, score in found
    ]
    return replace(
        found[int(np.argmax(ranks))][0], forwards=sum(filling.forwards for filling, _ in found)
    )


def _sample(
    request: FillRequest, plan: Sequence[Planned], stop_if_still: bool = False
) -> Program[tuple[Filling, float]]:
    """Returns the program of one sample: its filling, and the mean log-probability of the last
    step's input (nats).

    Args:
        plan: the steps.
        stop_if_still: whether a step that changes nothing ends the sample.
    """
    model, canvas, settings, noise, trace = (
        request.model, request.canvas, request.settings, request.noise, request.trace,
    )  # fmt: skip
    at, length = np.array(canvas.open_positions), len(canvas)
    tokens = np.array(canvas.tokens, dtype=np.int64)
    start = (noise.uniforms("start", 0, length) * model.vocab_size).astype(np.int64)[at]
    tokens[at] = np.where(drafted(canvas)[at], tokens[at], start)
    random = settings.temperature > 0
    changed, logprob, standing = (
        np.zeros(len(at), dtype=np.int64),
        np.zeros(len(at)),
        np.zeros(len(at)),
    )
    forwards = 0
    for step, planned in enumerate(plan):
        draws = noise.uniforms("draw", step, length)[at] if random else np.zeros(len(at))
        payload = np.stack([draws, tokens[at].astype(np.float64)], axis=1)
        row = ForwardRow(
            tokens.copy(), at, planned.op, payload, head=planned.head, time=planned.time
        )
        token, logprob, standing = (yield [row])[0]
        forwards += 1
        moved = token != tokens[at]
        changed[moved] = step
        tokens[at] = token
        if trace is not None:
            places, sure = tuple(map(int, at)), tuple(map(float, np.exp(logprob)))
            trace(TraceStep(step, tuple(map(int, tokens)), (False,) * length, places, sure))
        if stop_if_still and not moved.any():
            break
    filling = Filling(
        tokens=tuple(map(int, tokens[at])),
        forwards=forwards,
        steps=forwards,
        confidence=tuple(map(float, np.exp(logprob))),
        step=tuple(map(int, changed)),
    )
    return filling, float(np.mean(standing))


def drafted(canvas: Canvas) -> Bools:
    """Returns [L] bool, true where filling begins with a token of a draft, not with a random one."""
    known = np.array(canvas.tokens, dtype=np.int64) != BLANK
    return np.asarray(known & np.array(canvas.open) & canvas.draft)


# -- the reverse process of uniform noise (Duo) ----------------------------------------------------


@dataclass(frozen=True)
class ReverseDraw:
    """LogitsOp of (next token, its log-probability [nats], log-probability of the present token
    [nats]) in a step from signal `now` to `after`.

    The payload is that of `Rewriter`. top_p and top_k restrict the network's distribution of the
    text, as in Duo's code; the temperature is that of the step's distribution.

    Attributes:
        now, after: alpha before and after the step; 0 before it means the network's own
            distribution of the text (`noise_removal=greedy`).
        kappa: weight of the reverse step; the rest goes to the text without noise, and from there
            back to `after` with new noise.
    """

    draw: Draw
    now: float
    after: float
    kappa: float = 1.0

    def __call__(self, logits: Tensor, payload: Tensor) -> tuple[Tensor, ...]:
        rows = max(1, CHUNK // logits.shape[-1])  # of float64 copies
        parts = [
            self._read(logits[start : start + rows], payload[start : start + rows])
            for start in range(0, len(logits), rows)
        ]
        return tuple(torch.cat(column) for column in zip(*parts, strict=True))

    def _read(self, logits: Tensor, payload: Tensor) -> tuple[Tensor, ...]:
        draw, present = self.draw, payload[:, 1].long()
        logits = draw.prepared(logits)
        own = restrict(logits, draw.top_p, draw.top_k, draw.top_p_rule)
        step = log_p = own.log_softmax(-1).double()
        if self.now > 0:
            step = log_reverse(log_p, present, self.now, self.after)
        if self.kappa < 1:
            text = log_reverse(log_p, present, self.now, 1.0)
            again = log_noised(text, self.after) + math.log1p(-self.kappa)
            step = torch.logaddexp(step + math.log(self.kappa), again) if self.kappa else again
        drawn = replace(draw, logits_temp=1.0, top_p=1.0, top_k=0)  # they are in `log_p`
        token, logprob, _ = drawn(step, payload[:, 0])
        standing = logits.gather(-1, present[:, None]).squeeze(-1) - logits.logsumexp(-1)
        return token, logprob, standing.double()


@dataclass(frozen=True, kw_only=True)
class ReverseSteps(Strategy, name="ancestral"):
    """reverse steps of uniform noise, from random tokens (Duo's ancestral and psi; process 'uniform')

    Steps go from t = 1 to `t_end`, all positions at once (s-sahoo/duo 7c9b498,
    `trainer_base.py`: generate_samples; `algo.py`: _posterior_from_x0). Temperature 0 takes the most
    probable token of each step, 1 is the authors' sampler.
    """

    noise_removal: Literal["ancestral", "greedy", "off"] = option(
        "ancestral",
        help="what follows the last step: one more to the text without noise, the network's most "
        "probable tokens, or nothing (the authors' 'none')",
    )
    t_end: float = option(1e-5, above=0, below=1, help="time after the last step (Duo's eps)")
    kappa: float = option(
        1.0,
        least=0,
        most=1,
        help="weight of the reverse step in a psi step (Duo's mode constant-KAPPA); the rest goes "
        "to the text without noise and back with new noise",
    )
    processes: ClassVar[tuple[Process, ...]] = ("uniform",)

    @classmethod
    def why_not(cls, model: Denoiser) -> str | None:
        return None if offers(model, NoiseLevels) else "it is not told the noise level"

    @property
    def is_random(self) -> bool:
        return True

    @classmethod
    def unused_settings(cls, process: str) -> tuple[str, ...]:
        return OF_MASKS

    def most_forwards(
        self, model: Denoiser, canvas: Canvas, settings: DecodeSettings
    ) -> int | None:
        steps = settings.steps or len(canvas.open_positions)
        return settings.samples * (steps + (self.noise_removal != "off"))

    def program(self, request: FillRequest) -> Program[Filling]:
        """Returns the program that fills the canvas, with the best of `samples` samples (`forwards`
        counts all; `rerank` is that of `rewrite`).
        """
        noises = [repeat(request.noise, i) for i in range(request.settings.samples)]
        steps = request.settings.steps or len(request.canvas.open_positions)
        plan = self.plan(cast(NoiseLevels, request.model), steps, request)
        return (
            yield from _best(
                request.settings, [_sample(replace(request, noise=noise), plan) for noise in noises]
            )
        )

    def plan(self, model: NoiseLevels, steps: int, request: FillRequest) -> list[Planned]:
        """Returns the steps of a sample."""
        times = np.linspace(1.0, self.t_end, steps + 1)
        signal = [math.exp(-model.schedule.sigma(float(t))) for t in times]
        draw = candidate_op(request.model, request.settings)
        found = [
            Planned(ReverseDraw(draw, now, after, self.kappa), model.logits_at, -math.log(now))
            for now, after in itertools.pairwise(signal)
        ]
        last = model.schedule.sigma(float(times[-1]))
        if self.noise_removal == "ancestral":
            found.append(Planned(ReverseDraw(draw, signal[-1], 1.0), model.logits_at, last))
        if self.noise_removal == "greedy":
            greedy = replace(draw, temperature=0.0, of_drawn=False)
            found.append(Planned(ReverseDraw(greedy, 0.0, 1.0), model.logits_at, last))
        return found
