"""The base classes of estimators, and how to parse and describe one.

An estimator is a frozen dataclass. Its fields are its settings. Its `estimate` method estimates the
likelihood of a target.

To add one, write a subclass with a name; docs/guides/adding-an-estimator.md has an example. The subclass
registers itself. Neither this module nor those of the estimators import torch, so that the command
line lists estimators quickly.

Shape letters: n = open tokens of a canvas.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from inspect import cleandoc
from typing import TYPE_CHECKING, Any, ClassVar

from dlm_eval.canvas import Canvas, Score
from dlm_eval.errors import SampleError, UserError
from dlm_eval.options import (
    check_option_names,
    check_options,
    describe_options,
    option,
    option_names,
    parse_options,
)
from dlm_eval.plugins import Registry, source_digest
from dlm_eval.settings import parse_pairs
from dlm_eval.uncertainty import EXACT, UNKNOWN, Error

if TYPE_CHECKING:
    from typing import Self

    from dlm_eval.engine.rows import Program
    from dlm_eval.likelihood.target import Target
    from dlm_eval.models.denoiser import Denoiser
    from dlm_eval.rng import Noise

KINDS = ("exact", "lower bound", "upper bound", "score")  # a sum has the last kind of its parts
MAX_FORWARDS = 128  # default budget
MOST_FORWARDS = 2**20  # all patterns of a text are in memory at once
ERROR_RATE = 0.05  # of early stopping of a question under `precision`

ESTIMATORS: Registry[Estimator] = Registry(
    "estimator",
    "dlm_eval.estimators",
    modules=[
        f"dlm_eval.likelihood.{name}"
        for name in ("auto", "exact", "chains", "masks", "duel", "authors", "uniform", "esolm")
    ],
)


@dataclass(frozen=True)
class Bounds:
    """Bounds on a log-likelihood with their errors, and its 95 % interval (`bracket`).

    All are in nats. None means that there is no such bound.
    """

    lower: float
    lower_error: Error
    upper: float | None
    upper_error: Error
    bracket: tuple[float | None, float | None]

    @classmethod
    def of(cls, score: Score) -> Bounds:
        """Returns the bounds of a score without noise."""
        assert score.lower is not None
        return cls(score.lower, EXACT, score.upper, EXACT, score.bracket)


@dataclass(frozen=True, kw_only=True)
class Estimator:
    """A way to estimate the likelihood of the open tokens of a canvas.

    A subclass declares its settings with `option`, sets `kind` and `cost`, and defines `estimate`.

    Attributes:
        name: its name for `--estimator`.
        kind: kind of its scores: 'exact', 'lower bound', 'upper bound' or 'score'.
        cost: number of forwards for n open tokens, in words.
        per_token: whether its scores are means per token, and not sums.
        of_all: whether its scores are log-probabilities of all tokens together, as perplexities
            need them.
        in_order: whether each token is read given all tokens before it and none after it, as models
            need that predict the next tokens (`models.denoiser.NextTokens`).
    """

    name: ClassVar[str] = ""
    kind: ClassVar[str] = "score"
    cost: ClassVar[str] = ""
    per_token: ClassVar[bool] = False
    of_all: ClassVar[bool] = True
    in_order: ClassVar[bool] = False

    def __init_subclass__(cls, name: str = "", **rest: Any) -> None:
        super().__init_subclass__(**rest)
        if name:
            check_option_names(cls, Estimator, f"estimator {name}")
            cls.name = name
            if cls.kind not in KINDS:
                raise UserError(
                    f"estimator {name}: kind '{cls.kind}' is not allowed; it must be one of "
                    f"{', '.join(KINDS)}"
                )
            if cls.estimate is Estimator.estimate:
                raise UserError(f"estimator {name} has no method estimate(self, target, noise)")
            ESTIMATORS.add(name, cls)

    def __post_init__(self) -> None:
        check_options(self, f"estimator {self.name}")

    # -- what a subclass defines -------------------------------------------------------------------

    def estimate(self, target: Target, noise: Noise) -> Program[Score]:
        """Returns the program that estimates the likelihood of `target`.

        Args:
            target: n tokens, at least one. `yield from target.measure(hidden, read)` runs forwards
                that hide some of them.
            noise: random numbers of the canvas. The choices of a question share them.
        """
        raise NotImplementedError

    def check_model(self, model: Denoiser) -> None:
        """Raises UserError if this estimator does not support `model`.

        By default, models that mask tokens are supported.
        """
        if next_tokens(model) is not None and not self.in_order:
            raise UserError(
                f"estimator '{self.name}' hides tokens before known ones, but {model.name} predicts "
                "the next tokens of a text; use auto or left_to_right"
            )
        if model.process == "absorbing":
            return
        if is_told_noise(model):
            raise UserError(
                f"estimator '{self.name}' hides tokens behind a mask, which {model.name} does not "
                "have; use auto, uniform or duo"
            )
        raise UserError(
            f"{model.name}: no likelihood estimator is known for a '{model.process}' process; "
            "only models that mask tokens ('absorbing') and uniform-state models that are told the "
            "noise level can be scored"
        )

    def for_process(self, model: Denoiser) -> Estimator:
        """Returns the estimator that is used for the process of `model`: itself (`auto` has another
        one for uniform noise).

        Raises:
            UserError: a setting has no meaning for that process.
        """
        return self

    def prepare(self, model: Denoiser, canvas: Canvas) -> Canvas:
        """Returns the canvas that is scored in place of `canvas`."""
        return canvas

    # -- what other code calls ---------------------------------------------------------------------

    @property
    def guidance(self) -> float:
        """Weight w of classifier-free guidance; 0 for none."""
        return 0.0

    @property
    def error_rate(self) -> float | None:
        """The error probability at which sampling of a question stops.

        None if all choices get the whole budget.
        """
        return None

    @property
    def needs_question(self) -> bool:
        """Whether it needs all choices of a question at once, to stop when the best is known."""
        return False

    def for_model(self, checkpoint: str, family: str) -> Self:
        """Returns the estimator for a model: the same for all (`presets.Authors` has others)."""
        return self

    def for_task(self, task: str) -> Self:
        """Returns the estimator for a task: the same for all."""
        return self

    def preset_of(self, task: str) -> str | None:
        """Returns the preset by which it was chosen for a task: none."""
        return None

    def without_question(self) -> Self:
        """Returns the estimator for a text that is not a choice of a question."""
        return self

    def enough(self, n: int) -> float | None:
        """Returns the standard error (nats) at which sampling of a text of n tokens stops.

        None if it gets the whole budget.
        """
        return None

    def share(self, blocks: int) -> Self:
        """Returns the estimator of one of `blocks` blocks of a canvas.

        It has an equal share of the forwards and does not stop early.
        """
        return self

    def budget(self, n: int) -> int:
        """Returns the maximum number of forwards for n open tokens."""
        return min(MAX_FORWARDS, (1 << min(n, 20)) - 1)

    def identity(self) -> dict[str, Any]:
        """Returns all that can change an answer: name, settings, source digest of a plug-in."""
        source = source_digest(type(self))
        return {
            "name": self.name,
            **asdict(self),
            **({} if source is None else {"source_sha256": source}),
        }

    def score(
        self,
        logprob: float,
        error: Error = UNKNOWN,
        *,
        kind: str | None = None,
        bounds: Bounds | None = None,
        echo: tuple[float, ...] = (),
    ) -> Score:
        """Returns the score of an estimate. Under guidance its kind is 'score', not a bound.

        Args:
            logprob: the estimate, nats.
            error: its Monte Carlo error.
            kind: kind of this score, if it differs from that of the class.
            bounds: bounds on the log-likelihood; by default those that follow from the kind.
            echo: determines correlations with the errors of other choices (mc_error.py).

        Raises:
            SampleError: the estimate is NaN.
        """
        if math.isnan(logprob):
            raise SampleError(f"estimator {self.name}: the estimate is NaN")
        kind = kind or self.kind
        plain = Score(
            logprob,
            error.stderr,
            kind,
            0,
            estimator=self.name,
            freedom=error.freedom,
            echo=echo,
            rough_stderr=error.rough,
            least_stderr=error.least,
        )
        if self.guidance:
            return replace(plain, kind="score")
        if bounds is None and kind not in ("lower bound", "exact"):
            return plain
        if bounds is None:
            exactly = kind == "exact"
            low, high = plain.interval or (None, None)
            upper, upper_error = (logprob, error) if exactly else (None, UNKNOWN)
            bounds = Bounds(logprob, error, upper, upper_error, (low, high if exactly else None))
        return replace(
            plain,
            lower=bounds.lower,
            lower_stderr=bounds.lower_error.stderr,
            upper=bounds.upper,
            upper_stderr=bounds.upper_error.stderr,
            bracket=bounds.bracket,
        )


def next_tokens(model: Denoiser) -> int | None:
    """Returns how many next tokens `model` predicts at once; None if it fills any hole."""
    from dlm_eval.models.denoiser import tokens_ahead

    return tokens_ahead(model)


def is_told_noise(model: Denoiser) -> bool:
    """Returns whether `model` undoes uniform noise and is told how much there is."""
    from dlm_eval.models.denoiser import NoiseLevels, offers

    return model.process == "uniform" and offers(model, NoiseLevels)


def writes_in_order(model: Denoiser) -> bool:
    """Returns whether `model` attends in the order in which tokens are written (Eso-LM)."""
    from dlm_eval.models.denoiser import WritingOrder, offers

    return model.process == "absorbing" and offers(model, WritingOrder)


@dataclass(frozen=True, kw_only=True)
class Guided(Estimator):
    """An estimator that supports classifier-free guidance."""

    cfg_scale: float = option(
        0.0,
        help="classifier-free guidance w, u + (w + 1)(c - u) as in LLaDA; the result is then a "
        "score, no bound",
    )

    @property
    def guidance(self) -> float:
        return self.cfg_scale


@dataclass(frozen=True, kw_only=True)
class Budgeted(Estimator):
    """An estimator with a budget of forwards."""

    max_forwards: int = option(
        MAX_FORWARDS, least=1, most=MOST_FORWARDS, help="forwards per canvas at most"
    )

    def share(self, blocks: int) -> Self:
        return replace(self, max_forwards=max(1, self.max_forwards // blocks))

    def budget(self, n: int) -> int:
        return min(self.max_forwards, (1 << min(n, 20)) - 1)


@dataclass(frozen=True, kw_only=True)
class EarlyStopping(Budgeted, Guided):
    """An estimator that can run in rounds of cubature (early.py) and stop early."""

    precision: float | None = option(
        None,
        above=0,
        unit="nats a token",
        help="sample in rounds until the standard error is this small; the choices of a question "
        "until the best one is "
        "settled (at stop_at_error_rate, 0.05 unless set)",
    )
    target_stderr: float | None = option(
        None,
        above=0,
        unit="nats",
        help="as precision, in nats for the whole text; give one of the two",
    )
    stop_at_error_rate: float | None = option(
        None,
        above=0,
        below=1,
        help="sample the choices of a question in rounds until the best one is settled at this "
        "error probability",
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.precision is not None and self.target_stderr is not None:
            raise UserError(
                "estimator precision and target_stderr are two ways to say when to stop; give one "
                "of them"
            )

    @property
    def error_rate(self) -> float | None:
        settled = self.stop_at_error_rate
        return ERROR_RATE if settled is None and self.precision is not None else settled

    @property
    def needs_question(self) -> bool:
        return self.stop_at_error_rate is not None

    def without_question(self) -> Self:
        return replace(self, stop_at_error_rate=None)

    def enough(self, n: int) -> float | None:
        return self.target_stderr if self.precision is None else self.precision * n

    def share(self, blocks: int) -> Self:
        return replace(
            super().share(blocks), precision=None, target_stderr=None, stop_at_error_rate=None
        )


def parse_estimator(text: str, extra: Mapping[str, Any] | None = None) -> Estimator:
    """Returns the estimator of "name,k=v,...".

    Args:
        text: a name or `path/to/file.py:Class`, with settings. These override `extra`.
        extra: further settings by name. Estimators of fixed cost ignore `max_forwards`.

    Raises:
        UserError: an unknown estimator or setting (with the nearest name), or a bad value.
    """
    name, _, rest = (part.strip() for part in text.strip().partition(","))
    setting = f"--estimator {name}"
    own = parse_pairs(rest, f"{setting} setting")
    cls = ESTIMATORS.find(name, "--estimator")
    given = {**(extra or {}), **own}
    if "max_forwards" not in own and "max_forwards" not in option_names(cls):
        given.pop("max_forwards", None)
    return parse_options(cls, given, setting, unknown_as=f"{setting} setting")


def about(cls: type[Estimator]) -> str:
    """Returns the first line of an estimator's docstring."""
    return cleandoc(cls.__doc__ or "").partition("\n")[0].removesuffix(".")


def describe_estimator(name: str) -> dict[str, Any]:
    """Returns what `dlm-eval show` prints: kind, forwards, docstring, and every setting."""
    cls = ESTIMATORS.find(name)
    return {
        "name": cls.name,
        "kind": cls.kind,
        "forwards": cls.cost,
        "about": cleandoc(cls.__doc__ or ""),
        "settings": describe_options(cls),
    }
