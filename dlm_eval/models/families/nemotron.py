"""Nemotron-Labs-Diffusion (Fu et al. 2026, arXiv 2607.05722): Ministral 3, other names, two modes.

The same weights are read block-causally, each token in its own place (`attention=block`), or
autoregressively (`attention=causal`). The second reading also drafts: behind a text that is read
causally, a run of masks and the token before it see each other (`draft_logits`).

Shape letters: B = rows, L = positions, H = hidden size, V = vocabulary, N = wanted positions of the
batch.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from transformers import Ministral3Config, Ministral3ForCausalLM

from dlm_eval.errors import UserError
from dlm_eval.models.config_keys import DENSE, Rope
from dlm_eval.models.config_tables import COUNT, NONE
from dlm_eval.models.family import BlockSettings, FamilySpec, OpenedCheckpoint, blocks_of
from dlm_eval.models.kv_cache import additive_mask, visible_positions
from dlm_eval.models.naming import Naming
from dlm_eval.models.transformer import TransformersDenoiser, token_positions, wanted_places
from dlm_eval.models.weights import Pretrained

BLOCK_LENGTH = 32  # if config.json does not say
NAMING = Naming({r"^encoder\.": "model.", r"^diffusion_head\.": "lm_head."})
KEYS = DENSE.extended(
    family="Nemotron-Labs-Diffusion",
    needed={"head_dim": COUNT, "num_key_value_heads": COUNT},
    read={"block_size": COUNT},
    usual={"dlm_paradigm": (None, "bidirectional", "block_diff"), "sliding_window": NONE},
    harmless=frozenset({"ar_loss_weight", "dlm_loss_weight", "dp_varying_mask_ratio"}),
    # Queries are scaled by their position (Llama 4's way), from these two.
    rope=Rope(
        more=frozenset({"max_position_embeddings"}),
        needed=frozenset({"llama_4_scaling_beta", "original_max_position_embeddings"}),
    ),
)


@dataclass(frozen=True)
class NemotronSettings(BlockSettings):
    """Options of Nemotron-Labs-Diffusion.

    Attributes:
        attention: block (the diffusion mode) or causal (the autoregressive mode, which
            strategy=linear_spec drafts for).
    """

    attention: Literal["block", "causal"] = "block"


class NemotronDenoiser(TransformersDenoiser):
    """Either mode, with drafts of the diffusion mode behind a text that is read causally."""

    @torch.no_grad()
    def draft_logits(
        self, tokens: Tensor, valid: Tensor | None = None, positions: Tensor | None = None
    ) -> Tensor:
        """Returns float32 logits of masks behind a text (see `BlockDrafts.draft_logits`)."""
        tokens = tokens.to(self.device)
        valid = None if valid is None else valid.to(self.device)
        rows, columns, shape = wanted_places(tokens.shape, positions, self.device)
        places = token_positions(tokens, valid).expand_as(tokens)
        real = torch.ones_like(tokens, dtype=torch.bool) if valid is None else valid
        known = real & (tokens != self.mask_id)
        last = torch.where(known, places, -1).amax(1, keepdim=True)  # the token before the masks
        drafted = real & (places >= last)
        visible = visible_positions(places, valid, 1)
        visible = visible | drafted[:, :, None] & drafted[:, None, :]
        hidden = self.backbone(
            input_ids=tokens,
            attention_mask=additive_mask(visible, self.dtype),
            position_ids=places,
            use_cache=False,
        ).last_hidden_state
        return self._read_in_place(hidden, rows, columns).view(*shape, self.vocab_size)


def network(opened: OpenedCheckpoint) -> Pretrained:
    """Returns Ministral 3, whose attention the denoiser masks."""
    config = Ministral3Config(**opened.without("block_size"), is_causal=False)
    return Pretrained(Ministral3ForCausalLM, config, NAMING)


def is_autoregressive(opened: OpenedCheckpoint) -> bool:
    """Returns whether the user asks for the autoregressive mode.

    Raises:
        UserError: it was asked for together with a block length.
    """
    settings = opened.settings
    assert isinstance(settings, NemotronSettings)
    causal = settings.attention == "causal"
    if causal and settings.block_length is not None:
        raise UserError(
            f"model_args block_length '{settings.block_length}' does not go with attention "
            "'causal', which has no blocks; leave it out"
        )
    return causal


FAMILY = FamilySpec(
    "nemotron",
    KEYS,
    network,
    NemotronSettings,
    causal_blocks=blocks_of("block_size", BLOCK_LENGTH),
    autoregressive=is_autoregressive,
    denoiser=lambda _: NemotronDenoiser,
)
