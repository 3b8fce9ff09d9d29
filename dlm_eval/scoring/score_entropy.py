"""SEDD's own loss: score entropy, for models that give log-scores at a noise level (Lou et al., arXiv 2310.16834).

With the log-linear schedule sigma(t) = -log(1 - (1 - epsilon) t), each open token hidden with probability 1 - exp(-sigma), and s_y the
score of token y at a hidden position, r = 1 / (exp(sigma) - 1):

    loss = sigma'(t) * sum over hidden positions of [ sum over y that is not the mask of s_y  -  r log s_truth  +  r (log r - 1) ]

averaged over t in [0.001, 1]. It has no term for the tokens still visible at t = 1, so it is no bound.

Shape letters: K = draws, B = rows of a batch, L = positions, V = vocabulary with the mask, n = open tokens.
"""

from __future__ import annotations

from typing import Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor

from dlm_eval.canvas import Score
from dlm_eval.engine import Walk
from dlm_eval.errors import SampleError, UserError
from dlm_eval.models.denoiser import Denoiser
from dlm_eval.noise import Noise
from dlm_eval.scoring.patterns import EPSILON, neighbours, standard_error
from dlm_eval.scoring.registry import EstimatorSettings
from dlm_eval.scoring.target import Bools, Floats, Target

BATCH = 32


@runtime_checkable
class LogScores(Protocol):
    """A model of concrete scores."""

    def log_scores(self, tokens: Tensor, sigma: Tensor) -> Tensor:
        """Returns float32 log-scores [B, L, V] from `tokens` [B, L] long and total noise `sigma` [B]."""
        ...


def check_log_scores(model: Denoiser) -> None:
    """Raises UserError where the model has no scores."""
    if not isinstance(model, LogScores):
        raise UserError(f"estimator 'sedd' is not possible with {model.name}: it gives no log-scores; use auto")


def sedd(target: Target, settings: EstimatorSettings, noise: Noise) -> Walk[Score]:
    """Returns SEDD's score entropy with its sign turned, in nats, t stratified over [0.001, 1].

    The network is told the noise level, which rows of the engine do not carry, so it is asked here; its rows are counted in the score.
    """
    times = (
        EPSILON
        + (1 - EPSILON) * (np.arange(settings.samples) + noise.uniforms("sedd", 0, settings.samples)) / settings.samples
    )
    chances = (1 - EPSILON) * times
    hidden = np.stack([noise.uniforms("sedd hidden", k, target.n) for k in range(len(times))]) < chances[:, None]
    losses = np.concatenate(
        [_losses(target, hidden[at : at + BATCH], times[at : at + BATCH]) for at in range(0, len(times), BATCH)]
    )
    if np.isnan(losses).any():
        raise SampleError("the model returned log-scores that are NaN")
    stderr = standard_error(losses, neighbours(len(losses)))
    return Score(-float(losses.mean()), stderr, "score", len(losses), None, "sedd")
    yield  # a walk like the others, though it has no rows to ask for


def _losses(target: Target, hidden: Bools, times: Floats) -> Floats:
    """Returns the loss [B] in nats of rows with `hidden` [B, n] tokens at `times` [B]."""
    assert isinstance(target.model, LogScores)
    tokens = np.tile(target.tokens, (len(times), 1))
    rows, columns = np.nonzero(hidden)
    tokens[rows, target.places[columns]] = target.mask_id
    sigma = -np.log1p(-(1 - EPSILON) * times)
    scores = target.model.log_scores(torch.from_numpy(tokens), torch.from_numpy(sigma)).double().cpu()
    own = scores[torch.from_numpy(rows), torch.from_numpy(target.places[columns])]  # [hidden, V]
    words = torch.arange(own.shape[1]) != target.mask_id
    total = own[:, words].exp().sum(1).numpy()
    truth = own[torch.arange(len(own)), torch.from_numpy(target.truth[columns])].numpy()
    ratio = 1 / np.expm1(sigma[rows])
    entropy = total - ratio * truth + ratio * (np.log(ratio) - 1)
    rate = (1 - EPSILON) / (1 - (1 - EPSILON) * times)
    return np.asarray(rate * np.bincount(rows, weights=entropy, minlength=len(times)))
