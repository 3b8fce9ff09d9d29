"""SEDD's own loss: score entropy, for models that give log-scores at a noise level (Lou et al., arXiv 2310.16834).

With total noise sigma(t), each open token hidden with probability 1 - exp(-sigma), and s_y the score of token y at a hidden position,
r = 1 / (exp(sigma) - 1):

    loss = sigma'(t) * sum over hidden positions of [ sum over y that is not the mask of s_y  -  r log s_truth  +  r (log r - 1) ]

averaged over t in [0.001, 1]. It has no term for the tokens still visible at t = 1, so it is no bound.

Shape letters: K = draws, N = wanted positions of a batch, V = vocabulary with the mask, n = open tokens.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Protocol, runtime_checkable

import numpy as np
from torch import Tensor

from dlm_eval.canvas import Score
from dlm_eval.engine import Walk
from dlm_eval.errors import SampleError, UserError
from dlm_eval.models.denoiser import Denoiser
from dlm_eval.models.noise_schedules import NoiseSchedule
from dlm_eval.noise import Noise
from dlm_eval.scoring.echo import echo
from dlm_eval.scoring.patterns import EPSILON, deviations, draws_error, neighbours
from dlm_eval.scoring.registry import EstimatorSettings
from dlm_eval.scoring.target import Bools, Floats, Target

HEAD = "score_logits"  # the model's method that rows of this loss ask


@runtime_checkable
class LogScores(Protocol):
    """A model of concrete scores."""

    schedule: NoiseSchedule

    def score_logits(self, tokens: Tensor, valid: Tensor | None, positions: Tensor | None, time: Tensor) -> Tensor:
        """Returns float32 log-scores of the token at each wanted position, rows at total noise `time` [B]."""
        ...


@dataclass(frozen=True)
class ScoreReader:
    """Reads the sum of the scores of all tokens but the mask, and the true token's log-score; the payload is its id, [N] long."""

    mask_id: int

    def __call__(self, logits: Tensor, payload: Tensor) -> tuple[Tensor, ...]:
        scores = logits.double()
        own = scores.gather(-1, payload[:, None]).squeeze(-1)
        return scores.exp().sum(-1) - scores[:, self.mask_id].exp(), own


def check_log_scores(model: Denoiser) -> None:
    """Raises UserError where the model has no scores."""
    if not isinstance(model, LogScores):
        raise UserError(f"estimator 'sedd' is not possible with {model.name}: it gives no log-scores; use auto")


def sedd(target: Target, settings: EstimatorSettings, noise: Noise) -> Walk[Score]:
    """Returns SEDD's score entropy with its sign turned, in nats, t stratified over [0.001, 1]."""
    assert isinstance(target.model, LogScores)
    schedule, count = target.model.schedule, settings.samples
    times = EPSILON + (1 - EPSILON) * (np.arange(count) + noise.uniforms("sedd", 0, count)) / count
    sigma, rate = (np.array([of(float(t)) for t in times]) for of in (schedule.sigma, schedule.rate))
    hidden = np.stack([noise.uniforms("sedd hidden", k, target.n) for k in range(count)]) < -np.expm1(-sigma)[:, None]
    losses = rate * (yield from _entropies(target, hidden, sigma))
    if np.isnan(losses).any():
        raise SampleError("the model returned log-scores that are NaN")
    error = draws_error(losses, neighbours(count))
    return Score(
        -float(losses.mean()),
        error.stderr,
        "score",
        0,
        None,
        "sedd",
        freedom=error.freedom,
        rough_stderr=error.rough,
        echo=echo(deviations(losses, neighbours(count)), error),
    )


def _entropies(target: Target, hidden: Bools, sigma: Floats) -> Walk[Floats]:
    """Returns the summed score entropy [K] of patterns [K, n] at total noise [K]. A pattern that hides nothing costs nothing."""
    asked = np.flatnonzero(hidden.any(1))
    reader = ScoreReader(target.mask_id)
    entropy = np.zeros(len(hidden))
    if len(asked):
        readings = yield [
            replace(target.row(hidden[k], hidden[k], reader), head=HEAD, time=float(sigma[k])) for k in asked
        ]
        for k, (total, truth) in zip(asked, readings, strict=True):
            ratio = 1 / np.expm1(sigma[k])
            entropy[k] = (total - ratio * truth + ratio * (np.log(ratio) - 1)).sum()
    return entropy
