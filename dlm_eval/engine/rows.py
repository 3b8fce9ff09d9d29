"""Forward rows and their outputs, programs and their outcomes, and costs.

A *row* is one sequence for one forward pass. A *program* is the work on one canvas: a generator
that yields rows, receives their outputs, and returns its answer.

Shape letters: L = positions, W = wanted positions of a row, N = wanted positions of a batch, V =
vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from functools import cached_property
from hashlib import blake2b
from typing import Any, Generic, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dlm_eval.errors import SampleError
from dlm_eval.models.denoiser import KeepingOp, LogitsOp
from dlm_eval.models.feature_cache import Plan
from dlm_eval.models.kv_cache import KVCache

T = TypeVar("T")
Ints = NDArray[np.int64]
Floats = NDArray[np.float32]
Bools = NDArray[np.bool_]
Output = tuple[NDArray[Any], ...]  # arrays whose first dimension is W


class Kept:
    """Numbers that a program keeps on the device from one step to the next, keyed by position id.

    Each successful forward pass of a row replaces them. A failed pass changes nothing.

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
        """Returns the numbers [K, ...] of the positions `ids` [K], and whether each is known [K].

        Unknown numbers are 0. Returns None before the first row.
        """
        if self.values is None:
            return None
        places = torch.tensor(
            [self._place.get(int(one), -1) for one in ids], device=self.values.device
        )
        known = places >= 0
        found = self.values[places.clamp(min=0)]
        return found.masked_fill(~known.view(-1, *[1] * (found.ndim - 1)), 0), known


@dataclass(frozen=True)
class LogProbs:
    """The LogitsOp that returns log p(token) in nats, by a log-softmax in float32.

    The payload [N] long holds the tokens.
    """

    def __call__(self, logits: Tensor, payload: Tensor) -> tuple[Tensor, ...]:
        picked = logits.gather(-1, payload[:, None]).squeeze(-1)
        return ((picked - logits.logsumexp(-1)).double(),)


@dataclass(frozen=True, eq=False)
class Layout:
    """Where the tokens of a row stand in the text, and which of them each one sees.

    Rows without one hold the text from its first position on, and the model says who sees whom.

    Attributes:
        position_ids: [L] positions in the text, from 0. Several tokens may stand at the same one.
        visible: [L, L] bool, true if the first one sees the second. Each sees at least one.
    """

    position_ids: Ints
    visible: Bools

    @cached_property
    def key(self) -> bytes:
        """Digest of the content."""
        return blake2b(self.position_ids.tobytes() + self.visible.tobytes()).digest()


@dataclass(frozen=True, eq=False)
class ForwardRow:
    """One sequence for one forward pass.

    Attributes:
        tokens: [L] ids, mask tokens in place.
        wanted: [W] positions whose logits are read.
        op: computes the outputs from these logits.
        payload: [W, ...] input of `op` for each wanted position.
        unguided: [L] ids of the unconditional sequence of classifier-free guidance, or None.
        guidance: factor f of guided logits u + f (c - u), u from `unguided` and c from `tokens`.
        head: the method of the model to call, with the arguments of `logits`; None for `logits`.
        inputs: [L, C] float32 inputs besides the tokens (embeddings that are diffused), or None.
        time: noise level passed to the model (embedding diffusion, concrete scores); 0 for none.
        kv_cache: keys and values of this sequence, or None. Guidance excludes it.
        query_span: begin and end of the positions that run; `kv_cache` has the others. None runs
            all positions.
        cache_until: number of positions, from the left, that `kv_cache` takes over after the pass
            has succeeded.
        features: what is computed and what a feature cache has, or None. Rows run together as
            `Plan.mates` says, and a cache is replaced after the pass has succeeded.
        kept: numbers that the program keeps on the device; `op` is then a `KeepingOp`.
        ids: [W] identities of the wanted positions, the keys of `kept`; None without it.
        fed: number of inputs per wanted position that come from `kept` and precede `inputs`
            (self-conditioning).
        context: number of positions from the left that every position sees, for models that are
            told (`models.denoiser.ReadsContext`); None for others.
        blocks_from: a position at which a block begins, for models that are told the context.
        layout: places and visibility of the tokens, for models that take them
            (`models.denoiser.LayoutDenoiser`); None for a plain text. It excludes a cache, a head,
            inputs and a noise level.
    """

    tokens: Ints
    wanted: Ints
    op: LogitsOp | KeepingOp
    payload: NDArray[Any]
    unguided: Ints | None = None
    guidance: float = 1.0
    head: Callable[..., Tensor] | None = None
    inputs: Floats | None = None
    time: float = 0.0
    kv_cache: KVCache | None = None
    query_span: tuple[int, int] | None = None
    cache_until: int = 0
    features: Plan | None = None
    kept: Kept | None = None
    ids: Ints | None = None
    fed: int = 0
    layout: Layout | None = None
    context: int | None = None
    blocks_from: int = 0

    @property
    def head_name(self) -> str:
        """Name of the method of the model."""
        return "logits" if self.head is None else self.head.__name__

    @property
    def passes(self) -> int:
        """Sequences that the device runs for this row."""
        return 1 if self.unguided is None else 2

    @property
    def computed(self) -> int:
        """Positions that the device runs for this row; the mean over layers with cached features."""
        length = len(self.run)
        return self.passes * length if self.features is None else self.features.computed(length)

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
        return self.wanted if self.query_span is None else self.wanted - self.query_span[0]


Program = Generator[list[ForwardRow], list[Output], T]


@dataclass(frozen=True)
class Outcome(Generic[T]):
    """A program's answer and cost.

    Attributes:
        answer: what it returned, or why it failed.
        rows: its rows, two per step under guidance.
        seconds: its share of model time.
        computed: positions that its rows ran.
    """

    answer: T | SampleError
    rows: int
    seconds: float
    computed: int = 0


@dataclass
class Cost:
    """What the device did: forward calls, rows, tokens without and with padding, and model seconds.

    Cached positions are not run and not counted.
    """

    forwards: int = 0
    rows: int = 0
    tokens: int = 0
    padded_tokens: int = 0
    seconds: float = 0.0

    def __add__(self, other: Cost) -> Cost:
        return Cost(
            *(a + b for a, b in zip(vars(self).values(), vars(other).values(), strict=True))
        )

    def __sub__(self, other: Cost) -> Cost:
        return Cost(
            *(a - b for a, b in zip(vars(self).values(), vars(other).values(), strict=True))
        )


def together(programs: Sequence[Program[T]]) -> Program[list[T]]:
    """Runs `programs` at the same time, so that their rows share batches; returns their answers.

    An error in one program ends all.
    """
    answers: dict[int, T] = {}
    pending: dict[int, list[ForwardRow]] = {}

    def advance(number: int, outputs: list[Output] | None) -> None:
        try:
            pending[number] = programs[number].send(outputs)  # type: ignore[arg-type]
        except StopIteration as stop:
            answers[number] = stop.value
            pending.pop(number, None)

    for number in range(len(programs)):
        advance(number, None)
    while pending:
        asked = dict(pending)
        outputs = yield [row for rows in asked.values() for row in rows]
        begin = 0
        for number, rows in asked.items():
            advance(number, outputs[begin : begin + len(rows)])
            begin += len(rows)
    return [answers[number] for number in range(len(programs))]
