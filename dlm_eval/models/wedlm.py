"""WeDLM 7B/8B (Tencent 2025): a causal Qwen in which known tokens stand first and masks last, each at its own rotary position.

Shape letters: B = rows, L = positions, H = hidden size.
"""

from __future__ import annotations

import torch
from torch import Tensor
from transformers import Qwen2Config, Qwen2ForCausalLM, Qwen3Config, Qwen3ForCausalLM

from dlm_eval.models.assemble import assemble
from dlm_eval.models.loading import LoadSettings, locate, native_config, read_config, require
from dlm_eval.models.transformer import Traits, TransformersDenoiser, real_positions
from dlm_eval.models.vocabulary import read_vocabulary
from dlm_eval.models.weights import load_weights


class ReorderedDenoiser(TransformersDenoiser):
    """A causal network that sees every known token at each mask, because the masks are moved behind them."""

    def hidden(self, tokens: Tensor, valid: Tensor | None) -> Tensor:
        """Returns hidden states [B, L, H] in reading order."""
        real = torch.ones_like(tokens, dtype=torch.bool) if valid is None else valid
        order = torch.where(real, (tokens == self.mask_id).long(), 2).argsort(
            dim=1, stable=True
        )  # known, masks, padding
        # Without a mask, transformers takes positions that fall back for packed sequences and hides rows from each other.
        states: Tensor = self.backbone(
            input_ids=tokens.gather(1, order),
            position_ids=real_positions(real).gather(1, order),
            attention_mask=torch.ones_like(tokens),
            use_cache=False,
        ).last_hidden_state
        return torch.empty_like(states).scatter_(1, order[..., None].expand_as(states), states)


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
