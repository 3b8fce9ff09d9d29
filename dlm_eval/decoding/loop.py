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

from collections.abc import Generator, Iterator
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from dlm_eval.canvas import BLANK, Canvas, Filling
from dlm_eval.decoding.cache_policy import make_cache_policy, visible_end
from dlm_eval.decoding.canvases import canvas_walk
from dlm_eval.decoding.checkpoints import Offer, State, no_offer, why_not
from dlm_eval.decoding.checks import check_process
from dlm_eval.decoding.draw import Draw
from dlm_eval.decoding.exits import Front
from dlm_eval.decoding.gaussian import gaussian_walk
from dlm_eval.decoding.lengths import beam_walk
from dlm_eval.decoding.rates import Ask, ask
from dlm_eval.decoding.registry import strategy
from dlm_eval.decoding.samples import best_walk, repeat
from dlm_eval.decoding.schedules import schedule
from dlm_eval.decoding.settings import DecodeSettings
from dlm_eval.decoding.steps import Trace, TraceStep
from dlm_eval.decoding.strategies import Look, Strategy
from dlm_eval.decoding.uniform import uniform_walk
from dlm_eval.engine import Reading, Row, Walk
from dlm_eval.errors import SampleError
from dlm_eval.models.denoiser import Denoiser, check_ids, embedding_rows, logit_shift
from dlm_eval.noise import Noise
from dlm_eval.printable import counted

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]


NOTHING: Reading = (np.empty(0, dtype=np.int64), np.empty(0), np.empty(0))


@dataclass(frozen=True)
class Window:
    """Open positions that are filled together, and in how many steps."""

    positions: Ints
    steps: int


def fill_walk(
    model: Denoiser,
    canvas: Canvas,
    settings: DecodeSettings,
    noise: Noise,
    trace: Trace | None = None,
    begun: State | None = None,
    offer: Offer = no_offer,
) -> Walk[Filling]:
    """Returns the walk that writes the open positions of `canvas`.

    Args:
        model: the denoiser.
        canvas: what to fill.
        settings: how.
        noise: random streams of the request.
        trace: sees every step.
        begun: the state that an interrupted walk with the same arguments has reached; this one goes on from there.
        offer: is offered the state between steps, if there is one (`checkpoints.why_not`).

    Raises (when run):
        SampleError: the canvas is longer than the model allows, it has an id that the model lacks, or position 0 is open and the model cannot
            predict it.
    """
    positions = np.array(canvas.open_positions, dtype=np.int64)
    if not len(positions):
        return Filling((), 0, 0)
    refuse(model, canvas, settings)
    if settings.length_beam:
        return (
            yield from beam_walk(model, canvas, settings, lambda one, its: fill_walk(model, one, its, noise, trace))
        )
    if model.process == "uniform":
        return (yield from uniform_walk(model, canvas, settings, noise, trace))
    if model.process == "canvas":
        return (yield from canvas_walk(model, canvas, settings, noise, trace))
    if model.process == "gaussian":
        return (yield from gaussian_walk(model, canvas, settings, noise, trace))
    if settings.samples > 1 and settings.draws(model.process):  # else all samples would be equal
        one = replace(settings, samples=1)
        walks = [fill_walk(model, canvas, one, repeat(noise, i), trace) for i in range(settings.samples)]
        return (yield from best_walk(model, canvas, walks, settings.rerank))
    page = Page(model, canvas, settings, noise, trace, offer)
    blocks = list(windows(np.nonzero(page.open)[0], settings, model.block_length))
    number, step = page.restore(begun) if begun is not None else (0, 0)
    for block in range(number, len(blocks)):
        yield from page.fill(blocks[block], block, step)
        if page.exit != "full":
            break
        step = 0
    return page.filling(positions)


def fits(model: Denoiser, canvas: Canvas, settings: DecodeSettings, state: State) -> bool:
    """Returns whether a state can be one of this canvas; one from a file that another program wrote need not be."""
    positions = np.array(whole_blocks(canvas, model.block_length).open_positions, dtype=np.int64)
    if len(state.tokens) != len(positions) or not len(positions) or why_not(model.process, settings) is not None:
        return False
    blocks = sum(1 for _ in windows(positions, settings, model.block_length))
    rows = 4 * (state.clock + 1)  # more than any step runs
    limits = (
        (state.block, blocks - 1),
        (state.step, state.clock),
        (state.forwards, rows),
        (state.post_steps, state.clock + 1),
        (state.written_steps, state.clock),
        (state.last_change + 1, state.clock),
    )
    ids = max(embedding_rows(model), model.vocab_size)
    return (
        all(0 <= value <= most for value, most in limits)
        and all(0 <= token < ids or token == model.mask_id for token in state.tokens)
        and all(-1 <= step < max(1, state.clock) for step in state.written)
        and all(value <= 1e-3 for value in state.logprob)
    )


def refuse(model: Denoiser, canvas: Canvas, settings: DecodeSettings) -> None:
    """Raises SampleError where the model cannot fill the canvas so, UserError where a setting means nothing to it."""
    if len(canvas) > model.max_length and not settings.length_beam:
        raise SampleError(f"{counted(len(canvas), 'position')}, but {model.name} has {model.max_length}")
    if model.needs_bos and canvas.open[0]:
        raise SampleError(f"position 0 is open, but {model.name} needs its begin-of-text token there")
    if (fault := check_ids(model, canvas, scored=False)) is not None:
        raise fault
    if model.process not in strategy(settings.strategy).processes:
        raise SampleError(f"strategy '{settings.strategy}' is not for models of process '{model.process}'")
    check_process(settings, model.process)


def whole_blocks(canvas: Canvas, block: int | None) -> Canvas:
    """Returns the canvas with its last block filled up by open positions, as block-causal models know blocks."""
    missing = -len(canvas) % block if block is not None and canvas.open[-1] else 0
    return Canvas(canvas.tokens + (BLANK,) * missing, canvas.open + (True,) * missing, canvas.key)


def windows(positions: Ints, settings: DecodeSettings, block: int | None) -> Iterator[Window]:
    """Yields the blocks in order: runs of `block_length` open positions; of a block-causal model its own blocks, or even parts of them."""
    if block is not None:
        size = settings.block_length or block
        parts = np.split(positions, np.nonzero(np.diff(positions // size))[0] + 1)
    else:
        size = settings.block_length or len(positions)
        parts = np.split(positions, range(size, len(positions), size))
    for part in parts:
        shared = settings.steps // len(parts) if settings.steps is not None else None
        yield Window(part, max(1, settings.steps_per_block or shared or len(part)))


class Page:
    """A canvas being written: what stands where, and the steps that put it there."""

    def __init__(
        self,
        model: Denoiser,
        canvas: Canvas,
        settings: DecodeSettings,
        noise: Noise,
        trace: Trace | None,
        offer: Offer = no_offer,
    ) -> None:
        self.model, self.settings, self.noise, self.trace, self.offer = model, settings, noise, trace, offer
        self.method: Strategy = strategy(settings.strategy)
        self.front = Front(model, canvas, settings.until) if settings.early_exit else None
        canvas = whole_blocks(canvas, model.block_length)
        self.given = ~np.array(canvas.open, dtype=bool)
        self.open: Bools = ~self.given
        self.tokens: Ints = np.where(self.open, model.mask_id, canvas.tokens)
        self.logprob: Floats = np.full(len(canvas), -np.inf)  # of each token when it was written
        self.step: Ints = np.full(len(canvas), -1)
        self.reader = _reader(model, settings, self.method)
        self.recollection = make_cache_policy(model, settings.cache, settings.guidance_factor != 1)
        self.block: Ints = np.nonzero(self.open)[0]  # positions of the window that is being filled
        self.asked = Ask(self.reader)
        self.known: tuple[Ask, Ints, Reading] | None = None
        self.clock = self.forwards = self.written_steps = self.post_steps = 0
        self.last_change = -1
        self.exit = "full"

    def fill(self, window: Window, number: int, step: int) -> Generator[list[Row], list[Reading], None]:
        """Writes the open positions of `window`, which is the canvas' block `number`, from `step` on, or until visible text is final."""
        name = self.settings.schedule or self.method.schedule
        quota_of = schedule(name, self.settings.eps, self.settings.batch_mean_quota) if name else None
        block = self.model.block_length
        n = (self.settings.block_length or block) if block else len(window.positions)
        self.block = window.positions
        self._offer(number, step)
        while self._goes_on(window, step):
            left = int(self.open[window.positions].sum())
            quota = quota_of(n, left, step, window.steps) if quota_of else 0
            if quota_of and step >= window.steps - 1:
                quota = left
            if step == 0 and (self.recollection.first_alone or self._foretold(window)):
                yield from self._first(window.positions[:1])
            else:
                yield from self._one_step(window, step, quota)
            step, self.clock = step + 1, self.clock + 1
            self._offer(number, step)
        self._look_for_exit()  # what was written in the block is final now, whatever the strategy

    def _offer(self, number: int, step: int) -> None:
        """Offers the state between two steps, if nothing but what `State` holds has a part in what follows: no reading that is known already, no
        memory of the block's surroundings, nothing that the last step asked."""
        begins = step == 0
        alone = begins or not self.recollection.of_block
        if self.exit == "full" and self.known is None and alone and not (begins and self.method.removes_noise):
            self.offer(lambda: self.state(number, step))

    def state(self, number: int, step: int) -> State:
        """Returns the state before step `step` of the block `number`."""
        at = np.nonzero(~self.given)[0]
        counters = (self.clock, self.forwards, self.written_steps, self.post_steps, self.last_change)
        tokens, written = (tuple(map(int, values[at])) for values in (self.tokens, self.step))
        return State(number, step, *counters, tokens, tuple(map(float, self.logprob[at])), written)

    def restore(self, state: State) -> tuple[int, int]:
        """Makes the page what it was; returns the block and the step to go on with."""
        at = np.nonzero(~self.given)[0]
        self.tokens[at], self.logprob[at], self.step[at] = state.tokens, state.logprob, state.written
        self.open[at] = self.step[at] < 0
        self.clock, self.forwards, self.written_steps = state.clock, state.forwards, state.written_steps
        self.post_steps, self.last_change = state.post_steps, state.last_change
        return state.block, state.step

    def _foretold(self, window: Window) -> bool:
        """Returns whether the block before predicts the first position: a shifted block-causal model reads it there, whatever else is written (Fast-dLLM v2)."""
        block = self.model.block_length
        return block is not None and logit_shift(self.model) > 0 and int(window.positions[0]) % block == 0

    def _goes_on(self, window: Window, step: int) -> bool:
        if self.exit != "full":
            return False
        if self.method.ends == "steps":
            return step < window.steps or (self.method.removes_noise and bool(self.open[window.positions].any()))
        if self.open[window.positions].any():
            self.post_steps = 0
            return True
        # A block that is full goes on only while tokens are still being replaced.
        changed = self.post_steps == 0 or self.last_change == self.clock - 1
        self.post_steps += 1
        return self.method.ends == "settled" and changed and self.post_steps <= self.settings.max_post_steps

    def _one_step(self, window: Window, step: int, quota: int) -> Generator[list[Row], list[Reading], None]:
        method, settings, at = self.method, self.settings, window.positions
        competing = settings.rescore or method.ends != "full"
        if not competing:
            at = at[self.open[at]]
        if method.slides:
            at = at[at < at[0] + settings.window]
        look = Look(
            *(step, window.steps, self.clock, quota, at, self.open[at], self.noise),
            *(self.logprob[at], self.tokens[at], np.empty(0, dtype=np.int64), np.empty(0)),
        )
        if method.removes_noise:
            self.asked = ask(self.model, self.reader, look, settings)
        if (chance := self.asked.log_chance) is not None:
            look = replace(look, score=np.full(len(at), chance))
        if method.measure is None or chance is not None:
            written = method.choose(look, settings)
            token, logprob, _ = (yield from self._read(at[written])) if written.any() else NOTHING
        elif quota <= 0 and method.schedule and not (competing and (look.kept > 0 or look.open.any())):
            return
        else:
            token, logprob, score = yield from self._read(at)
            look = replace(look, token=token, score=score)
            written = method.choose(look, settings)
            token, logprob = token[written], logprob[written]
        erased = at[method.erase(look, settings)] if method.erase else at[:0]
        if written.any() or len(erased):
            self._write(at[written], token, logprob, erased)

    def _first(self, at: Ints) -> Generator[list[Row], list[Reading], None]:
        """Writes the candidate at `at`."""
        token, logprob, _ = yield from self._read(at)
        self._write(at, token, logprob, at[:0])

    def _read(self, at: Ints) -> Generator[list[Row], list[Reading], Reading]:
        """Returns the candidates at `at`, from the model unless the same reading is known already."""
        if self.known is not None and self.known[0] == self.asked and np.array_equal(self.known[1], at):
            return self.known[2]
        random = self.settings.temperature > 0
        payload = self.noise.uniforms("draw", self.clock, int(at[-1]) + 1)[at] if random else np.zeros(len(at))
        row = self._row(at, payload)
        reading = (yield [row])[0]
        self.forwards += row.passes
        self.known = None if random else (self.asked, at, reading)
        return reading

    def _row(self, at: Ints, payload: Floats) -> Row:
        """Returns the row that asks for `at`. What the model cannot see from there is left out."""
        end = visible_end(self.model, self.open, int(at[-1]))
        factor = self.settings.guidance_factor
        unguided = None
        if factor != 1:
            hidden = self.given.copy()
            hidden[0] &= not self.model.needs_bos  # there is no prediction at all without it
            unguided = np.where(hidden, self.model.mask_id, self.tokens)[:end]
        asked = self.asked
        tokens = self.tokens[:end].copy()
        remembered = self.recollection.part(tokens, self.open[:end], at, self.block) if asked.head == "logits" else {}
        return Row(tokens, at, asked.reader, payload, unguided, factor, asked.head, time=asked.time, **remembered)

    def _write(self, at: Ints, token: Ints, logprob: Floats, erased: Ints) -> None:
        self.tokens[erased], self.logprob[erased], self.step[erased] = self.model.mask_id, -np.inf, -1
        self.tokens[at], self.logprob[at], self.step[at] = token, logprob, self.clock
        self.open[erased], self.open[at] = True, False
        self.known, self.last_change = None, self.clock
        self.written_steps += bool(len(at))
        if self.trace is not None:
            tokens, open_ = tuple(map(int, self.tokens)), tuple(map(bool, self.open))
            confidence = tuple(map(float, np.exp(logprob)))
            self.trace(TraceStep(self.clock, tokens, open_, tuple(map(int, at)), confidence, tuple(map(int, erased))))
        if self.method.ends == "full":
            self._look_for_exit()

    def _look_for_exit(self) -> None:
        if self.front is not None and self.exit == "full" and self.open.any():
            self.exit = self.front.reason(self.tokens, self.open) or "full"

    def filling(self, positions: Ints) -> Filling:
        """Returns what was written; `BLANK` where positions were left open."""
        tokens = np.where(self.open, BLANK, self.tokens)[positions]
        return Filling(
            tokens=tuple(map(int, tokens)),
            forwards=self.forwards,
            steps=self.written_steps,
            confidence=tuple(map(float, np.where(self.open, np.nan, np.exp(self.logprob))[positions])),
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
        nucleus=settings.nucleus,
        logits_temp=settings.logits_temp,
        of_drawn=settings.confidence_of == "drawn",
        banned=banned,
        doubted=model.eos_ids if settings.confidence_eos_eot_inf else (),
    )
