"""WeDLM 7B/8B (Tencent 2025): a causal Qwen in which known tokens stand first and masks last, each at its own rotary position.

Shape letters: B = rows, L = positions, H = hidden size.
"""

from __future__ import annotations

import torch
from torch import Tensor
from transformers import Qwen2Config, Qwen2ForCausalLM, Qwen3Config, Qwen3ForCausalLM

from dlm_eval.models.assemble import assemble
from dlm_eval.models.denoiser import Past
from dlm_eval.models.loading import LoadSettings, locate, native_config, read_config, require
from dlm_eval.models.remember import KeyValues, recalled_mask
from dlm_eval.models.transformer import Traits, TransformersDenoiser, cached, real_positions
from dlm_eval.models.vocabulary import read_vocabulary
from dlm_eval.models.weights import load_weights


class ReorderedDenoiser(TransformersDenoiser):
    """A causal network that sees every known token at each mask, because the masks are moved behind them."""

    settles = 1

    def hidden(self, tokens: Tensor, valid: Tensor | None) -> Tensor:
        """Returns hidden states [B, L, H] in reading order."""
        return self.live(tokens, valid, None, None)

    def live(self, tokens: Tensor, valid: Tensor | None, past: Past | None, states: KeyValues | None) -> Tensor:
        """Returns hidden states [B, L, H] of live positions in reading order; all that is remembered stands before them."""
        real = torch.ones_like(tokens, dtype=torch.bool) if valid is None else valid
        order = torch.where(real, (tokens == self.mask_id).long(), 2).argsort(
            dim=1, stable=True
        )  # known, masks, padding
        places = real_positions(real).gather(1, order)
        # Without a mask, transformers takes positions that fall back for packed sequences and hides rows from each other.
        mask = torch.ones_like(tokens)
        if past is not None:
            places = past.begin[:, None] + places
            before = torch.ones(1, tokens.shape[1], tokens.shape[1], dtype=torch.bool, device=tokens.device).tril()
            mask = recalled_mask(before, past, self.dtype)
        network = self.backbone if states is None else self.uncompiled
        found: Tensor = network(
            input_ids=tokens.gather(1, order),
            position_ids=places,
            attention_mask=mask,
            use_cache=False,
            **cached(self.backbone, states),
        ).last_hidden_state
        if states is not None:
            states.reorder(order)
        return torch.empty_like(found).scatter_(1, order[..., None].expand_as(found), found)


def load(settings: LoadSettings) -> TransformersDenoiser:
    """Returns the denoiser of a WeDLM checkpoint."""
    folder = locate(settings.pretrained, settings.revision)
    raw = read_config(folder)
    require(raw, ["hidden_size", "num_hidden_layers", "num_key_value_heads"], folder, "WeDLM")
    qwen3 = bool(raw.get("qk_norm"))
    config = native_config(Qwen3Config if qwen3 else Qwen2Config, raw)
    vocabulary = read_vocabulary(folder, raw, settings, ["<|im_end|>", "<|endoftext|>"], "<|mask|>")
    model = load_weights(Qwen3ForCausalLM if qwen3 else Qwen2ForCausalLM, config, folder, settings)
    return assemble(model, vocabulary, Traits("wedlm"), folder, settings, ReorderedDenoiser)
