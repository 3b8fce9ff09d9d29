"""Packs waiting rows into batches.

The budget of a batch is a number of tokens, padding included. A position that runs counts as one
token. A position of a row with a KV cache adds `cached_weight` tokens. Padding of positions that
run counts as waste.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, NamedTuple

from dlm_eval.engine.rows import ForwardRow

PADDING = 0.04  # largest share of padding in a batch of at least WORTHWHILE tokens
WORTHWHILE = 1024  # tokens whose forward pass takes a GPU longer than launching it


@dataclass(frozen=True)
class Footprint:
    """Bytes of device memory per position of a batch.

    Attributes:
        token: of a position that runs.
        memory: of a position in the KV cache.
    """

    token: float
    memory: float

    @property
    def cached_weight(self) -> float:
        """Tokens of a batch's budget that a cached position takes."""
        return self.memory / self.token


class Waiting:
    """A sequence in the queue. Its sizes are read often, so they are found once.

    Attributes:
        row: the row that is run.
        key: identity of the sequence (`identity`).
        requests: (program, index of the row in its step, row) of every program that needs this
            sequence.
        kind: what rows of a batch share: the head, whether they have cached positions or features,
            a layout, or a context, and what their features need to run together.
        passes: sequences that the device runs for the row.
        length: positions that run.
        past: positions that are read from the KV cache.
        tokens: positions that run, those of the unconditional sequence included; the mean over
            layers with cached features.
        held: positions that the device may cache, in those of a KV cache: all of them if the row
            has one.
        wanted: positions whose logits are read.
        age: number of the oldest program that needs this sequence.
    """

    __slots__ = (
        "row", "key", "requests", "kind", "passes", "length", "past", "tokens", "held", "wanted", "age",
    )  # fmt: skip

    def __init__(self, row: ForwardRow, key: bytes = b"") -> None:
        self.row, self.key = row, key
        self.requests: list[tuple[Any, int, ForwardRow]] = []
        self.kind = (
            row.head_name, row.query_span is not None, row.features is not None, row.layout is not None,
            row.context is not None, "" if row.features is None else row.features.mates,
        )  # fmt: skip
        self.passes = row.passes
        self.length = len(row.run)
        self.past = len(row.tokens) - self.length
        self.tokens = row.computed
        self.held = 0 if row.kv_cache is None else len(row.tokens)
        if row.features is not None:
            self.held = int(self.length * row.features.weight)
        self.wanted = 0
        self.age = sys.maxsize

    def add(self, program: Any, number: int, place: int, row: ForwardRow) -> None:
        """Adds a program that needs this sequence.

        Args:
            number: of the program.
            place: index of the row in its step.
        """
        self.requests.append((program, place, row))
        self.wanted += len(row.wanted) * self.passes
        self.age = min(self.age, number)


@dataclass(frozen=True)
class Limits:
    """Budgets of a batch (see `engine.Engine`).

    Attributes:
        rows: maximum number of rows; None for no limit.
        tokens: maximum number of tokens, padding included.
        wanted: maximum number of positions whose logits are read.
        cached_weight: tokens of the budget that a cached position takes.
        equal_lengths: whether all rows of a batch must have the same length.
    """

    rows: int | None
    tokens: int
    wanted: int
    cached_weight: float
    equal_lengths: bool


class Load(NamedTuple):
    """The size of a batch.

    Attributes:
        rows: sequences.
        wanted: positions whose logits are read.
        longest: positions that run in the longest row.
        held: positions of the row that has the most in the KV cache.
        real: positions that run, without padding.
    """

    rows: int = 0
    wanted: int = 0
    longest: int = 0
    held: int = 0
    real: int = 0

    def plus(self, one: Waiting) -> Load:
        """Returns the load with one more row."""
        return Load(
            self.rows + one.passes,
            self.wanted + one.wanted,
            max(self.longest, one.length),
            max(self.held, one.held),
            self.real + one.tokens,
        )

    @property
    def padded(self) -> int:
        """Positions that run, padding included."""
        return self.rows * self.longest

    def weight(self, cached_weight: float) -> int:
        """Returns the tokens of the budget that the batch takes."""
        return self.padded + int(cached_weight * self.rows * self.held)

    @staticmethod
    def of(batch: Iterable[Waiting]) -> Load:
        """Returns the size of a whole batch."""
        load = Load()
        for one in batch:
            load = load.plus(one)
        return load


def pack(waiting: Iterable[Waiting], limits: Limits) -> list[list[Waiting]]:
    """Returns batches within the limits, longest rows first.

    A row that exceeds the limits by itself runs alone. Rows with cached positions share batches
    only with each other.
    """
    batches: list[list[Waiting]] = []
    load = Load()
    for one in sorted(waiting, key=lambda w: (w.kind, -w.length, -w.past)):
        after = load.plus(one)
        if batches and _fits(batches[-1][0], load, after, one, limits):
            batches[-1].append(one)
            load = after
        else:
            batches.append([one])
            load = Load().plus(one)
    return batches


def _fits(first: Waiting, load: Load, after: Load, one: Waiting, limits: Limits) -> bool:
    """Returns whether a row may join the batch of `first`; `load` grows to `after` if it does."""
    if one.kind != first.kind:
        return False
    plan = one.row.features
    if plan is not None and (not plan.mates or one.length != first.length):
        return False
    if limits.equal_lengths and (one.length, one.past) != (first.length, first.past):
        return False
    return (
        after.weight(limits.cached_weight) <= limits.tokens
        and after.wanted <= limits.wanted
        and (limits.rows is None or after.rows <= max(limits.rows, one.passes))
        # rows with features have equal lengths
        and (plan is not None or not _wasteful(load, after))
    )


def _wasteful(now: Load, then: Load) -> bool:
    """Returns whether one more row would pad a large enough batch too much."""
    return now.padded >= WORTHWHILE and then.padded - then.real > PADDING * then.padded


def identity(row: ForwardRow) -> bytes:
    """Returns the key of a row's sequence: rows with equal keys run once.

    Rows of different programs never share a KV cache, so its identity is a part of the key.
    """
    head = row.head_name.encode() + b"|" + row.tokens.tobytes()
    if row.context is not None:
        head += f"|{row.context} {row.blocks_from}".encode()
    plain = row.unguided is None and row.inputs is None and row.query_span is None
    plain &= row.features is None and row.layout is None
    if plain and not row.time and not row.fed:
        return head  # as most are
    unguided = (
        b"" if row.unguided is None else b"|" + row.unguided.tobytes() + str(row.guidance).encode()
    )
    continuous = b"" if row.inputs is None else b"|" + row.inputs.tobytes()
    time = f"|{row.time}".encode() if row.time else b""
    cached = b"" if row.query_span is None else f"|{id(row.kv_cache)} {row.query_span}".encode()
    fed = f"|{id(row.kept)}".encode() if row.fed else b""
    features = f"|{id(row.features)}".encode() if row.features is not None else b""
    layout = b"" if row.layout is None else b"|" + row.layout.key
    return head + unguided + continuous + time + cached + fed + features + layout
