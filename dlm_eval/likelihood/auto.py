"""Cubature as an estimator, and `auto`, which chooses between it and enumeration.

Both can stop early (early.py).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from dlm_eval.canvas import Score
from dlm_eval.errors import UserError
from dlm_eval.likelihood.cubature.rule import Rule, relabelled
from dlm_eval.likelihood.esolm import TwoPhases
from dlm_eval.likelihood.estimator import (
    EarlyStopping,
    Estimator,
    is_told_noise,
    next_tokens,
    writes_in_order,
)
from dlm_eval.likelihood.exact import Exact, as_estimator
from dlm_eval.likelihood.masks import LeftToRight, in_one_forward
from dlm_eval.likelihood.mc_error import echo
from dlm_eval.likelihood.patterns import Floats, Ints, enumerable
from dlm_eval.likelihood.uniform import UniformBound

if TYPE_CHECKING:
    from dlm_eval.engine.rows import Program
    from dlm_eval.likelihood.target import Target
    from dlm_eval.models.denoiser import Denoiser
    from dlm_eval.rng import Noise


# settings of scores that are sampled
OF_SAMPLED = ("precision", "target_stderr", "stop_at_error_rate")


@dataclass(frozen=True, kw_only=True)
class Auto(EarlyStopping, name="auto"):
    """Exact if 2^n-1 forwards fit, else cubature: the lowest known error at every n and budget.

    Models of uniform noise get `uniform`, Eso-LM `esolm`. Autoregressive ones (exact, one forward)
    and those that predict the next tokens (SDLM) get `left_to_right`. docs/design/likelihood-measurements.md
    has the measurements.
    """

    kind = "lower bound"
    cost = "<= max_forwards"

    def check_model(self, model: Denoiser) -> None:
        if not is_told_noise(model) and next_tokens(model) is None:
            super().check_model(model)

    def for_process(self, model: Denoiser) -> Estimator:
        from dlm_eval.models.denoiser import is_autoregressive

        if is_autoregressive(model):
            self._refuse_set(
                OF_SAMPLED, f"is for scores that are sampled; {model.name}'s are exact"
            )
            return in_one_forward(self)
        if next_tokens(model) is not None:
            self._refuse_unmasked(model, "predicts the next tokens")
            return LeftToRight()
        if is_told_noise(model):
            self._refuse_unmasked(model, "undoes uniform noise")
            return UniformBound(max_forwards=self.max_forwards)
        if writes_in_order(model):
            self._refuse_unmasked(model, "writes in two phases")
            return TwoPhases(max_forwards=self.max_forwards)
        return self

    def _refuse_unmasked(self, model: Denoiser, what: str) -> None:
        """Raises UserError if a setting is given that only models that mask tokens in any order have."""
        reason = f"is for models that mask tokens in any order; {model.name} {what}"
        self._refuse_set(("cfg_scale", *OF_SAMPLED), reason)

    def _refuse_set(self, names: tuple[str, ...], reason: str) -> None:
        """Raises UserError if one of the settings `names` is not its default."""
        unset = type(self)()
        for name in names:
            if (value := vars(self)[name]) != vars(unset)[name]:
                raise UserError(f"estimator auto: {name} '{value}' {reason}: leave it out")

    def estimate(self, target: Target, noise: Noise) -> Program[Score]:
        if enumerable(target.n, self.max_forwards):
            return Exact(cfg_scale=self.cfg_scale).estimate(target, noise)
        return as_cubature(self).estimate(target, noise)


@dataclass(frozen=True, kw_only=True)
class Cubature(EarlyStopping, name="cubature"):
    """Reads every hidden token of every forward, with weights of least variance: unbiased."""

    kind = "lower bound"
    cost = "max_forwards"

    def estimate(self, target: Target, noise: Noise) -> Program[Score]:
        if enumerable(target.n, self.max_forwards):
            return as_estimator(Exact(cfg_scale=self.cfg_scale).estimate(target, noise), self)
        return self._sampled(target, *relabelled(target.n, self.max_forwards, noise))

    def _sampled(self, target: Target, rule: Rule, order: Ints) -> Program[Score]:
        return self.from_rule(rule, (yield from rule_logs(target, rule, order)))

    def from_rule(self, rule: Rule, logs: Floats) -> Score:
        """Returns the ELBO and its error by `rule` from its log-probabilities [R, n]."""
        error = rule.error(logs)
        return self.score(rule.estimate(logs), error, echo=echo(rule.deviations(logs), error))


def as_cubature(estimator: EarlyStopping) -> Cubature:
    """Returns cubature with the budget and guidance of `estimator`."""
    return Cubature(max_forwards=estimator.max_forwards, cfg_scale=estimator.cfg_scale)


def rule_logs(target: Target, rule: Rule, order: Ints) -> Program[Floats]:
    """Returns log-probabilities [R, n] under the patterns of `rule`; nan if not hidden.

    Column j is token order[j].
    """
    hidden = rule.hidden[:, order.argsort()]
    logs: Floats = (yield from target.measure(hidden, hidden))[:, order]
    return logs
