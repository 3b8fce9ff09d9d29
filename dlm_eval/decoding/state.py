"""A canvas that is being filled: its blocks, its tokens and the rows of its steps.

A block is a run of open positions that are filled together (semi-autoregressive decoding). A
strategy gets a `StepState` and returns an `Edit` (`step.py`), which `DecodeState` applies.
Positions have identities (`DecodeState.ids`), so that a step may insert and delete some. Random
numbers, the trace and checkpoints refer to identities. Arrays are ordered from left to right.

Shape letters: L = positions of the canvas now, W = positions that a step considers.
"""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import replace
from math import isnan
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dlm_eval.canvas import BLANK, Canvas, Filling
from dlm_eval.decoding.blocks import Block, block_grid, split_blocks, whole_blocks
from dlm_eval.decoding.caches import visible_end
from dlm_eval.decoding.checkpoints import State
from dlm_eval.decoding.exits import EarlyExit
from dlm_eval.decoding.settings import DecodeSettings
from dlm_eval.decoding.step import (
    NONE,
    Bools,
    Edit,
    Floats,
    Ints,
    Query,
    StepState,
    Trace,
    TraceStep,
)
from dlm_eval.decoding.step_texts import StepTexts
from dlm_eval.engine import ForwardRow, Layout, LogProbs, Output
from dlm_eval.engine.rows import Kept
from dlm_eval.errors import SampleError
from dlm_eval.models.denoiser import (
    Denoiser,
    exact_cache_block,
    logit_shift,
    reads_context,
    tokens_ahead,
)
from dlm_eval.printable import counted
from dlm_eval.rng import Noise


class DecodeState:
    """A canvas that is being filled.

    Attributes:
        ids: [L] identity of each position.
        tokens: [L] token ids, the mask token where open.
        open: [L] whether a token is still to be written.
        given: [L] whether the canvas came with the token.
        in_hole: [L] whether the position is a part of the answer; positions that complete a last
            block are not.
        grid: where the blocks of a block-causal model begin; None of other models.
        block_of: [L] number of the block that a position belongs to, -1 if it is given.
        logprob: [L] log-probability of each token when it was written (nats), -inf if it is not.
        step: [L] global step at which each token was written, -1 if it is not.
        block: number of the block that is being filled.
        global_step, forwards, written_steps, post_steps, last_change: counters
            (`checkpoints.State`).
        kept: numbers that the strategy keeps on the device between steps.
        memory: what the strategy keeps on the host between steps (`Unmasking.memory`).
        step_texts: the text of each step, if it is kept.
        exit: why decoding ended, 'full' until then.
    """

    def __init__(
        self,
        model: Denoiser,
        canvas: Canvas,
        settings: DecodeSettings,
        noise: Noise,
        trace: Trace | None = None,
    ) -> None:
        hole = canvas.open_positions
        ends_with_hole = canvas.open[-1]
        self.grid = block_grid(model, canvas, settings)
        canvas = whole_blocks(canvas, self.grid)
        self.model, self.settings, self.noise, self.trace = model, settings, noise, trace
        self.ids: Ints = np.arange(len(canvas))
        self.open: Bools = np.array(canvas.open, dtype=bool)
        self.given = ~self.open
        self.tokens: Ints = np.where(self.open, model.mask_id, canvas.tokens)
        # positions that complete the last block; a strategy may move tokens there and back
        self._beyond = len(canvas) - 1 - hole[-1] if ends_with_hole else 0
        self.in_hole = self._answer()
        self.block_of: Ints = np.full(len(canvas), -1)
        self.blocks: list[Block] = []
        for positions, block in split_blocks(np.nonzero(self.open)[0], settings, self.grid):
            self.block_of[positions] = block.number
            self.blocks.append(block)
        self.logprob: Floats = np.full(len(canvas), -np.inf)
        self.step: Ints = np.full(len(canvas), -1)
        self.asked_length = self.next_id = len(canvas)
        self.resized = False
        self.block = 0
        self._in_block: tuple[int, Ints, frozenset[int]] | None = None
        self._causal = exact_cache_block(model) == 1
        self._in_order = tokens_ahead(model) is not None
        self._context: int | None = None
        if reads_context(model):  # whole blocks of the prompt: a block that is begun is filled
            self._context = hole[0] if self.grid is None else self.grid.floor(hole[0])
        self.early_exit: EarlyExit | None = None
        if settings.early_exit and not canvas.draft:  # a draft's tokens are written, but not final
            self.early_exit = EarlyExit(model, np.array(hole), ends_with_hole, settings.until)
        guided = settings.guidance_factor != 1
        self.cache = settings.cache.policy(model, guided, settings.strategy.reads, self.grid)
        self.kept = Kept()
        self.memory: Any = None
        self.known: tuple[Query, Ints, Output] | None = None
        self.step_texts = StepTexts(len(hole)) if settings.step_texts else None
        self.global_step = self.forwards = self.written_steps = self.post_steps = 0
        self.last_change = -1
        self.exit = "full"

    # -- the view of a step ------------------------------------------------------------------------

    @property
    def block_positions(self) -> Ints:
        """Positions of the block that is being filled; the array is read-only."""
        return self._block_positions()[0]

    def _block_positions(self) -> tuple[Ints, frozenset[int]]:
        """Returns the positions of the block, found once per block and length of the canvas."""
        if self._in_block is None or self._in_block[0] != self.block:
            at = np.nonzero(self.block_of == self.block)[0]
            at.flags.writeable = False
            self._in_block = self.block, at, frozenset(at.tolist())
        return self._in_block[1:]

    def view(
        self, at: Ints, block: Block, step: int, quota: int, schedule: str | None
    ) -> StepState:
        """Returns what a strategy sees of the positions `at` before the model runs."""
        return StepState(
            step=step,
            steps=block.steps,
            global_step=self.global_step,
            quota=quota,
            schedule=schedule,
            eps=self.settings.eps,
            position=at,
            ids=self.ids[at],
            open=self.open[at],
            noise=self.noise,
            current=self.tokens[at],
            old_logprob=self.logprob[at],
        )

    def first_position_alone(self, at: Ints) -> bool:
        """Returns whether the first step of the block `at` reads only its first position.

        A shifted model reads that position one before the block. Later rows do not run it there
        (Fast-dLLM's caches), or it depends only on the block before (block-causal models, Fast-dLLM
        v2).
        """
        first, shifted = int(at[0]), logit_shift(self.model) > 0
        told = self.grid is not None and shifted and self.grid.floor(first) == first
        return self.cache.first_alone or told

    def computed_next(self, at: Ints) -> Ints:
        """Returns those of the open positions `at` that the next row computes anyway (`cache`)."""
        return self.cache.candidates(self.tokens, self.open, at)

    # -- rows --------------------------------------------------------------------------------------

    def read(self, at: Ints, query: Query) -> Generator[list[ForwardRow], list[Output], Output]:
        """Returns the outputs of `query` at `at`.

        No row is run if the last row was the same, the canvas has not changed since, and no random
        numbers are used.
        """
        if self.known is not None and self.known[0] == query and np.array_equal(self.known[1], at):
            return self.known[2]
        asked = self.cache.reads(self.open, at)
        if self.step_texts is not None:  # the candidates of later blocks too
            asked = np.union1d(asked, np.nonzero(self.open)[0])
        found = (yield from self.run([self.row(asked, query)]))[0]
        self.cache.learn(asked, found)
        if self.step_texts is not None:
            inside = self.open[asked]
            places = np.searchsorted(np.nonzero(self.in_hole)[0], asked[inside])
            self.step_texts.read(places, found[0][inside])
        if len(asked) > len(at):
            found = tuple(values[np.isin(asked, at)] for values in found)
        random = self.settings.temperature > 0
        changing = random or query.keeps or self.cache.ages
        self.known = None if changing else (query, at, found)
        return found

    def run(
        self, rows: list[ForwardRow]
    ) -> Generator[list[ForwardRow], list[Output], list[Output]]:
        """Returns the outputs of the rows of one step, and counts the rows."""
        found = yield rows
        self.forwards += sum(row.passes for row in rows)
        return found

    def row(
        self,
        at: Ints,
        query: Query,
        tokens: Ints | None = None,
        payload: NDArray[Any] | None = None,
        layout: Layout | None = None,
        beyond: int = 0,
    ) -> ForwardRow:
        """Returns the row that reads `at`, without positions that the model cannot see from there.

        Args:
            at: [W] positions, ascending.
            query: what to read.
            tokens: [K] tokens that replace the canvas' own (a draft, masks to verify, or only its
                beginning). Such a row runs whole, without a KV cache, unless its model predicts the
                next tokens, whose cache compares them.
            payload: [W, ...] input of the query's op; None: the random numbers of this step.
            layout: places and visibility of `tokens`, for models that take them.
            beyond: masks that are shown behind the canvas.

        Raises:
            SampleError: the positions are not ascending, or not of the canvas.
        """
        length = len(self.ids if tokens is None else tokens)
        if not len(at) or at[0] < 0 or at[-1] >= length or np.count_nonzero(at[1:] <= at[:-1]):
            raise SampleError(
                f"strategy '{self.settings.strategy.name}' reads positions {_plain(at[:8])}; they "
                "must be ascending,"
                f" at least one and within 0 to {length - 1}"
            )
        shown = (self.tokens if tokens is None else tokens).copy()
        if beyond:
            shown = np.append(shown, np.full(beyond, self.model.mask_id))
        elif layout is None:
            shown = shown[: visible_end(self.grid, self.open, int(at[-1]), self._causal)]
        end = len(shown)
        factor = self.settings.guidance_factor
        unguided = None
        if factor != 1:
            hidden = self.given.copy()
            hidden[0] &= not self.model.needs_bos  # the model predicts nothing without it
            unguided = shown.copy()
            unguided[: len(hidden)][hidden[:end]] = self.model.mask_id
        cached = {}
        if query.head is None and self._in_order and layout is None:
            cached = self.cache.part(shown, shown == self.model.mask_id, at, self.block_positions)
        elif query.head is None and tokens is None:
            cached = self.cache.part(shown, self.open[:end], at, self.block_positions)
        return ForwardRow(
            shown, at, query.op, self.uniforms(at) if payload is None else payload, unguided, factor, query.head,
            time=query.time, kept=self.kept if query.keeps else None,
            ids=self.ids[at] if query.keeps else None, layout=layout, context=self._context,
            blocks_from=0 if self.grid is None else self.grid.begin, **cached,
        )  # fmt: skip

    def uniforms(self, at: Ints, ahead: int = 0) -> Floats:
        """Returns [W] uniform numbers that tokens at `at` are drawn with, `ahead` steps from now."""
        if self.settings.temperature == 0:
            return np.zeros(len(at))
        ids = self.ids[at]
        return self.noise.uniforms("draw", self.global_step + ahead, int(ids.max()) + 1)[ids]

    # -- changes -----------------------------------------------------------------------------------

    def write_draft(self, canvas: Canvas) -> Generator[list[ForwardRow], list[Output], None]:
        """Writes the draft of `canvas` as step 0, before the strategy's own steps.

        One row reads the probability of each of its tokens in the whole draft. It takes the place
        of the probability with which a token is written.
        """
        draft = np.array(whole_blocks(canvas, self.grid).tokens, dtype=np.int64)
        at = np.nonzero(self.open & (draft != BLANK))[0]
        if not len(at):
            return
        tokens = self.tokens.copy()
        tokens[at] = draft[at]
        row = self.row(at, Query(LogProbs()), tokens, draft[at])
        (logprob,) = (yield from self.run([row]))[0]
        self.tokens[at], self.logprob[at], self.step[at] = draft[at], logprob, 0
        self.open[at] = False
        self.last_change, self.global_step = 0, 1
        if self.trace is not None:
            traced = self._traced(self.ids[at], self.logprob[at], NONE)
            self.trace(replace(traced, step=0))
        self.keep_step_text()

    def keep_step_text(self) -> None:
        """Keeps the text of a step, before it writes, if texts of steps are kept.

        Raises:
            SampleError: they take too much room.
        """
        if self.step_texts is not None:
            self.step_texts.end_step(self.tokens[self.in_hole], self.open[self.in_hole])

    def apply(self, edit: Edit) -> None:
        """Applies a step's changes to the canvas.

        Raises:
            SampleError: a position is outside the block, a token outside the vocabulary, a
                log-probability is NaN, or the canvas becomes longer than the model allows.
        """
        if edit.changes_nothing:
            return
        self._check(edit)
        at, erased = edit.commit, edit.erase
        if len(erased):
            self.tokens[erased], self.logprob[erased] = self.model.mask_id, -np.inf
            self.step[erased], self.open[erased] = -1, True
        if len(at):
            self.tokens[at], self.logprob[at] = edit.token, edit.logprob
            self.step[at], self.open[at] = self.global_step, False
        self.known, self.last_change = None, self.global_step
        self.written_steps += bool(len(at) or len(edit.inserted))
        written, logprob, gone = self.ids[at], np.asarray(edit.logprob), self.ids[erased]
        if edit.resizes:
            fresh = self._resize(edit)
            if len(edit.inserted):
                written = np.concatenate([written, fresh])
                logprob = np.concatenate([logprob, np.zeros(len(fresh))])
        if self.trace is not None:
            self.trace(self._traced(written, logprob, gone))

    def _check(self, edit: Edit) -> None:
        """Raises SampleError if tokens cannot be written or erased as `edit` says."""
        name = self.settings.strategy.name
        # Lists, since most steps change a few positions.
        at, token = np.asarray(edit.commit).tolist(), np.asarray(edit.token).tolist()
        inserted = np.asarray(edit.inserted).tolist()
        logprob, erased = np.asarray(edit.logprob).tolist(), np.asarray(edit.erase).tolist()
        if not len(at) == len(token) == len(logprob):
            sizes = f"{len(at)} positions, {len(token)} tokens and {len(logprob)} log-probabilities"
            raise SampleError(f"strategy '{name}' writes {sizes}; they must be as many")
        if inserted and len(inserted) != len(edit.insert):
            places = counted(len(edit.insert), "inserted position")
            raise SampleError(f"strategy '{name}' gives {len(inserted)} tokens to {places}")
        ahead = self.settings.strategy.writes_ahead
        allowed = self._not_given() if ahead else self._block_positions()[1]
        if not allowed.issuperset([*at, *erased]):
            raise SampleError(
                f"strategy '{name}' writes or erases a position outside the block that it fills"
            )
        token = [*token, *inserted]
        if token and not 0 <= min(token) <= max(token) < self.model.vocab_size:
            raise SampleError(f"strategy '{name}' writes a token outside the vocabulary")
        if any(map(isnan, logprob)):
            raise SampleError(f"strategy '{name}' writes a token with log-probability NaN")

    def _not_given(self) -> frozenset[int]:
        """Returns the positions that did not come with a token."""
        return frozenset(np.nonzero(~self.given)[0].tolist())

    def _traced(self, written: Ints, logprob: Floats, erased: Ints) -> TraceStep:
        return TraceStep(
            self.global_step,
            _plain(self.tokens),
            tuple(map(bool, self.open)),
            _plain(written),
            tuple(map(float, np.exp(logprob))),
            _plain(erased),
            _plain(self.ids) if self.resized else (),
        )

    def _resize(self, edit: Edit) -> Ints:
        """Inserts and deletes positions, and returns the identities of the inserted ones."""
        places = self.block_positions
        behind = int(places[-1]) + 1 if len(places) else 0
        inside = np.isin(edit.insert, places) | (edit.insert == behind)
        if not (inside.all() and np.isin(edit.delete, places).all()):
            raise SampleError(
                "a step can insert and delete positions only in the block that it fills"
            )
        length = len(self.ids) + len(edit.insert) - len(edit.delete)
        if length > self.model.max_length:
            raise SampleError(
                f"the canvas has grown to {counted(length, 'position')}, but {self.model.name} has "
                f"{self.model.max_length}"
            )
        fresh = np.arange(self.next_id, self.next_id + len(edit.insert))
        self.next_id += len(fresh)
        kept = np.setdiff1d(np.arange(len(self.ids)), edit.delete)
        # the old index of each position, -1 for new ones
        source = np.insert(kept, np.searchsorted(kept, edit.insert), -1)
        new = source < 0
        self.rearrange(np.where(new, 0, self.ids[source]), source)
        self.ids[new], self.block_of[new] = fresh, self.block
        if len(edit.inserted):
            self.tokens[new], self.open[new] = edit.inserted, False
            self.logprob[new], self.step[new] = 0.0, self.global_step
        self._in_block = None
        return fresh

    def rearrange(self, ids: Ints, source: Ints) -> None:
        """Rebuilds the canvas from its positions `source`, in this order; -1 is a new mask."""
        new = source < 0

        def moved(values: Any, of_new: Any) -> Any:
            return np.where(new, of_new, values[source])

        self.ids = ids
        self.tokens, self.open = moved(self.tokens, self.model.mask_id), moved(self.open, True)
        self.given, self.block_of = moved(self.given, False), moved(self.block_of, -1)
        self.logprob, self.step = moved(self.logprob, -np.inf), moved(self.step, -1)
        self.in_hole = self._answer()
        self.resized, self._in_block = True, None
        if self.early_exit is not None:
            self.early_exit.follow(np.nonzero(self.in_hole)[0])

    def _answer(self) -> Bools:
        """Returns [L] whether a position is a part of the answer."""
        answer = ~self.given
        answer[len(answer) - self._beyond :] = False
        return answer

    def check_early_exit(self) -> None:
        """Sets `exit` if visible text can no longer change."""
        if self.early_exit is not None and self.exit == "full" and np.count_nonzero(self.open):
            self.exit = self.early_exit.reason(self.tokens, self.open) or "full"

    # -- checkpoints and the answer ----------------------------------------------------------------

    def checkpoint(self, step: int) -> State:
        """Returns the state before step `step` of the current block."""
        at = np.nonzero(~self.given)[0]
        grown = self.ids >= self.asked_length
        return State(
            block=self.block,
            step=step,
            global_step=self.global_step,
            forwards=self.forwards,
            written_steps=self.written_steps,
            post_steps=self.post_steps,
            last_change=self.last_change,
            tokens=_plain(self.tokens[at]),
            logprob=tuple(map(float, self.logprob[at])),
            written=_plain(self.step[at]),
            positions=_plain(self.ids) if self.resized else (),
            inserted=_plain(self.block_of[grown]),
            next_id=self.next_id,
            step_texts=tuple(self.step_texts.packed) if self.step_texts is not None else (),
        )

    def restore(self, state: State) -> None:
        """Restores the canvas from a checkpoint."""
        if state.positions:
            ids: Ints = np.array(state.positions, dtype=np.int64)
            self.rearrange(ids, np.where(ids < self.asked_length, ids, -1))
            self.block_of[ids >= self.asked_length] = state.inserted
            self._in_block = None
        at = np.nonzero(~self.given)[0]
        self.tokens[at], self.logprob[at], self.step[at] = (
            state.tokens,
            state.logprob,
            state.written,
        )
        self.open[at] = self.step[at] < 0
        self.block, self.global_step, self.forwards = state.block, state.global_step, state.forwards
        self.written_steps, self.post_steps = state.written_steps, state.post_steps
        self.last_change, self.next_id = state.last_change, state.next_id
        if self.step_texts is not None:
            self.step_texts = StepTexts(int(self.in_hole.sum()), state.step_texts)

    def filling(self) -> Filling:
        """Returns the filling, `BLANK` at positions that are still open."""
        hole = self.in_hole
        confidence = np.where(self.open, np.nan, np.exp(self.logprob))[hole]
        return Filling(
            tokens=_plain(np.where(self.open, BLANK, self.tokens)[hole]),
            forwards=self.forwards,
            steps=self.written_steps,
            confidence=tuple(map(float, confidence)),
            step=_plain(self.step[hole]),
            exit=self.exit,
            step_texts=self.step_texts.packed if self.step_texts is not None else (),
        )


def _plain(values: Ints) -> tuple[int, ...]:
    return tuple(map(int, values))
