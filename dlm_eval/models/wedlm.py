"""WeDLM 7B/8B (Tencent 2025): a causal Qwen in which known tokens stand first and masks last, each at its own rotary position.

Shape letters: B = rows, L = positions, H = hidden size.
"""

from __future__ import annotations

import torch
from torch import Tensor
from transformers import Qwen2Config, Qwen2ForCausalLM, Qwen3Config, Qwen3ForCausalLM

from dlm_eval.models.assemble import assemble
from dlm_eval.models.config_facts import NO, QWEN2, QWEN3, Usual
from dlm_eval.models.denoiser import Past
from dlm_eval.models.loading import LoadSettings, open_checkpoint
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


# The 7B is a Qwen2.5, the 8B a Qwen3. Known tokens stand first, so that causal attention sees them all.
CAUSAL: dict[str, Usual] = {"is_causal": (None, True), "causal": (None, True)}
FACTS = QWEN2.extended(family="WeDLM", usual={**CAUSAL, "qk_norm": NO})
WITH_NORMS = QWEN3.extended(family="WeDLM", usual={**CAUSAL, "qk_norm": (True,)})


def load(settings: LoadSettings) -> TransformersDenoiser:
    """Returns the denoiser of a WeDLM checkpoint."""
    folder, raw, values = open_checkpoint(settings, lambda raw: WITH_NORMS if raw.get("qk_norm") else FACTS)
    qwen3 = bool(raw.get("qk_norm"))
    config = (Qwen3Config if qwen3 else Qwen2Config)(**values)
    vocabulary = read_vocabulary(folder, raw, settings, ["<|im_end|>", "<|endoftext|>"], "<|mask|>")
    model = load_weights(Qwen3ForCausalLM if qwen3 else Qwen2ForCausalLM, config, folder, settings)
    return assemble(model, vocabulary, Traits("wedlm"), folder, settings, ReorderedDenoiser)
