"""The one object that every question becomes: a text with open positions.

Shape letters: L = positions of a canvas, n = open positions.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from dlm_eval.errors import UserError
from dlm_eval.uncertainty import Error, half_width

BLANK = -1  # content of an open position whose truth is unknown: it can be filled, not scored


@dataclass(frozen=True)
class Canvas:
    """A sequence of token ids in which some positions are open.

    Attributes:
        tokens: [L] ids. At open positions: the truth to score, or `BLANK` where there is none.
        open: [L] bool, true where a token is to be scored or filled.
        key: identity of the question for random numbers. Canvases with one key share their noise (the choices of a
            question); an empty key means that the canvas' own content is its identity.
    """

    tokens: tuple[int, ...]
    open: tuple[bool, ...]
    key: str = ""

    def __post_init__(self) -> None:
        if len(self.tokens) != len(self.open):
            raise UserError(f"canvas: {len(self.tokens)} tokens but {len(self.open)} open flags; both must be L long")

    def __len__(self) -> int:
        return len(self.tokens)

    @property
    def open_positions(self) -> list[int]:
        """The n open positions, ascending."""
        return [i for i, is_open in enumerate(self.open) if is_open]

    @property
    def target(self) -> list[int]:
        """The n tokens at the open positions."""
        return [token for token, is_open in zip(self.tokens, self.open, strict=True) if is_open]

    @classmethod
    def continuation(cls, context: Sequence[int], target: Sequence[int], key: str = "") -> Canvas:
        """Returns the canvas that scores `target` after `context`."""
        return cls.infill(context, target, (), key)

    @classmethod
    def completion(cls, prompt: Sequence[int], length: int, key: str = "") -> Canvas:
        """Returns the canvas with `length` open positions after `prompt`."""
        return cls.infill(prompt, length, (), key)

    @classmethod
    def infill(cls, prefix: Sequence[int], middle: Sequence[int] | int, suffix: Sequence[int], key: str = "") -> Canvas:
        """Returns the canvas whose hole lies between `prefix` and `suffix`.

        Args:
            prefix: ids before the hole.
            middle: ids of the truth (to score), or the hole's length (to fill).
            suffix: ids after the hole.
            key: identity for random numbers.
        """
        if isinstance(middle, int):
            if middle < 0:
                raise UserError(f"canvas length {middle} is not allowed; it must be 0 or more")
            middle = [BLANK] * middle
        tokens = (*prefix, *middle, *suffix)
        is_open = (False,) * len(prefix) + (True,) * len(middle) + (False,) * len(suffix)
        return cls(tuple(int(t) for t in tokens), is_open, key)


@dataclass(frozen=True)
class Score:
    """How likely a canvas' open tokens are, given the rest.

    Attributes:
        logprob: nats; what `kind` says it is.
        stderr: Monte Carlo standard error of `logprob`: an estimate of its standard deviation, nats; 0.0 where nothing was sampled, None where the
            draws do not tell it.
        kind: 'exact' (a likelihood), 'lower bound', 'upper bound' or 'score' (neither).
        rows: rows that this canvas asked the model for (shared rows are counted by each canvas that needs them).
        greedy: whether the target is what the model itself would have written, position by position in confidence
            order; None where it was not asked for.
        estimator: name of the estimator that was used (what `auto` chose).
        lower: best known lower bound on the log-likelihood, nats, or None; an estimate of one where it has a standard error.
        upper: likewise the best known upper bound.
        seconds: model seconds of this canvas' share of its batches.
        freedom: degrees of freedom of `stderr`, or of `rough_stderr`.
        rough_stderr: where `stderr` is None, the same from two or three draws: useless alone, unbiased in sums of squares; None if there is none.
        lower_stderr: standard error of `lower`, nats; None where it is not known, or there is no bound.
        upper_stderr: likewise of `upper`.
        echo: what the errors of other choices of the question are compared with (likelihood/mc_error.py); empty where there is no error.
        bracket: what holds the log-likelihood at 95 %: the low end of `lower` and the high end of `upper`, nats; None for an end that is not known.
    """

    logprob: float
    stderr: float | None
    kind: str
    rows: int
    greedy: bool | None = None
    estimator: str = ""
    lower: float | None = None
    upper: float | None = None
    seconds: float = 0.0
    freedom: float = math.inf
    lower_stderr: float | None = None
    upper_stderr: float | None = None
    bracket: tuple[float | None, float | None] = (None, None)
    echo: tuple[float, ...] = ()
    rough_stderr: float | None = None

    @property
    def error(self) -> Error:
        """The error of `logprob`."""
        return Error(self.stderr, self.freedom, self.rough_stderr)

    @property
    def interval(self) -> tuple[float, float] | None:
        """The 95 % interval of what `logprob` estimates, nats: Student's; one point where nothing was sampled, None where the error is not known."""
        half = half_width(self.error)
        return None if half is None else (self.logprob - half, self.logprob + half)


@dataclass(frozen=True)
class Filling:
    """What was written into a canvas' open positions.

    Attributes:
        tokens: [n] ids in position order; `BLANK` where an exact early exit left invisible positions open. Where the model
            chose the length of the hole (`length_beam`), n is what it chose.
        forwards: rows of this canvas that the model ran (two per step under guidance).
        steps: steps in which at least one token was committed.
        confidence: [n] confidence with which each token was committed (nan where `BLANK`).
        step: [n] step (from 0) at which each token was committed last, -1 where `BLANK`.
        seconds: model seconds of this canvas' share of its batches.
        exit: why decoding ended: 'full', 'eos', 'stop' or the name of a halting rule.
    """

    tokens: tuple[int, ...]
    forwards: int
    steps: int
    confidence: tuple[float, ...] = ()
    step: tuple[int, ...] = ()
    seconds: float = 0.0
    exit: str = "full"
