"""Optional: noise that a model is told of, or was trained with.

Total noise sigma(t) and its rate, t from 0 (clean) to 1 (noise). Under absorbing diffusion a token is
masked at time t with probability 1 - exp(-sigma(t)).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol, cast

import torch
from torch import Tensor

from dlm_eval.models.denoiser.core import Denoiser
from dlm_eval.models.denoiser.members import offers


class NoiseSchedule(Protocol):
    """How much noise a model of absorbing diffusion expects when."""

    def sigma(self, t: float) -> float:
        """Returns the total noise at time t."""
        ...

    def rate(self, t: float) -> float:
        """Returns its derivative at time t."""
        ...

    def at_share(self, share: Tensor) -> Tensor:
        """Returns the total noise [B] at which this share [B] of a row's tokens is masked."""
        ...


@dataclass(frozen=True)
class LogLinear:
    """sigma(t) = -log(1 - (1 - epsilon) t): the masked share is (1 - epsilon) t (SEDD, MDLM)."""

    epsilon: float = 1e-3

    def sigma(self, t: float) -> float:
        return -math.log1p(-(1 - self.epsilon) * t)

    def rate(self, t: float) -> float:
        return (1 - self.epsilon) / (1 - (1 - self.epsilon) * t)

    def at_share(self, share: Tensor) -> Tensor:
        return -torch.log1p(-(1 - self.epsilon) * share.clamp(min=self.epsilon))


@dataclass(frozen=True)
class Geometric:
    """sigma(t) = sigma_min^(1 - t) sigma_max^t (SEDD)."""

    sigma_min: float
    sigma_max: float

    def sigma(self, t: float) -> float:
        return math.exp((1 - t) * math.log(self.sigma_min) + t * math.log(self.sigma_max))

    def rate(self, t: float) -> float:
        return self.sigma(t) * math.log(self.sigma_max / self.sigma_min)

    def at_share(self, share: Tensor) -> Tensor:
        return (-torch.log1p(-share.clamp(max=1 - 1e-6))).clamp(self.sigma_min, self.sigma_max)


class ConcreteScores(Protocol):
    """A denoiser that predicts ratios of probabilities at a noise level (SEDD).

    `schedule` is the noise that it was trained with.
    """

    schedule: NoiseSchedule

    def score_logits(
        self, tokens: Tensor, valid: Tensor | None, positions: Tensor | None, time: Tensor
    ) -> Tensor:
        """Returns float32 log-scores of all tokens at wanted positions, at noise `time` [B]."""
        ...


def noise_schedule(model: Denoiser) -> NoiseSchedule:
    """Returns the noise that a model was trained with, if it says so, else log-linear noise."""
    return cast(ConcreteScores, model).schedule if offers(model, ConcreteScores) else LogLinear()


class NoiseLevels(Protocol):
    """A denoiser of process 'uniform' that is told how noisy its text is (Duo).

    It was trained to undo uniform noise (`models.uniform_state`), so that it has a likelihood bound
    and a reverse step. `schedule` is the noise that it was trained with, with alpha = exp(-sigma).
    """

    schedule: NoiseSchedule

    def logits_at(
        self, tokens: Tensor, valid: Tensor | None, positions: Tensor | None, time: Tensor
    ) -> Tensor:
        """Returns float32 logits of the text at wanted positions, at total noise `time` [B]."""
        ...
