"""Decoding of models of process 'canvas' (DiffusionGemma): uniform noise with self-conditioning.

The text is filled in canvases of a fixed length, one after the other. Each starts with random
tokens. A step draws a token for every position at a temperature that falls linearly. Tokens are
accepted in order of entropy, as long as the entropies of those before sum to at most a bound
(EB-sampler, Ben-Hamu et al. 2025, arXiv 2505.24857). All other positions become random tokens again.
The distributions of a step are an input of the next one (self-conditioning). A canvas ends with the
most probable tokens of its last step.

Shape letters: L = positions of the sequence, n = open ones or positions of one canvas, N = wanted
positions of a batch, V = vocabulary, H = state size.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, cast

import numpy as np
import torch
from torch import Tensor

from dlm_eval.canvas import BLANK, Canvas, Filling
from dlm_eval.decoding.draw import inverse_cdf
from dlm_eval.decoding.exits import EarlyExit, Halt, Halting
from dlm_eval.decoding.samples import best_program, repeat
from dlm_eval.decoding.step import Bools, Floats, Ints, TraceStep
from dlm_eval.decoding.strategy import OF_DRAWS, OF_MASKS, FillRequest
from dlm_eval.engine import ForwardRow, Program
from dlm_eval.engine.rows import Kept
from dlm_eval.models.denoiser import Denoiser, Process
from dlm_eval.options import option
from dlm_eval.rng import Noise

if TYPE_CHECKING:
    from dlm_eval.decoding.settings import DecodeSettings

from dlm_eval.decoding.uniform import drafted

CANVAS_STEPS = 48  # of a canvas (DiffusionGemma's max_denoising_steps)


@dataclass(frozen=True)
class CanvasReader:
    """KeepingOp of (drawn token, most probable token, its log-probability [nats], entropy [nats]).

    It keeps the self-conditioning [H]. The payload is a uniform number in [0, 1) for each position.
    """

    soft_embeddings: Callable[[Tensor], Tensor] = field(compare=False)  # one engine has one model
    temperature: float

    def __call__(
        self, logits: Tensor, payload: Tensor, before: Tensor | None, known: Tensor
    ) -> tuple[Tensor, ...]:
        logits = logits / self.temperature
        log_p = logits.log_softmax(-1)
        probability = log_p.exp()
        logprob, best = log_p.max(-1)
        entropy = -torch.xlogy(probability, probability).sum(-1, dtype=torch.float64)
        soft = self.soft_embeddings(probability).float()
        return inverse_cdf(logits, payload), best, logprob.double(), entropy, soft


@dataclass(frozen=True, kw_only=True)
class Renoise(Halting, name="renoise"):
    """tokens of low entropy are accepted, the others drawn again (DiffusionGemma; process 'canvas')

    Canvases of the model's own length are filled one after the other, from random tokens.
    """

    accept_bound: float = option(
        0.1,
        least=0,
        help="maximum sum of the entropies before an accepted token (nats)",
        speed=True,
    )
    t_start: float = option(0.8, above=0, help="temperature of the first step")
    t_end: float = option(0.4, least=0, help="temperature after the last step")
    processes: ClassVar[tuple[Process, ...]] = ("canvas",)
    revises: ClassVar[bool] = True

    @property
    def is_random(self) -> bool:
        return True

    @classmethod
    def unused_settings(cls, process: str) -> tuple[str, ...]:
        return (*OF_MASKS, *OF_DRAWS)

    @classmethod
    def default_steps(cls, process: str) -> int | None:
        return CANVAS_STEPS

    def most_forwards(
        self, model: Denoiser, canvas: Canvas, settings: DecodeSettings
    ) -> int | None:
        # `model` is a `CanvasDenoiser` too.
        positions = len(canvas) - canvas.open_positions[0]
        canvases: int = -(-positions // cast(Any, model).canvas_length)
        return settings.samples * canvases * (settings.steps or CANVAS_STEPS)

    def program(self, request: FillRequest) -> Program[Filling]:
        """Returns the program that fills the canvas, with the most probable of `samples` samples.

        A hole at the end is filled in canvases of the model's own length; the last one is cut. Text
        after a hole stays in place, as a part of a canvas. `exit` is 'eos' or 'stop' if visible
        text ended before the last canvas.
        """
        numbers = range(request.settings.samples)
        samples = [Sample(request, self, repeat(request.noise, i)).program() for i in numbers]
        return (yield from best_program(request.model, request.canvas, samples, "probability"))


class Sample:
    """One sample. The model is a `Denoiser` and a `models.denoiser.CanvasDenoiser`."""

    def __init__(self, request: FillRequest, options: Renoise, noise: Noise) -> None:
        model: Any = request.model
        canvas, settings = request.canvas, request.settings
        self.model, self.options, self.noise, self.trace = model, options, noise, request.trace
        self.positions = np.array(canvas.open_positions)
        self.early_exit: EarlyExit | None = None
        if settings.early_exit:
            self.early_exit = EarlyExit(model, self.positions, canvas.open[-1], settings.until)
        self.first = int(self.positions[0])
        whole = len(canvas) + -(len(canvas) - self.first) % model.canvas_length
        more = min(whole, model.max_length) - len(canvas) if canvas.open[-1] else 0
        self.open = np.array([*canvas.open, *[True] * more])
        self.tokens = np.array([*canvas.tokens, *[BLANK] * more], dtype=np.int64)
        self.drafted = np.array([*drafted(canvas), *[False] * more])
        self.logprob, self.changed = (
            np.full(len(self.tokens), -np.inf),
            np.zeros(len(self.tokens), dtype=np.int64),
        )
        self.steps = settings.steps or CANVAS_STEPS
        self.forwards = 0

    def program(self) -> Program[Filling]:
        """Returns the program that fills all canvases, from left to right."""
        reason = None
        for number, begin in enumerate(
            range(self.first, len(self.tokens), self.model.canvas_length)
        ):
            end = min(begin + self.model.canvas_length, len(self.tokens))
            if self.open[begin:end].any():
                yield from self._denoise(np.arange(begin, end), number)
                self.open[begin:end] = False
            still = self.open[: int(self.positions[-1]) + 1]
            if self.early_exit is not None and still.any():
                reason = self.early_exit.reason(self.tokens, still)
            if reason is not None:
                break
        tokens = np.where(self.open, BLANK, self.tokens)[self.positions]
        return Filling(
            tokens=tuple(map(int, tokens)),
            forwards=self.forwards,
            steps=self.forwards,
            confidence=tuple(
                map(float, np.where(self.open, np.nan, np.exp(self.logprob))[self.positions])
            ),
            step=tuple(map(int, np.where(self.open, -1, self.changed)[self.positions])),
            exit=reason or "full",
        )

    def _denoise(self, at: Ints, number: int) -> Program[None]:
        """Fills one canvas, the positions `at`."""
        given, truth, length = ~self.open[at], self.tokens[at], int(at[-1]) + 1
        halt, kept = Halt(self.options), Kept()
        begun = given | self.drafted[at]
        current = np.where(begun, truth, self._random("start", number, at))
        found = np.full(len(at), BLANK)
        for step in range(self.steps):
            clock = number * self.steps + step
            drawn, best, logprob, entropy = (yield [self._row(at, current, kept, step, clock)])[0]
            self.forwards += 1
            best = np.where(given, truth, best)
            self.changed[at[best != found]] = self.forwards - 1
            found, self.logprob[at] = best, logprob
            if self.trace is not None:
                self.trace(self._traced(at[~given], best[~given], length))
            if halt.reason(step + 1, best, float(np.mean(entropy)), None) is not None:
                break
            accept = accepted(entropy, self.options.accept_bound)
            current = np.where(
                given, truth, np.where(accept, drawn, self._random("renoise", clock, at))
            )
        self.tokens[at] = found

    def _row(self, at: Ints, current: Ints, kept: Kept, step: int, clock: int) -> ForwardRow:
        length, options = int(at[-1]) + 1, self.options
        tokens = self.tokens[:length].copy()
        tokens[at] = current
        begun = np.zeros((length, 1), dtype=np.float32)
        begun[at] = 1
        left = (self.steps - step) / self.steps
        op = CanvasReader(
            self.model.soft_embeddings, options.t_end + (options.t_start - options.t_end) * left
        )
        draws = self.noise.uniforms("draw", clock, length)[at]
        return ForwardRow(
            tokens, at, op, draws, inputs=begun, kept=kept, ids=at, fed=self.model.state_size
        )

    def _random(self, stream: str, step: int, at: Ints) -> Ints:
        drawn: Ints = (
            self.noise.uniforms(stream, step, int(at[-1]) + 1)[at] * self.model.vocab_size
        ).astype(np.int64)
        return drawn

    def _traced(self, places: Ints, tokens: Ints, length: int) -> TraceStep:
        seen, count = self.tokens.copy(), int(self.positions[-1]) + 1
        seen[places] = tokens
        seen, open_ = (
            np.where(seen == BLANK, self.model.pad_id, seen)[:count],
            self.open.copy()[:count],
        )
        shown = places[places < count]
        open_[shown] = False
        sure = tuple(map(float, np.exp(self.logprob[shown])))
        return TraceStep(
            self.forwards - 1,
            tuple(map(int, seen)),
            tuple(map(bool, open_)),
            tuple(map(int, shown)),
            sure,
        )


def accepted(entropy: Floats, bound: float) -> Bools:
    """Returns which positions are accepted, in order of entropy.

    Args:
        entropy: [n] of each position (nats).
        bound: maximum sum of the smaller entropies (nats).
    """
    order = np.argsort(entropy, kind="stable")
    before = np.cumsum(entropy[order]) - entropy[order]
    kept = np.zeros(len(entropy), dtype=bool)
    kept[order[before <= bound]] = True
    return kept
