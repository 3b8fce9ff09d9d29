"""Duo (Sahoo et al. 2025, arXiv 2506.10892): the DiT trained to undo uniform noise, told its level.

There is no mask token: noisy positions hold random tokens, and the network gives the text at all
positions (s-sahoo/duo 7c9b498, `algo.py`, `models/dit.py`). Shape letters: B = rows, L = positions,
V = vocabulary.
"""

from __future__ import annotations

import torch
from torch import Tensor

from dlm_eval.models.config_keys import ConfigKeys
from dlm_eval.models.config_tables import COUNT, FLAG, all_of
from dlm_eval.models.denoiser import LogLinear, NoiseSchedule
from dlm_eval.models.families.dit import DiTDenoiser
from dlm_eval.models.families.mdlm import network
from dlm_eval.models.family import FamilySpec, OpenedCheckpoint
from dlm_eval.models.transformer import wanted_places

LEAST_NOISE = 1e-3  # the smallest t of its training

KEYS = ConfigKeys(
    "DUO",
    needed=all_of(
        COUNT, "vocab_size", "hidden_dim", "cond_dim", "n_blocks", "n_heads", "model_length"
    ),
    read={"time_conditioning": FLAG},
    defaults={"time_conditioning": True},
    usual={
        "adaln": (True, None),
        "scale_by_sigma": (None, True),
        "tie_word_embeddings": (None, False),
    },
    harmless=frozenset(
        {"T", "attn_backend", "cross_attn", "sampling_eps_max", "sampling_eps_min", "var_min"}
    ),
)


class UniformDenoiser(DiTDenoiser):
    """Denoiser of process 'uniform' that is told the noise level (`NoiseLevels`).

    `logits` tells the network the smallest noise that it was trained with: the text as it stands.
    """

    schedule: NoiseSchedule = LogLinear()
    time_conditioning = True

    def sigma(self, tokens: Tensor, valid: Tensor | None) -> Tensor:
        """Returns the total noise [B] at t = `LEAST_NOISE`."""
        least = self.schedule.sigma(LEAST_NOISE) if self.time_conditioning else 0.0
        return torch.full((len(tokens),), least, device=tokens.device)

    def no_cache_reason(self) -> str:
        return "all keys and values change with the noise level"

    @torch.no_grad()
    def logits_at(
        self, tokens: Tensor, valid: Tensor | None, positions: Tensor | None, time: Tensor
    ) -> Tensor:
        """Returns float32 logits of the text at each wanted position.

        Args:
            tokens, valid, positions: as of `Denoiser.logits`.
            time: [B] total noise sigma = -log alpha.
        """
        tokens, sigma = tokens.to(self.device), time.to(self.device).float()
        if not self.time_conditioning:
            sigma = torch.zeros_like(sigma)
        valid = None if valid is None or bool(valid.all()) else valid.to(self.device)
        rows, columns, shape = wanted_places(tokens.shape, positions, self.device)
        states = self.run(tokens, sigma, valid)
        return self._read_at(states, rows, columns, valid).view(*shape, self.vocab_size)


def set_conditioning(denoiser: UniformDenoiser, opened: OpenedCheckpoint) -> None:
    """Tells the denoiser whether its network was trained with the noise level."""
    denoiser.time_conditioning = bool(opened.values["time_conditioning"])


FAMILY = FamilySpec(
    "duo",
    KEYS,
    network,
    process="uniform",
    denoiser=lambda _: UniformDenoiser,
    finish=set_conditioning,
)
