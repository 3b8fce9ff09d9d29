"""The decoding loop: read candidates, ask the strategy where to write, write, stop where nothing visible can change any
more.

One walk fills one canvas and yields one row per step; the engine mixes the rows of many walks (`dlm_eval.engine`).

Savings that change no token: a row is read only where its candidates count; a step that writes nothing runs no row; a
    row whose reading is
known already (nothing written since, no randomness) is not run again; decoding ends when visible text is final
(`exits`).

Shape letters: L = positions of the canvas, n = open ones, W = positions of a look.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from dlm_eval.canvas import BLANK, Canvas, Filling
from dlm_eval.decoding.draw import Draw
from dlm_eval.decoding.exits import Front
from dlm_eval.decoding.registry import strategy
from dlm_eval.decoding.schedules import schedule
from dlm_eval.decoding.settings import DecodeSettings
from dlm_eval.decoding.strategies import Look, Strategy
from dlm_eval.engine import Reading, Row, Walk
from dlm_eval.errors import SampleError
from dlm_eval.models.denoiser import Denoiser
from dlm_eval.noise import Noise

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]


@dataclass(frozen=True)
class TraceStep:
    """One step as the trace hook sees it, after writing.

    Attributes:
        step: number of the step, from 0 (steps that wrote nothing are not traced).
        tokens: [L] ids, the mask token where open.
        open: [L] bool.
        written: [K] positions written in this step.
        confidence: [K] probability of each token when it was written.
    """

    step: int
    tokens: tuple[int, ...]
    open: tuple[bool, ...]
    written: tuple[int, ...]
    confidence: tuple[float, ...]


Trace = Callable[[TraceStep], None]


@dataclass(frozen=True)
class Window:
    """Open positions that are filled together, and in how many steps."""

    positions: Ints
    steps: int


def fill_walk(
    model: Denoiser, canvas: Canvas, settings: DecodeSettings, noise: Noise, trace: Trace | None = None
) -> Walk[Filling]:
    """Returns the walk that writes the open positions of `canvas`.

    Raises (when run):
        SampleError: the canvas is longer than the model allows, or position 0 is open and the model cannot predict it.
    """
    positions = np.array(canvas.open_positions, dtype=np.int64)
    if not len(positions):
        return Filling((), 0, 0)
    refuse(model, canvas)
    page = Page(model, canvas, settings, noise, trace)
    for window in windows(np.nonzero(page.open)[0], settings, model.block_length):
        yield from page.fill(window)
        if page.exit != "full":
            break
    return page.filling(positions)


def refuse(model: Denoiser, canvas: Canvas) -> None:
    """Raises SampleError where the model cannot fill the canvas."""
    if len(canvas) > model.max_length:
        raise SampleError(f"{len(canvas)} positions, but {model.name} has {model.max_length}")
    if model.needs_bos and canvas.open[0]:
        raise SampleError(f"position 0 is open, but {model.name} needs its begin-of-text token there")


def whole_blocks(canvas: Canvas, block: int | None) -> Canvas:
    """Returns the canvas with its last block filled up by open positions, as block-causal models are trained to see it."""
    missing = -len(canvas) % block if block is not None and canvas.open[-1] else 0
    return Canvas(canvas.tokens + (BLANK,) * missing, canvas.open + (True,) * missing, canvas.key)


def windows(positions: Ints, settings: DecodeSettings, block: int | None) -> Iterator[Window]:
    """Yields the blocks in order: runs of `block_length` open positions, or the absolute blocks of a block-causal
    model."""
    if block is not None:
        parts = np.split(positions, np.nonzero(np.diff(positions // block))[0] + 1)
    else:
        parts = np.split(
            positions,
            range(settings.block_length or len(positions), len(positions), settings.block_length or len(positions)),
        )
    for part in parts:
        shared = settings.steps // len(parts) if settings.steps is not None else None
        yield Window(part, max(1, settings.steps_per_block or shared or len(part)))


class Page:
    """A canvas being written: what stands where, and the steps that put it there."""

    def __init__(
        self, model: Denoiser, canvas: Canvas, settings: DecodeSettings, noise: Noise, trace: Trace | None
    ) -> None:
        self.model, self.settings, self.noise, self.trace = model, settings, noise, trace
        self.method: Strategy = strategy(settings.strategy)
        self.front = Front(model, canvas, settings.until) if settings.early_exit else None
        canvas = whole_blocks(canvas, model.block_length)
        self.given = ~np.array(canvas.open, dtype=bool)
        self.open: Bools = ~self.given
        self.tokens: Ints = np.where(self.open, model.mask_id, np.array(canvas.tokens, dtype=np.int64))
        self.confidence: Floats = np.full(len(canvas), np.nan)
        self.step: Ints = np.full(len(canvas), -1)
        self.reader = _reader(model, settings, self.method)
        self.known: tuple[Ints, Reading] | None = None
        self.clock = self.forwards = self.written_steps = 0
        self.exit = "full"

    def fill(self, window: Window) -> Generator[list[Row], list[Reading], None]:
        """Writes the open positions of `window`, step by step, or until visible text is final."""
        name = self.settings.schedule or self.method.schedule
        quota_of = schedule(name, self.settings.eps) if name else None
        n = self.model.block_length or len(window.positions)
        step = 0
        while (left := int(self.open[window.positions].sum())) and self.exit == "full":
            quota = quota_of(n, left, step, window.steps) if quota_of else 0
            if quota_of and step >= window.steps - 1:
                quota = left
            yield from self._one_step(window, step, quota)
            step, self.clock = step + 1, self.clock + 1

    def _one_step(self, window: Window, step: int, quota: int) -> Generator[list[Row], list[Reading], None]:
        at = window.positions if self.settings.rescore else window.positions[self.open[window.positions]]
        look = Look(step, window.steps, self.clock, quota, at, self.open[at], np.empty(0), self.noise)
        if self.method.measure is None:
            at = at[self.method.choose(look, self.settings)]
            if len(at):
                token, logprob, _ = yield from self._read(at)
                self._write(at, token, np.exp(logprob))
            return
        if quota <= 0 and self.method.schedule and not self.settings.rescore:
            return
        token, logprob, score = yield from self._read(at)
        chosen = self.method.choose(replace(look, score=score), self.settings)
        if chosen.any():
            self._write(at[chosen], token[chosen], np.exp(logprob[chosen]))

    def _read(self, at: Ints) -> Generator[list[Row], list[Reading], Reading]:
        """Returns the candidates at `at`, from the model unless the same reading is known already."""
        if self.known is not None and np.array_equal(self.known[0], at):
            return self.known[1]
        random = self.settings.temperature > 0
        payload = self.noise.uniforms("draw", self.clock, int(at[-1]) + 1)[at] if random else np.zeros(len(at))
        row = self._row(at, payload)
        reading = (yield [row])[0]
        self.forwards += row.passes
        self.known = None if random else (at, reading)
        return reading

    def _row(self, at: Ints, payload: Floats) -> Row:
        """Returns the row that asks for `at`. What a block-causal model cannot see from there is left out."""
        block = self.model.block_length
        end = len(self.tokens) if block is None else min(len(self.tokens), (int(at[-1]) // block + 1) * block)
        factor = self.settings.guidance_factor
        unguided = None
        if factor != 1:
            hidden = self.given.copy()
            hidden[0] &= not self.model.needs_bos  # there is no prediction at all without it
            unguided = np.where(hidden, self.model.mask_id, self.tokens)[:end]
        return Row(self.tokens[:end].copy(), at, self.reader, payload, unguided, factor)

    def _write(self, at: Ints, token: Ints, confidence: Floats) -> None:
        self.tokens[at], self.confidence[at], self.step[at], self.open[at] = token, confidence, self.clock, False
        self.known = None
        self.written_steps += 1
        if self.trace is not None:
            self.trace(
                TraceStep(
                    self.clock,
                    tuple(map(int, self.tokens)),
                    tuple(map(bool, self.open)),
                    tuple(map(int, at)),
                    tuple(map(float, confidence)),
                )
            )
        if self.front is not None and self.open.any():
            self.exit = self.front.reason(self.tokens, self.open) or "full"

    def filling(self, positions: Ints) -> Filling:
        """Returns what was written; `BLANK` where positions were left open."""
        tokens = np.where(self.open, BLANK, self.tokens)[positions]
        return Filling(
            tokens=tuple(map(int, tokens)),
            forwards=self.forwards,
            steps=self.written_steps,
            confidence=tuple(map(float, self.confidence[positions])),
            step=tuple(map(int, self.step[positions])),
            exit=self.exit,
        )


def _reader(model: Denoiser, settings: DecodeSettings, method: Strategy) -> Draw:
    banned = (() if settings.allow_mask else (model.mask_id,)) + (model.eos_ids[:1] if settings.logits_eos_inf else ())
    return Draw(
        measure=method.measure or "probability",
        temperature=settings.temperature,
        top_p=settings.top_p,
        top_k=settings.top_k,
        logits_temp=settings.logits_temp,
        of_drawn=settings.confidence_of == "drawn",
        banned=banned,
        doubted=model.eos_ids if settings.confidence_eos_eot_inf else (),
    )
