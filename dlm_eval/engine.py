"""Rows of many requests, packed into batches by a token budget: the one place that calls the model.

The work on one canvas is a walk (`rows`): scoring yields all its rows at once, filling one per step. `drive` keeps many walks going and mixes
their rows, so that requests share batches however much work each of them is. A batch that does not fit the memory is halved, and so is the budget;
a row that fails alone is the error of its own walk.

Shape letters: L = positions, N = wanted positions of a batch, V = vocabulary.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

import torch

from dlm_eval.errors import DlmEvalError, RunError, SampleError
from dlm_eval.forward import device_of, forward
from dlm_eval.models.denoiser import Denoiser
from dlm_eval.rows import Cost, Ints, LogProbs, Outcome, Reader, Reading, Row, Walk

__all__ = ["Cost", "Engine", "Ints", "LogProbs", "Outcome", "Reader", "Reading", "Row", "Walk"]

T = TypeVar("T")
PADDING = 0.04  # share of a batch that may be padding, once the batch is worth a forward pass of its own
WORTHWHILE = 1024  # tokens that keep a GPU busy for longer than it takes to start a pass
HOPELESS = 16  # rows that fail alone, with none that succeeded, before the model itself is to blame

log = logging.getLogger(__name__)


@dataclass(eq=False)
class _Live(Generic[T]):
    """A walk under way: rows it waits for, readings that have come, cost so far."""

    index: int
    walk: Walk[T]
    readings: list[Reading | SampleError | None] = field(default_factory=list)
    missing: int = 0
    rows: int = 0
    seconds: float = 0.0


@dataclass(frozen=True, eq=False)
class _Waiting:
    """A row in the queue and everyone who asked for the same sequence."""

    row: Row
    askers: list[tuple[_Live[Any], int, Row]]

    @property
    def length(self) -> int:
        return len(self.row.tokens)


class Engine:
    """Runs rows on one model.

    Args:
        model: the denoiser.
        batch_rows: rows in a batch at most; None for no such bound.
        batch_tokens: padded tokens in a batch at most; halved where a batch does not fit the device's memory.
        batch_logits: float32 logits (N x V) formed at once at most; likewise.
        equal_lengths: whether rows share a batch only with rows of their own length. Then nothing is ever padded, and on a CPU a row's
            reading has the same bits whoever shares its batch; a CPU gains nothing from longer batches. None: on CPUs only.
        memory_tokens: stand-in for the device's memory, in padded tokens: a larger batch raises torch.OutOfMemoryError before it is run. For
            tests where there is no CUDA.
        on_forward: called after every forward pass (the worker's sign of life).
    """

    def __init__(
        self,
        model: Denoiser,
        batch_rows: int | None = None,
        batch_tokens: int = 8192,
        batch_logits: int = 2**27,
        equal_lengths: bool | None = None,
        memory_tokens: int | None = None,
        on_forward: Callable[[], None] | None = None,
    ) -> None:
        self.model = model
        self.batch_rows = batch_rows
        self.batch_tokens = batch_tokens
        self.batch_logits = batch_logits
        self.equal_lengths = device_of(model).type == "cpu" if equal_lengths is None else equal_lengths
        self.memory_tokens = memory_tokens
        self.on_forward = on_forward
        self.cost = Cost()
        self._failed_alone = 0

    # -- driving walks -------------------------------------------------------------------------------------------------

    def drive(
        self, walks: Iterable[Walk[T]], done: Callable[[int, Outcome[T]], None] | None = None
    ) -> list[Outcome[T]]:
        """Returns the outcome of each walk, in the order given.

        Walks are started as room for their rows appears, and `done(index, outcome)` is called as each ends. A walk that meets a NaN, whose row
        fails even alone, or that raises SampleError itself, ends with that error; the others go on.

        Raises:
            RunError: the device is lost, or the model fails on every row.
        """
        outcomes: dict[int, Outcome[T]] = {}

        def finish(live: _Live[T], answer: T | SampleError) -> None:
            outcomes[live.index] = Outcome(answer, live.rows, live.seconds)
            if done is not None:
                done(live.index, outcomes[live.index])

        fresh = enumerate(walks)
        queue: dict[bytes, _Waiting] = {}
        more = True
        while more or queue:
            room = 4 * self.batch_tokens - sum(w.length * w.row.passes for w in queue.values())
            while more and room > 0:
                index_walk = next(fresh, None)
                more = index_walk is not None
                if index_walk is not None:
                    room -= self._advance(_Live(*index_walk), None, queue, finish)
            batches = self._pack(queue.values())
            # An underfull last batch waits for walks still to come: their rows may fill it.
            for batch in batches[:-1] if more and len(batches) > 1 else batches:
                for waiting in batch:
                    del queue[_identity(waiting.row)]
                for live in self._serve(batch):
                    self._advance(live, live.readings, queue, finish)
        return [outcomes[index] for index in range(len(outcomes))]

    def _advance(
        self,
        live: _Live[T],
        readings: list[Reading | SampleError | None] | None,
        queue: dict[bytes, _Waiting],
        finish: Callable[[_Live[T], T | SampleError], None],
    ) -> int:
        """Hands a walk its readings and queues the rows that it asks for next; returns how many tokens they are."""
        try:
            rows: list[Row] = []
            while not rows:
                error = next((r for r in readings or () if isinstance(r, SampleError)), None)
                rows = live.walk.throw(error) if error is not None else live.walk.send(readings)  # type: ignore[arg-type]
                readings = []
        except StopIteration as stop:
            finish(live, stop.value)
            return 0
        except SampleError as error:
            finish(live, error)
            return 0
        live.readings = [None] * len(rows)
        live.missing = len(rows)
        tokens = 0
        for place, row in enumerate(rows):
            live.rows += row.passes
            identity = _identity(row)
            if identity not in queue:
                queue[identity] = _Waiting(row, [])
                tokens += len(row.tokens) * row.passes
            queue[identity].askers.append((live, place, row))
        return tokens

    # -- packing -------------------------------------------------------------------------------------------------------

    def _pack(self, waiting: Iterable[_Waiting]) -> list[list[_Waiting]]:
        """Returns batches, longest rows first, each within the budgets (a row that alone exceeds them runs alone)."""
        batches: list[list[_Waiting]] = []
        rows = wanted = longest = real = 0
        for one in sorted(waiting, key=lambda w: (w.row.head, -w.length)):
            passes, asks = one.row.passes, sum(len(row.wanted) for _, _, row in one.askers) * one.row.passes
            full = (
                not batches
                or one.row.head != batches[-1][0].row.head
                or (rows + passes) * longest > self.batch_tokens
                or (wanted + asks) * self.model.vocab_size > self.batch_logits
                or (self.batch_rows is not None and rows + passes > max(self.batch_rows, passes))
                or (self.equal_lengths and one.length != longest)
                or _wasteful(rows * longest, (rows + passes) * longest, real + passes * one.length)
            )
            if full:
                batches.append([])
                rows, wanted, real, longest = 0, 0, 0, one.length
            batches[-1].append(one)
            rows, wanted, real = rows + passes, wanted + asks, real + passes * one.length
        return batches

    # -- running -------------------------------------------------------------------------------------------------------

    def _serve(self, batch: Sequence[_Waiting]) -> list[_Live[Any]]:
        """Runs a batch (in halves, where it fails), delivers its readings, returns the walks that wait for nothing more."""
        asks = [(sequence, ask) for sequence, waiting in enumerate(batch) for ask in waiting.askers]
        start = time.perf_counter()
        found = self._attempt([w.row for w in batch], [(s, row) for s, (_, _, row) in asks])
        seconds = time.perf_counter() - start
        if isinstance(found, Exception):
            self._adapt(found, batch)
            if len(batch) > 1:
                half = len(batch) // 2
                return self._serve(batch[:half]) + self._serve(batch[half:])
            found = [self._blame(found, batch[0])] * len(asks)
        tokens = sum(w.length * w.row.passes for w in batch)
        self.cost += Cost(tokens=tokens, seconds=seconds)
        ready: list[_Live[Any]] = []
        for (sequence, (live, place, _)), reading in zip(asks, found, strict=True):
            waiting = batch[sequence]
            live.readings[place] = reading
            live.missing -= 1
            live.seconds += seconds * waiting.length * waiting.row.passes / tokens / len(waiting.askers)
            if live.missing == 0:
                ready.append(live)
        return ready

    def _attempt(self, rows: Sequence[Row], asks: Sequence[tuple[int, Row]]) -> list[Reading | SampleError] | Exception:
        """Returns the readings of a forward pass, or the exception that it raised.

        Raises:
            RunError: the device is lost; nothing more can run in this process.
        """
        padded = max(len(row.tokens) for row in rows) * sum(row.passes for row in rows)
        try:
            if self.memory_tokens is not None and padded > self.memory_tokens:
                raise torch.OutOfMemoryError(f"{padded} tokens, where memory_tokens is {self.memory_tokens}")
            readings, shape = self._run(rows, asks)
        except DlmEvalError:
            raise
        except Exception as error:
            if _device_lost(error):
                raise RunError(f"the device is lost: {error}") from error
            return error.with_traceback(None)  # its frames hold the batch's tensors
        self._failed_alone = -1  # the model works
        self.cost += Cost(forwards=1, rows=shape[0], padded_tokens=shape.numel())
        if self.on_forward is not None:
            self.on_forward()
        return readings

    def _run(
        self, rows: Sequence[Row], asks: Sequence[tuple[int, Row]]
    ) -> tuple[list[Reading | SampleError], torch.Size]:
        """Returns a reading for every (sequence, asking row) pair, and the shape of the batch."""
        return forward(self.model, rows, asks)

    def _adapt(self, error: Exception, batch: Sequence[_Waiting]) -> None:
        """Halves the budgets where memory ran out, for good."""
        if not out_of_memory(error):
            log.warning(
                "a batch of %d rows failed (%s: %s); its rows are tried apart", len(batch), type(error).__name__, error
            )
            return
        device = device_of(self.model)
        if device.type == "cuda":
            torch.cuda.empty_cache()
        longest, passes = batch[0].length, sum(w.row.passes for w in batch)
        wanted = sum(len(row.wanted) * row.passes for w in batch for _, _, row in w.askers)
        self.batch_tokens = min(self.batch_tokens, max(longest, passes * longest // 2))
        self.batch_logits = min(self.batch_logits, max(1, wanted // 2) * self.model.vocab_size)
        if len(batch) > 1:
            log.warning(
                "out of memory on %s with %d rows of %d positions; batches hold %d tokens from here on",
                device,
                passes,
                longest,
                self.batch_tokens,
            )

    def _blame(self, error: Exception, one: _Waiting) -> SampleError:
        """Returns the error of a row that failed alone.

        Raises:
            RunError: no row has succeeded yet and many have failed: it is the model.
        """
        if out_of_memory(error):
            return SampleError(f"out of memory: {one.length} positions do not fit the device even alone")
        reason = f"the model failed: {type(error).__name__}: {error}"
        if self._failed_alone >= 0:
            self._failed_alone += 1
            if self._failed_alone >= HOPELESS:
                raise RunError(f"{reason} (on every one of {HOPELESS} rows)")
        return SampleError(reason)


def out_of_memory(error: Exception) -> bool:
    """Returns whether an exception says that memory ran out, on a GPU or a CPU."""
    return isinstance(error, (torch.OutOfMemoryError, MemoryError)) or "DefaultCPUAllocator" in str(error)


def _device_lost(error: Exception) -> bool:
    """Returns whether an exception leaves a CUDA context that answers nothing any more (an assert in a kernel, a fallen-off card)."""
    if isinstance(error, torch.OutOfMemoryError):
        return False
    return isinstance(error, getattr(torch, "AcceleratorError", ())) or "CUDA error" in str(error)


def _wasteful(now: int, then: int, real: int) -> bool:
    """Returns whether one more row makes too much padding of a batch that can do without it (padded tokens now and then; real ones then)."""
    return now >= WORTHWHILE and then - real > PADDING * then


def _identity(row: Row) -> bytes:
    unguided = b"" if row.unguided is None else b"|" + row.unguided.tobytes() + str(row.guidance).encode()
    continuous = b"" if row.inputs is None else b"|" + row.inputs.tobytes() + str(row.time).encode()
    return row.head.encode() + b"|" + row.tokens.tobytes() + unguided + continuous
