"""The engine: packs rows of many programs into batches by a token budget and runs the model.

The work on one canvas is a program (`rows`). A program that scores yields all its rows at once; one
that fills yields the rows of one step at a time. `drive` runs many programs and mixes their rows in
batches. If a batch does not fit the device's memory, the batch and the budget are halved. If a row
fails alone, its program gets the error.

Shape letters: L = positions, N = wanted positions of a batch, V = vocabulary.
"""

from __future__ import annotations

import logging
import time
from bisect import bisect_left
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from heapq import nsmallest
from itertools import accumulate, count, pairwise
from operator import attrgetter
from typing import Any, Generic, TypeVar

import torch

from dlm_eval.engine.batching import Footprint, Limits, Load, Waiting, identity, pack
from dlm_eval.engine.forward import forward
from dlm_eval.engine.rows import Cost, ForwardRow, Outcome, Output, Program
from dlm_eval.errors import DlmEvalError, OutOfMemory, RunError, SampleError
from dlm_eval.models.denoiser import Denoiser, can_pad, device_of, is_batch_invariant
from dlm_eval.models.probes import device_lost, out_of_memory
from dlm_eval.printable import counted
from dlm_eval.reasons import place_of

T = TypeVar("T")
AHEAD = 2  # the next batch is chosen from this many batches of the oldest rows
QUEUED = 4  # maximum number of batches in the queue; more rows of equal length can then share one
AGE = attrgetter("age")
HOPELESS = 16  # the run fails if this many rows fail alone before any row succeeds

log = logging.getLogger(__name__)


@dataclass(eq=False)
class _Running(Generic[T]):
    """A program that is running.

    Attributes:
        index: number of the program.
        program: the generator.
        outputs: outputs of the rows that it waits for, None if still missing.
        missing: number of missing outputs.
        rows, computed: rows that it has asked for so far, and positions that they run.
        seconds: its share of model time so far.
    """

    index: int
    program: Program[T]
    outputs: list[Output | SampleError | None] = field(default_factory=list)
    missing: int = 0
    rows: int = 0
    computed: int = 0
    seconds: float = 0.0


class Engine:
    """Runs rows on one model.

    Args:
        model: the denoiser.
        batch_rows: maximum number of rows in a batch; None for no limit.
        batch_tokens: maximum number of tokens in a batch, padding included. It is halved if a batch
            does not fit the device's memory.
        batch_logits: maximum number of float32 logits (N x V) formed at once. It is halved
            likewise.
        equal_lengths: whether all rows of a batch must have the same length. Nothing is padded
            then. On a CPU the output of a row has the same bits in every batch (if the network's
            kernels do not allow that, rows run one by one), and larger batches gain little. None
            means True on CPUs only.
        footprint: device memory per position, if known. Otherwise a cached position counts as one
            that runs.
        memory_tokens: replaces the device's memory in tests without CUDA. A batch with more tokens,
            padding included, raises torch.OutOfMemoryError before it runs.
        on_forward: called after every forward pass (a worker's heartbeat).
    """

    def __init__(
        self,
        model: Denoiser,
        batch_rows: int | None = None,
        batch_tokens: int = 8192,
        batch_logits: int = 2**27,
        equal_lengths: bool | None = None,
        footprint: Footprint | None = None,
        memory_tokens: int | None = None,
        on_forward: Callable[[], None] | None = None,
    ) -> None:
        self.model = model
        self.batch_rows = batch_rows
        self.batch_tokens = batch_tokens
        self.batch_logits = batch_logits
        self.equal_lengths = (
            device_of(model).type == "cpu" if equal_lengths is None else equal_lengths
        )
        if not can_pad(model):
            self.equal_lengths = True
        if self.equal_lengths and not is_batch_invariant(model):
            self.batch_rows = 1
        self.footprint = footprint
        self.cached_weight = footprint.cached_weight if footprint else 1.0
        self.memory_tokens = memory_tokens
        self.on_forward = on_forward
        self.cost = Cost()
        # model time, and positions run, so far of the program that is receiving outputs
        self.program_seconds, self.program_computed = 0.0, 0
        # Whether outputs are the same in any batch, if known.
        self.batch_invariant: bool | None = None
        self._failed_alone = 0

    # -- driving programs --------------------------------------------------------------------------

    def drive(
        self,
        programs: Iterable[Program[T] | None],
        done: Callable[[int, Outcome[T]], None] | None = None,
    ) -> list[Outcome[T]]:
        """Returns the outcome of each program, in the order given.

        A program starts when the queue has room for its rows. `done(index, outcome)` is called when
        a program ends. A program ends with an error if its logits are NaN, if its row fails even
        alone, or if it raises SampleError. The others continue.

        None in place of a program means that there is none now; the next one is requested after the
        next batch. This is allowed only while other programs are running.

        Raises:
            RunError: the device is lost, or the model fails on every row.
        """
        outcomes: dict[int, Outcome[T]] = {}

        def finish(running: _Running[T], answer: T | SampleError) -> None:
            outcomes[running.index] = Outcome(
                answer, running.rows, running.seconds, running.computed
            )
            if done is not None:
                done(running.index, outcomes[running.index])

        fresh, numbers = iter(programs), count()
        queue: dict[bytes, Waiting] = {}
        more = True
        while more or queue:
            room = QUEUED * self.batch_tokens - sum(map(self._queued, queue.values()))
            while more and room > 0:
                try:
                    program = next(fresh)
                except StopIteration:
                    more = False
                    break
                if program is None:
                    break
                room -= self._advance(_Running(next(numbers), program), None, queue, finish)
            if not queue:
                continue
            batch = self._next_batch(queue)
            for waiting in batch:
                del queue[waiting.key]
            for running in self._serve(batch):
                self._advance(running, running.outputs, queue, finish)
        return [outcomes[index] for index in range(len(outcomes))]

    def _next_batch(self, queue: Mapping[bytes, Waiting]) -> list[Waiting]:
        """Returns the batch to run next: the full batch that contains the oldest program.

        The programs of one batch therefore end before others begin. An interruption loses the work
        of about one batch, not of all programs in the queue. A batch that is not full waits for
        more rows.
        """
        most = len(queue) if self.batch_rows is None else AHEAD * self.batch_rows
        # with small batches only the oldest rows need to be sorted
        waiting = nsmallest(most, queue.values(), key=AGE)
        weights = accumulate(one.tokens + int(self.cached_weight * one.held) for one in waiting)
        enough = bisect_left(list(weights), AHEAD * self.batch_tokens) + 1
        batches = pack(waiting[:enough], self._limits())
        full = [batch for batch, after in pairwise(batches) if batch[0].kind == after[0].kind]
        return min(full or batches, key=lambda batch: min(one.age for one in batch))

    def _advance(
        self,
        running: _Running[T],
        outputs: list[Output | SampleError | None] | None,
        queue: dict[bytes, Waiting],
        finish: Callable[[_Running[T], T | SampleError], None],
    ) -> int:
        """Sends a program its outputs, queues the rows that it yields, returns their tokens."""
        self.program_seconds, self.program_computed = running.seconds, running.computed
        try:
            rows: list[ForwardRow] = []
            while not rows:
                rows = self._sent(running.program, outputs)
                outputs = []
                for row in rows:
                    if not isinstance(row, ForwardRow):
                        raise SampleError("a program yields something other than forward rows")
        except StopIteration as stop:
            finish(running, stop.value)
            return 0
        except SampleError as error:
            finish(running, error)
            return 0
        running.outputs = [None] * len(rows)
        running.missing = len(rows)
        tokens = 0
        for place, row in enumerate(rows):
            running.rows += row.passes
            running.computed += row.computed
            key = identity(row)
            waiting = queue.get(key)
            if waiting is None:
                waiting = queue[key] = Waiting(row, key)
                tokens += self._queued(waiting)
            waiting.add(running, running.index, place, row)
        return tokens

    @staticmethod
    def _sent(
        program: Program[Any], outputs: Sequence[Output | SampleError | None] | None
    ) -> list[ForwardRow]:
        """Returns the rows that a program yields after its outputs, or after the first error."""
        for output in outputs or ():
            if isinstance(output, SampleError):
                return program.throw(output)
        return program.send(outputs)  # type: ignore[arg-type]

    def _limits(self) -> Limits:
        wanted = self.batch_logits // self.model.vocab_size
        return Limits(
            self.batch_rows, self.batch_tokens, wanted, self.cached_weight, self.equal_lengths
        )

    def _queued(self, one: Waiting) -> int:
        """Returns the tokens that a row takes up in the queue.

        A KV cache counts fully, since it stays on the device while other batches run.
        """
        whole = (one.length + one.past) * one.passes
        return whole + int(QUEUED * self.cached_weight * one.held) if one.held else whole

    # -- running -----------------------------------------------------------------------------------

    def _serve(self, batch: Sequence[Waiting]) -> list[_Running[Any]]:
        """Runs a batch, in halves if it fails; returns programs that now have all outputs."""
        requests = [
            (sequence, request)
            for sequence, waiting in enumerate(batch)
            for request in waiting.requests
        ]
        start = time.perf_counter()
        found = self._attempt(batch, [(s, row) for s, (_, _, row) in requests])
        seconds = time.perf_counter() - start
        if isinstance(found, _Failure):
            self._adapt(found.error, batch)
            if len(batch) > 1:
                half = len(batch) // 2
                return self._serve(batch[:half]) + self._serve(batch[half:])
            found = [self._blame(found, batch[0])] * len(requests)
        tokens = sum(waiting.tokens for waiting in batch)
        self.cost += Cost(tokens=tokens, seconds=seconds)
        ready: list[_Running[Any]] = []
        for (sequence, (running, place, _)), output in zip(requests, found, strict=True):
            waiting = batch[sequence]
            running.outputs[place] = output
            running.missing -= 1
            running.seconds += seconds * waiting.tokens / tokens / len(waiting.requests)
            if running.missing == 0:
                ready.append(running)
        return ready

    def _attempt(
        self, batch: Sequence[Waiting], requests: Sequence[tuple[int, ForwardRow]]
    ) -> list[Output | SampleError] | _Failure:
        """Returns the outputs of a forward pass, or the exception that it raised.

        Raises:
            RunError: the device is lost, so nothing more can run in this process.
        """
        try:
            if self.memory_tokens is not None:
                self._pretend_memory(batch, self.memory_tokens)
            outputs, shape = forward(self.model, [waiting.row for waiting in batch], requests)
        except DlmEvalError:
            raise
        except Exception as error:
            if device_lost(error):
                raise RunError(f"the device is lost: {error}") from error
            place = place_of(error)
            return _Failure(
                error.with_traceback(None), place
            )  # its frames hold the batch's tensors
        self._failed_alone = -1  # the model works
        self.cost += Cost(forwards=1, rows=shape[0], padded_tokens=shape.numel())
        if self.on_forward is not None:
            self.on_forward()
        return outputs

    def _pretend_memory(self, batch: Sequence[Waiting], most: int) -> None:
        padded = Load.of(batch).weight(self.cached_weight)
        if padded > most:
            raise torch.OutOfMemoryError(f"{padded} tokens, but memory_tokens is {most}")

    def _adapt(self, error: Exception, batch: Sequence[Waiting]) -> None:
        """Halves the budgets permanently if memory ran out."""
        if not out_of_memory(error):
            if len(batch) > 1:
                log.warning(
                    "a batch of %d rows failed (%s: %s); it is retried in halves",
                    len(batch),
                    type(error).__name__,
                    error,
                )
            return
        device = device_of(self.model)
        if device.type == "cuda":
            torch.cuda.empty_cache()
        load = Load.of(batch)
        weight = load.weight(self.cached_weight)
        logits = load.wanted * self.model.vocab_size
        # Logits that used little of their budget did not exhaust the memory. Halving their budget
        # would leave batches of one row with many wanted positions.
        if logits / self.batch_logits >= weight / self.batch_tokens:
            self.batch_logits = min(self.batch_logits, max(logits // 2, self.model.vocab_size))
        self.batch_tokens = min(self.batch_tokens, max(weight // load.rows, weight // 2))
        if len(batch) > 1:
            log.warning(
                "out of memory on %s with %d rows of %d positions; batches hold at most %d tokens "
                "from now on",
                device,
                load.rows,
                load.longest + load.held,
                self.batch_tokens,
            )

    def _blame(self, failure: _Failure, one: Waiting) -> SampleError:
        """Returns the error of a row that failed alone.

        Raises:
            RunError: many rows have failed and none has succeeded, so the model itself fails.
        """
        error = failure.error
        if out_of_memory(error):
            return OutOfMemory(
                f"out of memory: {counted(len(one.row.tokens), 'position', 'do')} not fit the "
                "device even alone"
            )
        reason = f"the model failed: {type(error).__name__}: {error}{failure.place}"
        if self._failed_alone >= 0:
            self._failed_alone += 1
            if self._failed_alone >= HOPELESS:
                raise RunError(f"{reason} (on every one of {HOPELESS} rows)")
        return SampleError(reason)


@dataclass(frozen=True)
class _Failure:
    """What a forward pass raised.

    Attributes:
        place: " (in FILE, line N)" of the code that raised it, for instance a strategy's, if it is
            not an installed package.
    """

    error: Exception
    place: str
