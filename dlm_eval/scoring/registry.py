"""The estimators by name: what each is, and the settings that it reads. No torch here: the command line lists it.

n = open tokens of a canvas.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Literal

from dlm_eval.errors import UserError, unknown
from dlm_eval.settings import from_mapping, parse_pairs

Policy = Literal["confidence", "entropy", "margin", "left_to_right"]
POLICIES = ("confidence", "entropy", "margin", "left_to_right")
MAX_EXACT = 14  # open tokens of `exact` at most: 2^14 - 1 rows


@dataclass(frozen=True)
class EstimatorInfo:
    """What `dlm-eval ls estimators` says, and which settings are the estimator's own.

    Attributes:
        kind: of its scores: 'exact', 'lower bound', 'upper bound' or 'score'.
        about: one line.
        cost: forwards for n open tokens.
        options: settings that it reads.
    """

    kind: str
    about: str
    cost: str
    options: tuple[str, ...] = ()


_EARLY = ("precision", "target_stderr", "decide")
ALPHA = 0.05  # of `precision`, for questions
_ANY = ("cfg_scale",)

ESTIMATORS: dict[str, EstimatorInfo] = {
    "auto": EstimatorInfo(
        "lower bound",
        "exact where 2^n-1 forwards fit, else cubature: the lowest error known at every n and budget",
        "<= samples",
        ("samples", *_EARLY, *_ANY),
    ),
    "exact": EstimatorInfo(
        "lower bound",
        "every mask pattern: the ELBO without noise, and the exact likelihood of the random-order sampler",
        "2^n-1",
        ("report", *_ANY),
    ),
    "chain": EstimatorInfo(
        "lower bound",
        "chain rule along random orders, each with its reverse; multi-sample lower and tangent upper bound beside it",
        "n per permutation",
        ("samples", "permutations", "antithetic", "report", *_ANY),
    ),
    "cubature": EstimatorInfo(
        "lower bound",
        "every hidden token of every forward read, weights of least variance: unbiased",
        "samples",
        ("samples", *_EARLY, *_ANY),
    ),
    "k": EstimatorInfo(
        "lower bound",
        "number of hidden tokens uniform over 1..n, stratified, weight n/k",
        "samples",
        ("samples", *_ANY),
    ),
    "t": EstimatorInfo(
        "lower bound",
        "each token hidden with probability t, t uniform and stratified, weight 1/t",
        "samples",
        ("samples", *_ANY),
    ),
    "left_to_right": EstimatorInfo("exact", "chain rule in reading order", "n", _ANY),
    "duel": EstimatorInfo(
        "exact",
        "likelihood of a deterministic unmasking policy (arXiv 2603.01367)",
        "n / tokens",
        ("policy", "tokens", *_ANY),
    ),
    "tube": EstimatorInfo(
        "upper bound",
        "tangent upper bound from chains (arXiv 2605.24292)",
        "n per permutation",
        ("samples", "permutations", *_ANY),
    ),
    "pseudo": EstimatorInfo("score", "pseudo-log-likelihood: one token hidden at a time", "n", _ANY),
    "llada": EstimatorInfo(
        "score",
        "LLaDA's get_log_likelihood: sizes evenly spaced in each batch, halves rounded to even (off the ELBO for even n)",
        "samples",
        ("samples", "batch", *_ANY),
    ),
    "dream": EstimatorInfo(
        "score",
        "Dream's _eval_target_nll_mc: 1/p weights from p = 0.001 on, a visible EOS behind the target (eos=false: without)",
        "samples",
        ("samples", "batch", "eos"),
    ),
    "diffullama": EstimatorInfo(
        "score",
        "DiffuLLaMA's eval_forward: mean loss per hidden token on the grid t = 1/T..1 (weighting=1/t: the paper's form)",
        "steps",
        ("steps", "weighting"),
    ),
    "mdlm": EstimatorInfo("score", "MDLM's loss: t in [0.001, 1], weight 1/t", "samples", ("samples",)),
    "sedd": EstimatorInfo(
        "score", "SEDD's score entropy, t in [0.001, 1]; for models with log scores", "samples", ("samples",)
    ),
}


@dataclass(frozen=True)
class EstimatorSettings:
    """How to estimate a likelihood. Each estimator reads the settings that `ESTIMATORS` lists for it; others are refused.

    Attributes:
        name: the estimator.
        samples: forwards per canvas at most (`chain` never runs less than one pair).
        permutations: chains, instead of as many as `samples` pays for.
        antithetic: whether each permutation comes with its reverse.
        report: what `logprob` is: 'elbo', or 'likelihood' of the random-order sampler (exact for `exact`; the multi-sample lower bound for `chain`).
        policy: order in which `duel` reveals tokens.
        tokens: tokens that `duel` reveals per forward.
        batch: draws that share one systematic grid (`llada`, `dream`).
        eos: whether `dream` puts a visible EOS behind the target.
        steps: grid points of `diffullama`.
        weighting: 'mean' (the code) or '1/t' (the paper) of `diffullama`; both in nats per token.
        cfg_scale: classifier-free guidance w in LLaDA's convention, u + (w + 1)(c - u); other than 0 makes the result a score.
        precision: sample in rounds until the standard error is this small, in nats a token; the choices of a question until the best one is settled
            (at `decide`, 0.05 unless set). The budget is the most that is spent.
        target_stderr: as `precision`, in nats for the whole text.
        decide: sample the choices of a question in rounds until the best one is settled at this error probability.
    """

    name: str = "auto"
    samples: int = 128
    permutations: int | None = None
    antithetic: bool = True
    report: Literal["elbo", "likelihood"] = "elbo"
    policy: Policy = "confidence"
    tokens: int = 1
    batch: int = 32
    eos: bool = True
    steps: int = 32
    weighting: Literal["mean", "1/t"] = "mean"
    cfg_scale: float = 0.0
    precision: float | None = None
    target_stderr: float | None = None
    decide: float | None = None

    def __post_init__(self) -> None:
        if self.name not in ESTIMATORS:
            raise unknown("estimator", self.name, ESTIMATORS)
        own = (
            "name",
            "samples",
            *ESTIMATORS[self.name].options,
        )  # `samples` is always passed; estimators with a fixed cost ignore it
        for field in fields(self):
            if field.name not in own and getattr(self, field.name) != field.default:
                raise unknown(f"estimator {self.name} setting", field.name, ESTIMATORS[self.name].options)
        for name in ("samples", "permutations", "tokens", "batch", "steps"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise UserError(f"estimator {self.name} {name} '{value}' is not allowed; it must be 1 or more")
        for name, unit in (("precision", "nats a token"), ("target_stderr", "nats")):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise UserError(f"estimator {name} '{value}' is not allowed; it must be above 0 ({unit})")
        if self.precision is not None and self.target_stderr is not None:
            raise UserError("estimator precision and target_stderr are two ways to say when to stop; give one of them")
        if self.decide is not None and not 0 < self.decide < 1:
            raise UserError(f"estimator decide '{self.decide}' is not allowed; it must be between 0 and 1")

    @property
    def alpha(self) -> float | None:
        """The error probability at which a question is settled; None if all its choices get the whole budget."""
        return ALPHA if self.decide is None and self.precision is not None else self.decide

    def enough(self, n: int) -> float | None:
        """Returns the standard error (nats) at which a text of n tokens ends; None if it gets the whole budget."""
        return self.target_stderr if self.precision is None else self.precision * n


def parse_estimator(text: str, extra: Mapping[str, Any] | None = None) -> EstimatorSettings:
    """Returns the settings of "name,k=v,...".

    Args:
        text: what the user wrote; settings in it win over `extra`.
        extra: further settings by name.

    Raises:
        UserError: an unknown estimator, a setting that it does not read (with the nearest one), or a bad value.
    """
    name, _, rest = text.strip().partition(",")
    name = name.strip()
    if name not in ESTIMATORS:
        raise unknown("--estimator", name, ESTIMATORS)
    own = parse_pairs(rest, f"--estimator {name} setting")
    for key in own:
        if key not in ESTIMATORS[name].options:
            raise unknown(f"--estimator {name} setting", key, ESTIMATORS[name].options)
    return from_mapping(EstimatorSettings, {**(extra or {}), **own, "name": name}, f"--estimator {name}")
