"""Networks of transformers that also read mixtures of tokens (DMax's soft inputs).

A soft position holds k tokens with probabilities p and the mask with what is left of them. Its
embedding is their mean, scaled to the mean of their norms (DMax, arXiv 2604.08302). Shape letters:
B = rows, L = positions, H = hidden size, k = tokens of a mixture.
"""

from __future__ import annotations

import torch
from torch import Tensor

from dlm_eval.models.transformer import TransformersDenoiser, wanted_places

TINY = 1e-6  # of the norm that a mixture is divided by


class SoftDenoiser(TransformersDenoiser):
    """Denoiser of a backbone that takes embeddings."""

    @torch.no_grad()
    def soft_logits(
        self,
        tokens: Tensor,
        valid: Tensor | None,
        positions: Tensor | None,
        inputs: Tensor,
        time: Tensor | None = None,
    ) -> Tensor:
        """Returns float32 logits of the token at each wanted position (see `Denoiser.logits`).

        Args:
            tokens: [B, L] long, read where a position is not soft.
            valid, positions: as of `Denoiser.logits`.
            inputs: [B, L, 2 k] tokens of the mixtures, then their probabilities; 0 at hard positions.
            time: not used.
        """
        tokens = tokens.to(self.device)
        valid = None if valid is None or bool(valid.all()) else valid.to(self.device)
        embeddings = self._embeddings(tokens, inputs.to(self.device))
        states = self.backbone(
            inputs_embeds=embeddings, **self.inputs(tokens, valid)
        ).last_hidden_state
        rows, columns, shape = wanted_places(tokens.shape, positions, self.device)
        return self._read_at(states, rows, columns, valid).view(*shape, self.vocab_size)

    def _embeddings(self, tokens: Tensor, inputs: Tensor) -> Tensor:
        """Returns embeddings [B, L, H] of tokens and mixtures."""
        table = self.model.get_input_embeddings()
        found: Tensor = table(tokens)
        kinds = inputs.shape[-1] // 2
        ids, share = inputs[..., :kinds].long(), inputs[..., kinds:]
        soft = share.sum(-1) > 0
        if not bool(soft.any()):
            return found
        ids, share = ids[soft], share[soft]  # [N, k]
        parts = table(ids).float()  # [N, k, H]
        mask = table(torch.tensor([self.mask_id], device=tokens.device)).float()  # [1, H]
        rest = (1 - share.sum(-1, keepdim=True)).clamp(min=0)  # [N, 1]
        mixed = (parts * share[..., None]).sum(1) + mask * rest
        norm = (parts.norm(dim=-1) * share).sum(-1, keepdim=True) + mask.norm(dim=-1) * rest
        mixed = mixed * (norm / (mixed.norm(dim=-1, keepdim=True) + TINY))
        found = found.clone()
        found[soft] = mixed.to(found.dtype)
        return found
