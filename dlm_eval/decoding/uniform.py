"""Decoding for models of the uniform process: random tokens, all of which are rewritten at every
step.

SUNDAE (Savinov et al. 2022), AR2Diff (Han et al. 2024, arXiv 2401.17181): 10 steps at temperature
0.2, the best of 8 samples by the model's own score.

Shape letters: L = positions of the canvas, n = open ones, N = wanted positions of a batch, V =
vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
from torch import Tensor

from dlm_eval.canvas import Filling
from dlm_eval.decoding.draw import Draw
from dlm_eval.decoding.samples import mean_logprob, repeat
from dlm_eval.decoding.settings import DecodeSettings
from dlm_eval.decoding.strategy import OF_MASKS, FillRequest, Strategy
from dlm_eval.decoding.trace import TraceStep
from dlm_eval.engine import ForwardRow, Program
from dlm_eval.engine.programs import together
from dlm_eval.models.denoiser import Denoiser, Process

DEFAULT_STEPS = 10


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

    @property
    def is_random(self) -> bool:
        return True

    @classmethod
    def unread(cls, process: str) -> tuple[str, ...]:
        return OF_MASKS

    @classmethod
    def default_steps(cls, process: str) -> int | None:
        return DEFAULT_STEPS

    def program(self, request: FillRequest) -> Program[Filling]:
        """Returns the program that fills the canvas, with the best of `samples` samples (`forwards`
        counts all).

        Under rerank 'score' the best has the lowest cross-entropy between the input of its last
        step and the logits there (AR2Diff 4.1), which needs no further forward. Under 'probability'
        it has the most probable tokens as they were written.
        """
        settings = request.settings
        numbers = range(settings.samples)
        found = yield from together([_sample(replace(request, noise=repeat(request.noise, i))) for i in numbers])
        ranks = [score if settings.rerank == "score" else mean_logprob(filling) for filling, score in found]
        return replace(found[int(np.argmax(ranks))][0], forwards=sum(filling.forwards for filling, _ in found))


def _sample(request: FillRequest) -> Program[tuple[Filling, float]]:
    """Returns the program of one sample: its filling, and the mean log-probability of the last
    step's input (nats).
    """
    model, canvas, settings, noise, trace = (
        request.model, request.canvas, request.settings, request.noise, request.trace,
    )  # fmt: skip
    at, length = np.array(canvas.open_positions), len(canvas)
    tokens = np.array(canvas.tokens, dtype=np.int64)
    tokens[at] = (noise.uniforms("start", 0, length) * model.vocab_size).astype(np.int64)[at]
    random, op = settings.temperature > 0, _reader(model, settings)
    changed, logprob, standing = np.zeros(len(at), dtype=np.int64), np.zeros(len(at)), np.zeros(len(at))
    forwards = 0
    for step in range(settings.steps or DEFAULT_STEPS):
        draws = noise.uniforms("draw", step, length)[at] if random else np.zeros(len(at))
        payload = np.stack([draws, tokens[at].astype(np.float64)], axis=1)
        token, logprob, standing = (yield [ForwardRow(tokens.copy(), at, op, payload)])[0]
        forwards += 1
        moved = token != tokens[at]
        changed[moved] = step
        tokens[at] = token
        if trace is not None:
            places, sure = tuple(map(int, at)), tuple(map(float, np.exp(logprob)))
            trace(TraceStep(step, tuple(map(int, tokens)), (False,) * length, places, sure))
        if not (random or moved.any()):
            break  # further steps would change nothing
    filling = Filling(
        tokens=tuple(map(int, tokens[at])),
        forwards=forwards,
        steps=forwards,
        confidence=tuple(map(float, np.exp(logprob))),
        step=tuple(map(int, changed)),
    )
    return filling, float(np.mean(standing))


def _reader(model: Denoiser, settings: DecodeSettings) -> Rewriter:
    return Rewriter(
        Draw(
            temperature=settings.temperature,
            top_p=settings.top_p,
            top_k=settings.top_k,
            top_p_rule=settings.top_p_rule,
            logits_temp=settings.logits_temp,
            of_drawn=settings.confidence_from == "sampling",
            banned=model.eos_ids[:1] if settings.logits_eos_inf else (),
        )
    )
