"""Decoding from random tokens: models of the processes 'uniform' and 'canvas'.

'uniform' (SUNDAE, Savinov et al. 2022; AR2Diff, Han et al. 2024, arXiv 2401.17181): all tokens are
rewritten at every step; 10 steps at temperature 0.2, the best of 8 samples by the model's own
score.

'uniform', told the noise level (Duo, Sahoo et al. 2025, arXiv 2506.10892; psi-samplers: arXiv
2602.21185): steps of the reverse process from noise to text (`models.uniform_state`).

'canvas' (DiffusionGemma): uniform noise with self-conditioning. The text is filled in canvases of a
fixed length, one after the other. Each starts with random tokens. A step draws a token for every
position at a temperature that falls linearly. Tokens are accepted in order of entropy, as long as
the entropies of those before sum to at most a bound (EB-sampler, Ben-Hamu et al. 2025, arXiv
2505.24857). All other positions become random tokens again. The distributions of a step are an
input of the next one (self-conditioning). A canvas ends with the most probable tokens of its last
step.

Shape letters: L = positions of the sequence, n = open ones or positions of one canvas, N = wanted
positions of a batch, V = vocabulary, H = state size.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, ClassVar, Literal, cast

import numpy as np
import torch
from torch import Tensor

from dlm_eval.canvas import BLANK, Canvas, Filling
from dlm_eval.decoding.draw import CHUNK, Draw, inverse_cdf, restrict
from dlm_eval.decoding.exits import EarlyExit, Halt, Halting
from dlm_eval.decoding.samples import best_program, mean_logprob, repeat
from dlm_eval.decoding.step import Bools, Floats, Ints, TraceStep
from dlm_eval.decoding.strategy import OF_DRAWS, OF_MASKS, FillRequest, Strategy
from dlm_eval.decoding.unmasking import candidate_op
from dlm_eval.engine import ForwardRow, Program
from dlm_eval.engine.rows import Kept, together
from dlm_eval.models.denoiser import Denoiser, LogitsOp, NoiseLevels, Process, offers
from dlm_eval.models.uniform_state import log_noised, log_reverse
from dlm_eval.options import option
from dlm_eval.rng import Noise

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


# -- canvases of random tokens (process 'canvas') --------------------------------------------------


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
        0.1, least=0, help="maximum sum of the entropies before an accepted token (nats)"
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
