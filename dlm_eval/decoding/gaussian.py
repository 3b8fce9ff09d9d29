"""Decoding for models of the gaussian process: Euler steps of an embedding diffusion (CDCD,
Dieleman et al. 2022; DDLM).

A step: x_t and the last estimate of x_0 -> logits -> E[x_0 | x_t, t] -> score s = (E[x_0] - x_t) /
t^2 (CDCD eq. 7) -> dx = -t s dt. After the last step one more forward gives the tokens (CDCD 6.1).
Given tokens stay clean in a separate channel.

Shape letters: L = positions of the canvas, n = open ones, D = embedding size, V = vocabulary.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from dlm_eval.canvas import Filling
from dlm_eval.decoding.exits import Halt, Halting
from dlm_eval.decoding.samples import best_program, repeat
from dlm_eval.decoding.step import Floats, Ints, TraceStep
from dlm_eval.decoding.strategy import FillRequest
from dlm_eval.engine import ForwardRow, Program
from dlm_eval.engine.rows import Kept
from dlm_eval.errors import UserError
from dlm_eval.models.denoiser import EmbeddingDenoiser, missing_members
from dlm_eval.rng import Noise

DEFAULT_STEPS = 200  # CDCD 6.1


def gaussian_program(
    request: FillRequest, halting: Halting, noise_scale: float, score_temperature: float
) -> Program[Filling]:
    """Returns the program that fills the canvas.

    `exit` is the halting criterion that ended it, else 'full'. Of several samples the one with the
    most probable tokens is kept.

    Args:
        request: the canvas.
        halting: options that can end it before its last step.
        noise_scale: factor of the initial noise.
        score_temperature: divides the logits from which E[x_0] is taken.

    Raises (when run):
        UserError: the model has no embeddings to diffuse.
    """
    model, noise = request.model, request.noise
    if absent := missing_members(model, EmbeddingDenoiser):
        raise UserError(
            f"{model.name} is of process 'gaussian' but lacks {', '.join(absent)} (see "
            "models/denoiser/inputs.py)"
        )
    numbers = range(request.settings.samples)
    samples = [
        _sample(model, request, halting, noise_scale, score_temperature, repeat(noise, i))
        for i in numbers
    ]
    return (yield from best_program(model, request.canvas, samples, "probability"))


def _sample(
    model: Any,
    request: FillRequest,
    halting: Halting,
    noise_scale: float,
    score_temperature: float,
    noise: Noise,
) -> Program[Filling]:
    """Returns the program of one sample; `model` is a `Denoiser` and an `EmbeddingDenoiser`."""
    canvas, trace = request.canvas, request.trace
    at, length, size = np.array(canvas.open_positions), len(canvas), model.embedding_size
    tokens = np.where(canvas.open, 0, canvas.tokens)
    levels = model.times(request.settings.steps or DEFAULT_STEPS)
    halt, divergence = Halt(halting), halting.halt == "kl"
    op, kept = model.interpolator(score_temperature, divergence), Kept() if divergence else None
    x = noise_scale * levels[0] * noise.generator("start").standard_normal((length, size))[at]
    estimate, nothing = np.zeros_like(x), np.zeros((len(at), 0), dtype=np.float32)
    token, changed, reason, step = np.full(len(at), -1), np.zeros(len(at), dtype=np.int64), None, 0
    logprob = np.zeros(len(at))
    for step, level in enumerate(levels):
        inputs = np.zeros((length, 2 * size + 1), dtype=np.float32)
        inputs[at] = np.concatenate([x, estimate, np.ones((len(at), 1))], axis=1)
        row = ForwardRow(
            tokens, at, op, nothing, inputs=inputs, time=float(level), kept=kept, ids=at
        )
        found, logprob, entropy, estimate, *more = (yield [row])[0]
        changed[found != token], token = step, found
        if trace is not None:
            trace(_trace_step(step, tokens, at, token, logprob))
        kl = float(np.mean(more[0])) if divergence and step > 0 else None
        reason = halt.reason(step + 1, token, float(np.mean(entropy)), kl)
        if reason is not None or step == len(levels) - 1:
            break
        x = x + (levels[step + 1] - level) * (x - estimate) / level
    return Filling(
        tokens=tuple(map(int, token)),
        forwards=step + 1,
        steps=step + 1,
        confidence=tuple(map(float, np.exp(logprob))),
        step=tuple(map(int, changed)),
        exit=reason or "full",
    )


def _trace_step(step: int, tokens: Ints, at: Ints, token: Ints, logprob: Floats) -> TraceStep:
    seen = tokens.copy()
    seen[at] = token
    places, sure = tuple(map(int, at)), tuple(map(float, np.exp(logprob)))
    return TraceStep(step, tuple(map(int, seen)), (False,) * len(seen), places, sure)
