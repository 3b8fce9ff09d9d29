"""Which waiting rows share a batch.

A batch has a budget of tokens, with padding: positions that run, and positions of rows with a memory once more, times what keys and values weigh beside
activations. What counts as waste is padding of those that run.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, NamedTuple

from dlm_eval.engine.rows import ForwardRow

PADDING = 0.04  # share of a batch that may be padding, once the batch is worth a forward pass of its own
WORTHWHILE = 1024  # tokens that keep a GPU busy for longer than it takes to start a pass


@dataclass(frozen=True)
class Footprint:
    """Bytes of device memory that one more position of a batch takes: one that runs (`token`), and one that is remembered (`memory`)."""

    token: float
    memory: float

    @property
    def cached_weight(self) -> float:
        """Tokens of a batch's budget that a remembered position takes."""
        return self.memory / self.token


@dataclass(frozen=True, eq=False)
class Waiting:
    """A row in the queue and everyone who asked for the same sequence."""

    row: ForwardRow
    requests: list[tuple[Any, int, ForwardRow]]

    @property
    def length(self) -> int:
        """Positions that run."""
        return len(self.row.run)

    @property
    def past(self) -> int:
        """Positions that are remembered."""
        return len(self.row.tokens) - self.length

    @property
    def tokens(self) -> int:
        """Positions that run, of all its sequences."""
        return self.length * self.row.passes

    @property
    def held(self) -> int:
        """Positions whose keys and values the device may hold: all of a row with a memory."""
        return 0 if self.row.kv_cache is None else len(self.row.tokens)

    @property
    def wanted(self) -> int:
        """Positions that are read."""
        return sum(len(row.wanted) for _, _, row in self.requests) * self.row.passes


@dataclass(frozen=True)
class Limits:
    """Budgets of a batch (see `engine.Engine`).

    Attributes:
        rows: at most, or None.
        tokens: padded ones at most.
        wanted: positions that are read at most.
        cached_weight: tokens of the budget that a position in a memory takes.
        equal_lengths: whether rows share a batch only with rows of their own length.
    """

    rows: int | None
    tokens: int
    wanted: int
    cached_weight: float
    equal_lengths: bool


class Load(NamedTuple):
    """What a batch weighs: rows, positions that are read, the longest live and held parts, and live tokens without padding."""

    rows: int = 0
    wanted: int = 0
    longest: int = 0
    held: int = 0
    real: int = 0

    def plus(self, one: Waiting) -> Load:
        """Returns the load with one more row."""
        return Load(
            self.rows + one.row.passes,
            self.wanted + one.wanted,
            max(self.longest, one.length),
            max(self.held, one.held),
            self.real + one.tokens,
        )

    @property
    def padded(self) -> int:
        """Live tokens with padding."""
        return self.rows * self.longest

    def weight(self, cached_weight: float) -> int:
        """Returns the tokens of the budget that it takes."""
        return self.padded + int(cached_weight * self.rows * self.held)

    @staticmethod
    def of(batch: Iterable[Waiting]) -> Load:
        """Returns what a whole batch weighs."""
        load = Load()
        for one in batch:
            load = load.plus(one)
        return load


def pack(waiting: Iterable[Waiting], limits: Limits) -> list[list[Waiting]]:
    """Returns batches, longest rows first, each within the limits (a row that alone exceeds them runs alone). Rows that remember share batches with
    their like only."""
    batches: list[list[Waiting]] = []
    load = Load()
    for one in sorted(waiting, key=lambda w: (*kind(w), -w.length, -w.past)):
        if not batches or not _fits(batches[-1][0], load, one, limits):
            batches.append([])
            load = Load()
        batches[-1].append(one)
        load = load.plus(one)
    return batches


def kind(waiting: Waiting) -> tuple[str, bool]:
    """Returns what rows of one batch have in common: the method that answers, and whether they remember."""
    return waiting.row.head, waiting.row.query_span is not None


def _fits(first: Waiting, load: Load, one: Waiting, limits: Limits) -> bool:
    """Returns whether a row may join the batch of `first`."""
    if kind(one) != kind(first):
        return False
    if limits.equal_lengths and (one.length, one.past) != (first.length, first.past):
        return False
    after = load.plus(one)
    return (
        after.weight(limits.cached_weight) <= limits.tokens
        and after.wanted <= limits.wanted
        and (limits.rows is None or after.rows <= max(limits.rows, one.row.passes))
        and not _wasteful(load, after)
    )


def _wasteful(now: Load, then: Load) -> bool:
    """Returns whether one more row makes too much padding of a batch that can do without it."""
    return now.padded >= WORTHWHILE and then.padded - then.real > PADDING * then.padded


def identity(row: ForwardRow) -> bytes:
    """Returns what makes a row's sequence: rows with equal ones run once. What is remembered is the program's own."""
    unguided = b"" if row.unguided is None else b"|" + row.unguided.tobytes() + str(row.guidance).encode()
    continuous = b"" if row.inputs is None else b"|" + row.inputs.tobytes()
    time = f"|{row.time}".encode() if row.time else b""
    cached = b"" if row.query_span is None else f"|{id(row.kv_cache)} {row.query_span}".encode()
    fed = f"|{id(row.kept)}".encode() if row.fed else b""
    return row.head.encode() + b"|" + row.tokens.tobytes() + unguided + continuous + time + cached + fed
