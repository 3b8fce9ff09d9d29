"""A step: what a strategy sees of it, reads and changes, and what the trace hook sees
(`TraceStep`).

A strategy gets a `StepState`, asks the model a `Query` and returns an `Edit`.

Shape letters: W = positions that a step considers, K = positions that it changes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from dlm_eval.engine import Output
from dlm_eval.models.denoiser import KeepingOp, LogitsOp
from dlm_eval.rng import Noise

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]
NONE: Ints = np.empty(0, dtype=np.int64)
NO_NUMBERS: Floats = np.empty(0)


@dataclass(frozen=True)
class StepState:
    """What a strategy sees of a step.

    Attributes:
        step: number of the step in this block, from 0.
        steps: number of steps of this block.
        global_step: number of the step in the whole canvas, from 0; it numbers the random draws.
        quota: number of tokens to write by the schedule, 0 if there is none.
        schedule: name of the schedule, or None.
        eps: end of the 'timestep' grid.
        position: [W] indices in the canvas, ascending.
        ids: [W] identities of these positions.
        open: [W] whether the position is still open.
        noise: random streams of the request.
        current: [W] the token at the position now; the mask token if it is open.
        old_logprob: [W] log-probability with which that token was written (nats).
        token: [W] candidates; empty if the strategy does not read them.
        score: [W] the model's confidence in its candidate, by the strategy's measure (`reads`).
        more: further outputs of the strategy's own op, each [W, ...].
    """

    step: int
    steps: int
    global_step: int
    quota: int
    schedule: str | None
    eps: float
    position: Ints
    ids: Ints
    open: Bools
    noise: Noise
    current: Ints
    old_logprob: Floats
    token: Ints = field(default_factory=lambda: NONE)
    score: Floats = field(default_factory=lambda: NO_NUMBERS)
    more: Output = ()

    def with_candidates(self, token: Ints, score: Floats, more: Output) -> StepState:
        """Returns the step after its candidates are read.

        It is made at every step of every canvas, and `dataclasses.replace` takes 10 times as long.
        """
        made = object.__new__(type(self))
        vars(made).update(vars(self), token=token, score=score, more=more)
        return made

    def uniform(self, stream: str) -> Floats:
        """Returns [W] uniform numbers in [0, 1), one for each (stream, step, identity)."""
        return self.noise.uniforms(stream, self.global_step, int(self.ids.max()) + 1)[self.ids]

    @property
    def left_open(self) -> int:
        """Number of positions that the schedule leaves open."""
        return int(self.open.sum()) - self.quota

    @property
    def nowhere(self) -> Bools:
        """[W] bool, all false."""
        return np.zeros(len(self.position), dtype=bool)


@dataclass(frozen=True)
class Query:
    """What a step reads off the model.

    Attributes:
        op: computes the outputs from logits.
        head: the method of the model that answers; None for `logits`.
        time: noise level passed to the model; 0 for none.
        log_chance: log-probability that a position is written, if known before the model runs
            (nats).
        keeps: whether the last output of `op` stays on the device for its next call (`KeepingOp`).
    """

    op: LogitsOp | KeepingOp
    head: Callable[..., Tensor] | None = None
    time: float = 0.0
    log_chance: float | None = None
    keeps: bool = False


@dataclass(frozen=True)
class Edit:
    """What a step changes. Positions are indices before the step.

    Attributes:
        commit: [K] positions of the block that get a token.
        token: [K] the tokens.
        logprob: [K] log-probability of each token (nats).
        erase: positions of the block that become masks again.
        insert: positions of the block before which a mask is inserted, ascending. A position may be
            given several times; the one after the last position appends to the block.
        inserted: tokens of the inserted positions, in the order of `insert`; empty if they are masks.
            They count as written with certainty.
        delete: positions of the block that are removed.
    """

    commit: Ints = field(default_factory=lambda: NONE)
    token: Ints = field(default_factory=lambda: NONE)
    logprob: Floats = field(default_factory=lambda: NO_NUMBERS)
    erase: Ints = field(default_factory=lambda: NONE)
    insert: Ints = field(default_factory=lambda: NONE)
    inserted: Ints = field(default_factory=lambda: NONE)
    delete: Ints = field(default_factory=lambda: NONE)

    @property
    def changes_nothing(self) -> bool:
        """Whether the canvas stays as it is."""
        return not (len(self.commit) or len(self.erase) or self.resizes)

    @property
    def resizes(self) -> bool:
        """Whether the step inserts or deletes positions."""
        return bool(len(self.insert) or len(self.delete))


# -- as the trace hook sees it ---------------------------------------------------------------------


@dataclass(frozen=True)
class TraceStep:
    """The canvas after one step.

    Positions have identities: the positions of the original canvas are numbered from 0, and each
    inserted position gets the next number. Identities equal positions unless a strategy changes the
    length of the canvas.

    Attributes:
        step: number of the step, from 0 (steps that change nothing are not traced).
        tokens: [L] ids from left to right, the mask token if open.
        open: [L] bool.
        written: [K] identities of the positions written in this step.
        confidence: [K] probability of each token when it was written.
        erased: identities of the positions that became masks again in this step.
        positions: [L] identity of each position, from left to right; empty if they are 0 to L - 1.
    """

    step: int
    tokens: tuple[int, ...]
    open: tuple[bool, ...]
    written: tuple[int, ...]
    confidence: tuple[float, ...]
    erased: tuple[int, ...] = ()
    positions: tuple[int, ...] = ()


Trace = Callable[[TraceStep], None]
