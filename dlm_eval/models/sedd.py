"""SEDD small and medium (Lou et al. 2023): the DiT told the noise level, predicting ratios of probabilities (concrete scores).

For the absorbing process the score of token y at a masked position is p(y | what is seen) / (e^sigma - 1) (their section 4.2), so that its
logarithm is, up to a constant, the log-probability of y: `logits` gives that, `log_scores` the scores themselves.
Shape letters: B = rows, L = positions, V = vocabulary with the mask.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from dlm_eval.models.assemble import assemble
from dlm_eval.models.dit import DiT, DiTConfig, DiTDenoiser, rename
from dlm_eval.models.loading import Folder, LoadSettings, locate, read_config, require
from dlm_eval.models.transformer import Traits, TransformersDenoiser
from dlm_eval.models.vocabulary import read_vocabulary
from dlm_eval.models.weights import load_module

EPSILON = 1e-3  # of the log-linear noise: a share epsilon of the tokens is still visible at t = 1


class ScoreDenoiser(DiTDenoiser):
    """Denoiser of a SEDD checkpoint. `logits` tells the network the noise level at which this share of masks is expected."""

    def sigma(self, tokens: Tensor, valid: Tensor | None) -> Tensor:
        """Returns sigma(t) = -log(1 - (1 - epsilon) t) [B] at the share t of a row's tokens that are masked."""
        hidden = tokens == self.mask_id
        share = hidden.float().mean(1) if valid is None else (hidden & valid).sum(1) / valid.sum(1)
        return -torch.log1p(-(1 - EPSILON) * share.clamp(min=EPSILON))

    @torch.no_grad()
    def log_scores(self, tokens: Tensor, sigma: Tensor) -> Tensor:
        """Returns float32 log-scores [B, L, V] of every token at every position, 0 at the token that stands there.

        Args:
            tokens: [B, L] long.
            sigma: [B] total noise, above 0.
        """
        tokens, sigma = tokens.to(self.device), sigma.to(self.device).float()
        states = self.run(tokens, sigma)
        scores = self.read(states.flatten(0, 1)).view(*tokens.shape, self.vocab_size)
        # log(e^sigma - 1), exactly for small sigma too.
        scale = sigma + torch.log(-torch.expm1(-sigma))
        scores = scores - scale[:, None, None] - torch.log(torch.tensor(self.vocab_size - 1.0))
        return scores.scatter(-1, tokens[..., None], 0.0)


def load(settings: LoadSettings) -> TransformersDenoiser:
    """Returns the denoiser of a SEDD checkpoint."""
    folder = locate(settings.pretrained, settings.revision)
    raw = read_config(folder)
    config = _sizes(raw, folder)
    vocabulary = read_vocabulary(folder, raw, settings, default_mask=config.vocab_size - 1)
    model = load_module(lambda: DiT(config), folder, settings, rename)
    traits = Traits("sedd", barred=(vocabulary.mask_id,))
    return assemble(model, vocabulary, traits, folder, settings, ScoreDenoiser)


def _sizes(raw: dict[str, Any], folder: Folder) -> DiTConfig:
    require(raw, ["model", "tokens", "graph"], folder, "SEDD")
    require(raw["model"], ["hidden_size", "cond_dim", "n_blocks", "n_heads", "length"], folder, "SEDD")
    model = raw["model"]
    return DiTConfig(
        raw["tokens"] + 1, model["hidden_size"], model["cond_dim"], model["n_blocks"], model["n_heads"], model["length"]
    )
