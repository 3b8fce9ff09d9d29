"""Rows of many requests, packed into batches by a token budget: the one place that calls the model.

A *row* is one sequence for one forward pass. The work on one canvas is a *walk*: a generator that yields rows, receives what the model said at
their wanted positions, and returns its answer. Scoring yields all its rows at once; filling yields one per step. `drive` keeps many walks going
and mixes their rows, so that requests share batches however much work each of them is.

Shape letters: B = rows of a batch, L = positions, W = wanted positions of a row, N = wanted positions of a batch, V = vocabulary.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Generic, Protocol, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dlm_eval.errors import SampleError
from dlm_eval.models.denoiser import Denoiser

T = TypeVar("T")
Ints = NDArray[np.int64]
Reading = tuple[NDArray[Any], ...]  # arrays whose first dimension is W


class Reader(Protocol):
    """What to read off the logits at wanted positions. Hashable: rows with equal readers are read together."""

    def __call__(self, logits: Tensor, payload: Tensor) -> tuple[Tensor, ...]:
        """Returns tensors with first dimension N from float32 `logits` [N, V] and `payload` [N, ...] (the rows' own inputs)."""
        ...


@dataclass(frozen=True)
class LogProbs:
    """Reads log p(token) in nats; the payload is the token at each position, [N] long. Log-softmax in float32."""

    def __call__(self, logits: Tensor, payload: Tensor) -> tuple[Tensor, ...]:
        picked = logits.gather(-1, payload[:, None]).squeeze(-1)
        return ((picked - logits.logsumexp(-1)).double(),)


@dataclass(frozen=True, eq=False)
class Row:
    """One sequence to run.

    Attributes:
        tokens: [L] ids, mask tokens in place.
        wanted: [W] positions to read.
        reader: what to read there.
        payload: [W, ...] the reader's input for each wanted position.
        unguided: [L] ids of the unconditional sequence of classifier-free guidance, or None.
        guidance: factor f of guided logits u + f (c - u), u from `unguided` and c from `tokens`.
    """

    tokens: Ints
    wanted: Ints
    reader: Reader
    payload: NDArray[Any]
    unguided: Ints | None = None
    guidance: float = 1.0

    @property
    def passes(self) -> int:
        """Sequences that the device runs for this row."""
        return 1 if self.unguided is None else 2


Walk = Generator[list[Row], list[Reading], T]


@dataclass(frozen=True)
class Outcome(Generic[T]):
    """A walk's answer and what it cost: `rows` its own rows (two under guidance), `seconds` its share of model time."""

    answer: T | SampleError
    rows: int
    seconds: float


@dataclass
class Cost:
    """What the device did: forward calls, rows, tokens with and without padding, model seconds."""

    forwards: int = 0
    rows: int = 0
    tokens: int = 0
    padded_tokens: int = 0
    seconds: float = 0.0


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
        batch_tokens: padded tokens in a batch at most.
        batch_logits: float32 logits (N x V) formed at once at most.
    """

    def __init__(
        self, model: Denoiser, batch_rows: int | None = None, batch_tokens: int = 8192, batch_logits: int = 2**27
    ) -> None:
        self.model = model
        self.batch_rows = batch_rows
        self.batch_tokens = batch_tokens
        self.batch_logits = batch_logits
        self.cost = Cost()

    # -- driving walks -------------------------------------------------------------------------------------------------

    def drive(
        self, walks: Iterable[Walk[T]], done: Callable[[int, Outcome[T]], None] | None = None
    ) -> list[Outcome[T]]:
        """Returns the outcome of each walk, in the order given.

        Walks are started as room for their rows appears, and `done(index, outcome)` is called as each ends. A walk that meets a NaN, or that
        raises SampleError itself, ends with that error; the others go on.
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
            while more and sum(w.length * w.row.passes for w in queue.values()) < 4 * self.batch_tokens:
                index_walk = next(fresh, None)
                more = index_walk is not None
                if index_walk is not None:
                    live = _Live(*index_walk)
                    self._advance(live, None, queue, finish)
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
    ) -> None:
        """Hands a walk its readings and queues the rows that it asks for next."""
        try:
            rows: list[Row] = []
            while not rows:
                error = next((r for r in readings or () if isinstance(r, SampleError)), None)
                if error is not None:
                    rows = live.walk.throw(error)
                else:
                    rows = live.walk.send(readings)  # type: ignore[arg-type]
                readings = []
        except StopIteration as stop:
            finish(live, stop.value)
            return
        except SampleError as error:
            finish(live, error)
            return
        live.readings = [None] * len(rows)
        live.missing = len(rows)
        for place, row in enumerate(rows):
            live.rows += row.passes
            waiting = queue.setdefault(_identity(row), _Waiting(row, []))
            waiting.askers.append((live, place, row))

    # -- packing -------------------------------------------------------------------------------------------------------

    def _pack(self, waiting: Iterable[_Waiting]) -> list[list[_Waiting]]:
        """Returns batches, longest rows first, each within the budgets (a row that alone exceeds them runs alone)."""
        batches: list[list[_Waiting]] = []
        rows = wanted = longest = 0
        for one in sorted(waiting, key=lambda w: -w.length):
            passes, asks = one.row.passes, sum(len(row.wanted) for _, _, row in one.askers) * one.row.passes
            full = (
                not batches
                or (rows + passes) * longest > self.batch_tokens
                or (wanted + asks) * self.model.vocab_size > self.batch_logits
                or (self.batch_rows is not None and rows + passes > max(self.batch_rows, passes))
            )
            if full:
                batches.append([])
                rows, wanted, longest = 0, 0, one.length
            batches[-1].append(one)
            rows, wanted = rows + passes, wanted + asks
        return batches

    # -- running -------------------------------------------------------------------------------------------------------

    def _serve(self, batch: Sequence[_Waiting]) -> list[_Live[Any]]:
        """Runs a batch, delivers its readings, returns the walks that wait for nothing more."""
        asks = [(sequence, ask) for sequence, waiting in enumerate(batch) for ask in waiting.askers]
        readings, seconds = self._run([w.row for w in batch], [(s, row) for s, (_, _, row) in asks])
        tokens = sum(w.length * w.row.passes for w in batch)
        ready: list[_Live[Any]] = []
        for (sequence, (live, place, _)), reading in zip(asks, readings, strict=True):
            waiting = batch[sequence]
            live.readings[place] = reading
            live.missing -= 1
            live.seconds += seconds * waiting.length * waiting.row.passes / tokens / len(waiting.askers)
            if live.missing == 0:
                ready.append(live)
        return ready

    @torch.inference_mode()
    def _run(
        self, rows: Sequence[Row], asks: Sequence[tuple[int, Row]]
    ) -> tuple[list[Reading | SampleError], float]:
        """Runs distinct sequences once each; returns a reading for every (sequence, asking row) pair and the seconds."""
        device = _device_of(self.model)
        start = time.perf_counter()
        sequences = [row.tokens for row in rows] + [row.unguided for row in rows if row.unguided is not None]
        tokens, valid = _pad([s for s in sequences if s is not None], self.model.pad_id, device)
        twin = _twins(rows)
        wanted = torch.zeros(tokens.shape, dtype=torch.bool)
        for sequence, row in asks:
            for place in (sequence, twin.get(sequence)):
                if place is not None:
                    wanted[place, torch.as_tensor(row.wanted)] = True
        logits = self.model.logits(tokens, valid, wanted.to(device))
        slot = torch.full(tokens.shape, -1, dtype=torch.long)
        slot[wanted] = torch.arange(int(wanted.sum()))
        readings = _read(logits, slot, asks, twin)
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        seconds = time.perf_counter() - start
        real = sum(len(s) for s in sequences if s is not None)
        self.cost = replace(
            self.cost,
            forwards=self.cost.forwards + 1,
            rows=self.cost.rows + len(tokens),
            tokens=self.cost.tokens + real,
            padded_tokens=self.cost.padded_tokens + tokens.numel(),
            seconds=self.cost.seconds + seconds,
        )
        return readings, seconds


def _identity(row: Row) -> bytes:
    unguided = b"" if row.unguided is None else b"|" + row.unguided.tobytes() + str(row.guidance).encode()
    return row.tokens.tobytes() + unguided


def _device_of(model: Denoiser) -> torch.device:
    return torch.device(getattr(model, "device", "cpu"))


def _pad(sequences: Sequence[Ints], pad_id: int, device: torch.device) -> tuple[Tensor, Tensor | None]:
    """Returns right-padded tokens [B, L] and what is valid in them (None where nothing is padded: sdpa is then free to use its flash kernel)."""
    lengths = torch.tensor([len(s) for s in sequences])
    tokens = torch.full((len(sequences), int(lengths.max())), pad_id, dtype=torch.long)
    for i, sequence in enumerate(sequences):
        tokens[i, : len(sequence)] = torch.from_numpy(sequence)
    if bool((lengths == tokens.shape[1]).all()):
        return tokens.to(device), None
    return tokens.to(device), (torch.arange(tokens.shape[1]) < lengths[:, None]).to(device)


def _twins(rows: Sequence[Row]) -> dict[int, int]:
    """Returns sequence -> place of its unconditional twin, which stands behind all conditional sequences."""
    guided = [i for i, row in enumerate(rows) if row.unguided is not None]
    return {sequence: len(rows) + order for order, sequence in enumerate(guided)}


def _read(
    logits: Tensor, slot: Tensor, asks: Sequence[tuple[int, Row]], twin: dict[int, int]
) -> list[Reading | SampleError]:
    """Returns each ask's reading. Asks with equal readers (and equal need of guidance) are read in one call."""
    readings: list[Reading | SampleError] = [()] * len(asks)
    groups: dict[tuple[Reader, float | None], list[int]] = {}
    for number, (sequence, row) in enumerate(asks):
        groups.setdefault((row.reader, row.guidance if sequence in twin else None), []).append(number)
    for (reader, guidance), members in groups.items():
        places = [slot[asks[m][0], torch.as_tensor(asks[m][1].wanted)] for m in members]
        own = logits[torch.cat(places).to(logits.device)]
        if guidance is not None:
            others = [slot[twin[asks[m][0]], torch.as_tensor(asks[m][1].wanted)] for m in members]
            plain = logits[torch.cat(others).to(logits.device)]
            own = plain + guidance * (own - plain)
        payload = torch.from_numpy(np.concatenate([asks[m][1].payload for m in members])).to(logits.device)
        bad = own.isnan().any(-1).cpu()
        arrays = [array.cpu().numpy() for array in reader(own, payload)]
        begin = 0
        for m, place in zip(members, places, strict=True):
            end = begin + len(place)
            if bool(bad[begin:end].any()):
                readings[m] = SampleError("the model returned NaN")
            else:
                readings[m] = tuple(array[begin:end] for array in arrays)
            begin = end
    return readings
