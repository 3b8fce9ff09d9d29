"""WeDLM 7B/8B (Tencent 2025): a causal Qwen in which known tokens come first and masks last, each
at its own rotary position.

Shape letters: B = rows, L = positions, H = hidden size.
"""

from __future__ import annotations

import torch
from torch import Tensor
from transformers import Qwen2Config, Qwen2ForCausalLM, Qwen3Config, Qwen3ForCausalLM

from dlm_eval.models.config_keys import QWEN2, QWEN3
from dlm_eval.models.config_tables import NO, Usual
from dlm_eval.models.family import FamilySpec, OpenedCheckpoint
from dlm_eval.models.kv_cache import BatchKV, LayerCache, cache_argument, cached_mask
from dlm_eval.models.transformer import TransformersDenoiser, real_positions
from dlm_eval.models.weights import Pretrained


class ReorderedDenoiser(TransformersDenoiser):
    """A causal network whose masks see every known token, since they are moved behind them."""

    @property
    def exact_cache_block(self) -> int:
        """1, as of every causal network."""
        return 1

    def hidden(self, tokens: Tensor, valid: Tensor | None) -> Tensor:
        """Returns hidden states [B, L, H] in reading order."""
        return self.hidden_cached(tokens, valid, None, None)

    def hidden_cached(
        self, tokens: Tensor, valid: Tensor | None, past: BatchKV | None, states: LayerCache | None
    ) -> Tensor:
        """Returns hidden states [B, L, H] in reading order; cached positions come before."""
        real = torch.ones_like(tokens, dtype=torch.bool) if valid is None else valid
        # known, masks, padding
        order = torch.where(real, (tokens == self.mask_id).long(), 2).argsort(dim=1, stable=True)
        places = real_positions(real).gather(1, order)
        # Without a mask, transformers takes positions that fall back for packed sequences and hides
        # rows from each other.
        mask = torch.ones_like(tokens)
        if past is not None:
            places = past.begin[:, None] + places
            before = torch.ones(
                1, tokens.shape[1], tokens.shape[1], dtype=torch.bool, device=tokens.device
            ).tril()
            mask = cached_mask(before, past, self.dtype)
        found: Tensor = self.backbone(
            input_ids=tokens.gather(1, order),
            position_ids=places,
            attention_mask=mask,
            use_cache=False,
            **cache_argument(self.backbone, states),
        ).last_hidden_state
        if states is not None:
            states.reorder(order)
        return torch.empty_like(found).scatter_(1, order[..., None].expand_as(found), found)


# The 7B is a Qwen2.5, the 8B a Qwen3. Known tokens come first, so that causal attention sees them
# all.
CAUSAL: dict[str, Usual] = {"is_causal": (None, True), "causal": (None, True)}
KEYS = QWEN2.extended(family="WeDLM", usual={**CAUSAL, "qk_norm": NO})
WITH_NORMS = QWEN3.extended(family="WeDLM", usual={**CAUSAL, "qk_norm": (True,)})


def network(opened: OpenedCheckpoint) -> Pretrained:
    """Returns Qwen3, or Qwen2 for a checkpoint without norms of q and k, with causal attention."""
    qwen3 = bool(opened.config.get("qk_norm"))
    config = (Qwen3Config if qwen3 else Qwen2Config)(**opened.values)
    return Pretrained(Qwen3ForCausalLM if qwen3 else Qwen2ForCausalLM, config)


FAMILY = FamilySpec(
    "wedlm",
    lambda config: WITH_NORMS if config.get("qk_norm") else KEYS,
    network,
    eos_tokens=("<|im_end|>", "<|endoftext|>"),
    mask_token="<|mask|>",
    denoiser=lambda _: ReorderedDenoiser,
)
