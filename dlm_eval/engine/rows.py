"""What the engine moves: rows and their outputs, programs and their outcomes, and what it all cost.

A *row* is one sequence for one forward pass. A *program* is the work on one canvas: a generator that yields rows, receives what the model said at
their wanted positions, and returns its answer.

Shape letters: L = positions, W = wanted positions of a row, N = wanted positions of a batch, V = vocabulary.
"""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dlm_eval.errors import SampleError
from dlm_eval.models.denoiser import KeepingOp, LogitsOp
from dlm_eval.models.kv_cache import KVCache

T = TypeVar("T")
Ints = NDArray[np.int64]
Floats = NDArray[np.float32]
Output = tuple[NDArray[Any], ...]  # arrays whose first dimension is W


class Kept:
    """Numbers that a program keeps on the device from one step to the next, by the identity of positions.

    It holds what the last row with this store has read. A failed pass changes nothing.

    Attributes:
        values: [K, ...] the numbers, None before the first row.
    """

    def __init__(self) -> None:
        self._place: dict[int, int] = {}  # identity -> row of `values`
        self.values: Tensor | None = None

    def put(self, ids: Ints, values: Tensor) -> None:
        """Keeps `values` [K, ...] of the positions `ids` [K]."""
        self._place = {int(one): place for place, one in enumerate(ids)}
        self.values = values

    def of(self, ids: Ints) -> tuple[Tensor, Tensor] | None:
        """Returns the numbers [K, ...] of the positions `ids` [K], 0 where there are none, and where there are some [K] bool."""
        if self.values is None:
            return None
        places = torch.tensor([self._place.get(int(one), -1) for one in ids], device=self.values.device)
        known = places >= 0
        found = self.values[places.clamp(min=0)]
        return found.masked_fill(~known.view(-1, *[1] * (found.ndim - 1)), 0), known


@dataclass(frozen=True)
class LogProbs:
    """Reads log p(token) in nats; the payload is the token at each position, [N] long. Log-softmax in float32."""

    def __call__(self, logits: Tensor, payload: Tensor) -> tuple[Tensor, ...]:
        picked = logits.gather(-1, payload[:, None]).squeeze(-1)
        return ((picked - logits.logsumexp(-1)).double(),)


@dataclass(frozen=True, eq=False)
class ForwardRow:
    """One sequence to run.

    Attributes:
        tokens: [L] ids, mask tokens in place.
        wanted: [W] positions to read.
        reader: what to read there.
        payload: [W, ...] the reader's input for each wanted position.
        unguided: [L] ids of the unconditional sequence of classifier-free guidance, or None.
        guidance: factor f of guided logits u + f (c - u), u from `unguided` and c from `tokens`.
        head: method of the model that answers: its logits, or another with the same arguments.
        inputs: [L, C] float32 what goes in besides tokens (embeddings under diffusion), or None.
        time: noise level that the model is told besides (embeddings under diffusion, concrete scores), 0 where it is told none.
        memory: what the program remembers of this sequence, or None. No guidance goes with it.
        live: first of the positions that run, and the one after the last; the others stand in `memory`. None runs all of them.
        keep: positions from the left that `memory` takes once the pass has succeeded.
        kept: what the program keeps on the device; `reader` is then a `KeepingOp`.
        ids: [W] identities of the wanted positions, by which `kept` knows them.
        fed: numbers of each wanted position that go in from `kept`, in front of `inputs` (self-conditioning).
    """

    tokens: Ints
    wanted: Ints
    op: LogitsOp | KeepingOp
    payload: NDArray[Any]
    unguided: Ints | None = None
    guidance: float = 1.0
    head: str = "logits"
    inputs: Floats | None = None
    time: float = 0.0
    kv_cache: KVCache | None = None
    query_span: tuple[int, int] | None = None
    cache_until: int = 0
    kept: Kept | None = None
    ids: Ints | None = None
    fed: int = 0

    @property
    def passes(self) -> int:
        """Sequences that the device runs for this row."""
        return 1 if self.unguided is None else 2

    @property
    def begin(self) -> int:
        """The first position that runs."""
        return 0 if self.query_span is None else self.query_span[0]

    @property
    def run(self) -> Ints:
        """Tokens of the positions that run."""
        return self.tokens if self.query_span is None else self.tokens[slice(*self.query_span)]

    @property
    def places(self) -> Ints:
        """[W] wanted positions, counted from the first that runs."""
        return self.wanted - self.begin


Program = Generator[list[ForwardRow], list[Output], T]


@dataclass(frozen=True)
class Outcome(Generic[T]):
    """A program's answer and what it cost: `rows` its own rows (two under guidance), `seconds` its share of model time."""

    answer: T | SampleError
    rows: int
    seconds: float


@dataclass
class Cost:
    """What the device did: forward calls, rows, tokens with and without padding (remembered ones are not run, so not counted), model seconds."""

    forwards: int = 0
    rows: int = 0
    tokens: int = 0
    padded_tokens: int = 0
    seconds: float = 0.0

    def __add__(self, other: Cost) -> Cost:
        return Cost(*(a + b for a, b in zip(vars(self).values(), vars(other).values(), strict=True)))

    def __sub__(self, other: Cost) -> Cost:
        return Cost(*(a - b for a, b in zip(vars(self).values(), vars(other).values(), strict=True)))
