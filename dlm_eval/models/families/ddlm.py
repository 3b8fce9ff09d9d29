"""DDLM (Vaina et al. 2024, arXiv 2305.10818): CDCD's continuous diffusion over token embeddings. scripts/train_ddlm.py trains one.

The authors' weights are not public, so the file format is ours: config.json with the fields of `CDCDConfig`, model.safetensors, a tokenizer.
Shape letters: B = rows, L = positions, D = embedding size, H = hidden size, V = vocabulary.
"""

from __future__ import annotations

from dataclasses import fields
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dlm_eval.models.config_keys import ConfigKeys
from dlm_eval.models.config_tables import COUNT, LIST, NUMBER, all_of
from dlm_eval.models.denoiser import KeepingOp, LogitsOp
from dlm_eval.models.families.cdcd import CDCD, CDCDConfig, DivergentInterpolator, Interpolator
from dlm_eval.models.family import FamilySpec, OpenedCheckpoint
from dlm_eval.models.transformer import TransformersDenoiser, real_positions, wanted_places
from dlm_eval.models.weights import OwnModule
from dlm_eval.settings import from_mapping


class DDLMDenoiser(TransformersDenoiser):
    """Denoiser of a `CDCD` network (see `models.denoiser.EmbeddingDenoiser`).

    Without `inputs`, tokens are their own clean embeddings, everything open, at the lowest noise level.
    """

    @property
    def embedding_size(self) -> int:
        """D."""
        return int(self.model.config.embedding_size)

    def times(self, steps: int) -> NDArray[np.float64]:
        """Returns [steps + 1] noise levels, from the largest to the smallest."""
        levels: NDArray[np.float64] = self.model.config.times(steps)
        return levels

    def interpolator(self, score_temperature: float, divergence: bool) -> LogitsOp | KeepingOp:
        """Returns the reader of (token, log-probability, entropy, E[x_0]), and with `divergence` (KL from the last step)."""
        plain = Interpolator(self.table, score_temperature)
        return DivergentInterpolator(plain) if divergence else plain

    @torch.no_grad()
    def logits(
        self,
        tokens: Tensor,
        valid: Tensor | None = None,
        positions: Tensor | None = None,
        inputs: Tensor | None = None,
        time: Tensor | None = None,
    ) -> Tensor:
        """Returns float32 logits of the clean token at each wanted position (see `Denoiser.logits`).

        Args:
            tokens: [B, L] long; those of open positions do not count if there are `inputs`.
            valid: [B, L] bool, false at padding, or None.
            positions: as in `Denoiser.logits`.
            inputs: [B, L, 2 D + 1] x_t, the last estimate of x_0, and 1 if a position is open.
            time: [B] noise levels.
        """
        tokens, size = tokens.to(self.device), self.embedding_size
        valid = None if valid is None or bool(valid.all()) else valid.to(self.device)
        clean = self.table[tokens]
        if inputs is None:
            x, estimate, open_ = clean, torch.zeros_like(clean), torch.ones_like(tokens, dtype=torch.bool)
        else:
            x, estimate, open_ = inputs[..., :size], inputs[..., size : 2 * size], inputs[..., -1] > 0
        level = torch.full((len(tokens),), self.model.config.t_min, device=self.device) if time is None else time
        place = torch.arange(tokens.shape[1], device=self.device)[None] if valid is None else real_positions(valid)
        mask = None if valid is None else valid[:, None, None, :]
        states = self.model(x, estimate, clean, open_, level, place, mask)
        rows, columns, shape = wanted_places(tokens.shape, positions, self.device)
        return self.read(states[rows, columns]).view(*shape, self.vocab_size)

    @cached_property
    def table(self) -> Tensor:
        """The network's normalised embeddings [V, D], float32."""
        with torch.inference_mode(False), torch.no_grad():  # it outlives the pass that asks for it first
            table: Tensor = self.model.table
        return table


KEYS = ConfigKeys(
    "DDLM",
    needed=all_of(
        COUNT, "vocab_size", "embedding_size", "hidden_size", "cond_size", "layers", "heads", "max_position_embeddings"
    )
    | all_of(NUMBER, "t_min", "t_max"),
    read=all_of(LIST, "warp_times", "warp_cdf"),
)


def network(opened: OpenedCheckpoint) -> OwnModule:
    """Returns the network of CDCD."""
    return OwnModule(lambda: CDCD(config_of(opened.values)))


def config_of(raw: dict[str, Any]) -> CDCDConfig:
    """Returns the network's configuration from config.json.

    Raises:
        UserError: a field is not of its kind.
    """
    known = {field.name for field in fields(CDCDConfig)}
    return from_mapping(CDCDConfig, {key: value for key, value in raw.items() if key in known}, "config.json")


FAMILY = FamilySpec("ddlm", KEYS, network, process="gaussian", denoiser=lambda _: DDLMDenoiser)
