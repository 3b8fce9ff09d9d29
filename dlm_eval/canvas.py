"""The canvas: a sequence of tokens with open positions. Every request becomes one.

Shape letters: L = positions of a canvas, n = open positions.
"""

from __future__ import annotations

import math
from array import array
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Generic, TypeVar, overload

from dlm_eval.errors import UserError
from dlm_eval.uncertainty import Error, half_width

T = TypeVar("T")
FLAGS = b"\0" + b"\1" * 255  # byte -> whether it is not 0
BLANK = -1  # open position without a known token: it can be filled, but not scored


class PackedTuple(Generic[T]):
    """A field that reads as a tuple, but is stored compactly (a tuple takes 8 bytes per value)."""

    def __init__(
        self,
        pack: Callable[[Iterable[T]], Sequence[Any]],
        unpack: Callable[[Iterable[Any]], tuple[T, ...]],
    ) -> None:
        self._pack, self._unpack = pack, unpack

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = name

    @overload
    def __get__(self, canvas: None, owner: type) -> tuple[T, ...]: ...
    @overload
    def __get__(self, canvas: object, owner: type) -> tuple[T, ...]: ...
    def __get__(self, canvas: object | None, owner: type) -> tuple[T, ...]:
        if canvas is None:
            raise AttributeError(self._name)  # the field has no default
        packed = vars(canvas)[self._name]
        return packed if isinstance(packed, tuple) else self._unpack(packed)

    def __set__(self, canvas: object, values: Iterable[T]) -> None:
        values = values if isinstance(values, (array, bytes)) else tuple(values)
        try:
            vars(canvas)[self._name] = self._pack(values)
        # not valid ids; an error is raised when they are used
        except (OverflowError, TypeError):
            vars(canvas)[self._name] = values


def _int32(values: Iterable[int]) -> Sequence[int]:
    return array("i", values)


def _bytes(values: Iterable[bool]) -> Sequence[int]:
    return values.translate(FLAGS) if isinstance(values, bytes) else bytes(map(bool, values))


def _flags(packed: Iterable[Any]) -> tuple[bool, ...]:
    return tuple(map(bool, packed))


def _check_length(length: int) -> None:
    """Raises UserError for a negative length of a hole."""
    if length < 0:
        raise UserError(f"canvas length {length} is not allowed; it must be 0 or more")


@dataclass(frozen=True)
class Canvas:
    """A sequence of token ids in which some positions are open.

    Attributes:
        tokens: [L] ids. At open positions: the token to score, or `BLANK`.
        open: [L] bool, true at positions to score or fill.
        key: identity of the question for random numbers. Canvases with the same key share their
            noise (the choices of a question). An empty key means the content of the canvas.
        draft: whether filling begins with the tokens at open positions, which a strategy that
            revises tokens (`Strategy.revises`) then keeps, replaces or remasks. A `BLANK` is open
            from the beginning. Without it filling ignores these tokens.
    """

    tokens: PackedTuple[int] = PackedTuple(_int32, tuple)  # four bytes per position
    open: PackedTuple[bool] = PackedTuple(_bytes, _flags)  # one byte
    key: str = ""
    draft: bool = False

    def __post_init__(self) -> None:
        flags = len(vars(self)["open"])
        if len(self) != flags:
            raise UserError(
                f"canvas: {len(self)} tokens but {flags} open flags; both must be L long"
            )

    def __len__(self) -> int:
        return len(vars(self)["tokens"])

    def __hash__(self) -> int:
        packed = vars(self)
        return hash((self.key, tuple(packed["open"][-8:]), tuple(packed["tokens"][-32:])))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Canvas) and vars(self) == vars(other)

    @property
    def open_flags(self) -> bytes:
        """[L] `open` as bytes of 0 and 1."""
        return bytes(vars(self)["open"])

    @property
    def open_positions(self) -> list[int]:
        """The n open positions, ascending."""
        return [i for i, is_open in enumerate(self.open) if is_open]

    @property
    def is_completion(self) -> bool:
        """Whether no given token follows an open position."""
        return b"\1\0" not in self.open_flags

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
    def infill(
        cls,
        prefix: Sequence[int],
        middle: Sequence[int] | int,
        suffix: Sequence[int],
        key: str = "",
        draft: bool = False,
    ) -> Canvas:
        """Returns the canvas with a hole between `prefix` and `suffix`.

        Args:
            prefix: ids before the hole.
            middle: ids to score, the length of the hole to fill, or the ids of a draft.
            suffix: ids after the hole.
            key: identity for random numbers.
            draft: whether filling begins with the ids of `middle` and revises them.
        """
        if isinstance(middle, int):
            _check_length(middle)
            middle = [BLANK] * middle
        tokens = (*prefix, *middle, *suffix)
        is_open = bytes(len(prefix)) + b"\1" * len(middle) + bytes(len(suffix))
        return cls(tokens, is_open, key, draft)  # type: ignore[arg-type]  # flags in packed form

    @classmethod
    def holes(
        cls,
        prefix: Sequence[int],
        length: int,
        between: Sequence[Sequence[int]],
        suffix: Sequence[int],
        key: str = "",
        drafts: Sequence[Sequence[int]] = (),
    ) -> Canvas:
        """Returns the canvas with several holes of `length` open positions each.

        Args:
            prefix: ids before the first hole.
            length: of each hole.
            between: ids between one hole and the next, one list for each hole but the last.
            suffix: ids after the last hole.
            key: identity for random numbers.
            drafts: ids that each hole begins with, at most `length`; none if holes begin open.

        Raises:
            UserError: `length` is negative, there are not as many drafts as holes, or one is longer
                than its hole.
        """
        _check_length(length)
        if drafts and len(drafts) != len(between) + 1:
            raise UserError(
                f"canvas drafts '{len(drafts)}' is not allowed; the canvas has {len(between) + 1} "
                "holes, each with its draft"
            )
        tokens, is_open = [*prefix], bytes(len(prefix))
        begun = drafts or [()] * (len(between) + 1)
        for draft, given in zip(begun, (*between, suffix), strict=True):
            tokens += [*draft, *[BLANK] * (length - len(draft)), *given]
            is_open += b"\1" * length + bytes(len(given))
        return cls(tokens, is_open, key, bool(drafts))  # type: ignore[arg-type]  # packed flags


@dataclass(frozen=True)
class Score:
    """The log-likelihood of a canvas' open tokens, given the rest.

    Attributes:
        logprob: nats; `kind` says what it is.
        stderr: Monte Carlo standard error of `logprob`, nats. 0.0 if nothing was sampled; None if
            it is unknown.
        kind: 'exact' (a likelihood), 'lower bound', 'upper bound' or 'score' (neither).
        rows: number of rows of this canvas, including those that it shares with others.
        greedy: whether the model itself would have written the target, in order of confidence; None
            if that was not requested.
        estimator: name of the estimator that was used; under `auto`, of the one that it chose.
        lower: best known lower bound on the log-likelihood, nats, or None. If it has a standard
            error, it is an estimate.
        upper: best known upper bound, likewise.
        seconds: this canvas' share of model time.
        freedom: degrees of freedom of `stderr` or `rough_stderr`.
        rough_stderr: standard error from two or three draws if `stderr` is None, else None. It is
            useless alone, but its square is unbiased, so a sum of many is useful.
        least_stderr: the smallest standard deviation that `interval` assumes, nats.
        lower_stderr: standard error of `lower`, nats; None if unknown or if there is no bound.
        upper_stderr: standard error of `upper`, likewise.
        echo: what determines the correlation of errors between choices of a question
            (likelihood/mc_error.py); empty if there is no error.
        bracket: 95 % bounds of the log-likelihood, nats: the low end of `lower` and the high end of
            `upper`, None if unknown.
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
    least_stderr: float = 0.0

    @property
    def error(self) -> Error:
        """The error of `logprob`."""
        return Error(self.stderr, self.freedom, self.rough_stderr, self.least_stderr)

    def scaled(self, factor: float) -> Score:
        """Returns the score with all nats multiplied by `factor` (1/n: per token)."""
        if factor == 1:
            return self

        def times(value: float | None) -> float | None:
            return None if value is None else value * factor

        return replace(
            self,
            logprob=self.logprob * factor,
            least_stderr=self.least_stderr * factor,
            echo=tuple(value * factor for value in self.echo),
            bracket=(times(self.bracket[0]), times(self.bracket[1])),
            stderr=times(self.stderr),
            rough_stderr=times(self.rough_stderr),
            lower=times(self.lower),
            lower_stderr=times(self.lower_stderr),
            upper=times(self.upper),
            upper_stderr=times(self.upper_stderr),
        )

    @property
    def interval(self) -> tuple[float, float] | None:
        """The 95 % Student interval of the value that `logprob` estimates, nats.

        It is a single point if nothing was sampled, and None if the error is unknown.
        """
        half = half_width(self.error)
        return None if half is None else (self.logprob - half, self.logprob + half)


@dataclass(frozen=True)
class Filling:
    """The tokens written at a canvas' open positions.

    Attributes:
        tokens: [n] ids from left to right; `BLANK` at invisible positions that an early exit left
            open. If the model predicts the length of the hole (`length_beam`), n is that length.
        forwards: rows of this canvas that the model ran (two per step under guidance).
        steps: number of steps that committed at least one token.
        confidence: [n] confidence with which each token was committed (nan if `BLANK`). The journal
            stores four significant digits.
        step: [n] step (from 0) at which each token was last committed, -1 if `BLANK`. Under
            strategies of masked models, step 0 of a canvas with a draft is the draft.
        seconds: this canvas' share of model time.
        exit: why decoding ended: 'full', 'eos', 'stop' or the name of a halting criterion.
        step_texts: what the text would have been after each step, packed (`decoding.step_texts`) into
            32 bits a number; empty unless `step_texts` is set.
    """

    tokens: tuple[int, ...]
    forwards: int
    steps: int
    confidence: tuple[float, ...] = ()
    step: tuple[int, ...] = ()
    seconds: float = 0.0
    exit: str = "full"
    step_texts: Sequence[int] = ()


class FilledText(str):
    """The text of a filling, with the number of steps that wrote it (`Filling.steps`).

    Metrics of lm-eval's tasks read texts only; those of sampling also read the steps, and a vote
    over steps the text of each (`step_texts`).
    """

    steps: int
    step_texts: Callable[[], Sequence[str]]

    @classmethod
    def of(
        cls, text: str, filling: Filling, step_texts: Callable[[], Sequence[str]] = tuple
    ) -> FilledText:
        """Returns `text` with the steps of its filling.

        Args:
            text: what the filling reads.
            filling: what the text is of.
            step_texts: returns the text of each step that is kept. They are decoded when they are
                read, since those of all documents take much more memory than their tokens.
        """
        filled = cls(text)
        filled.steps, filled.step_texts = filling.steps, step_texts
        return filled


def four_digits(value: float) -> float:
    """Returns a number rounded to four significant digits."""
    return float(f"{value:.4g}")
