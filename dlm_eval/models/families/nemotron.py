"""Nemotron-Labs-Diffusion (NVIDIA 2026): Ministral 3, other names, block-causal in blocks of 32."""

from __future__ import annotations

from transformers import Ministral3Config, Ministral3ForCausalLM

from dlm_eval.models.config_keys import DENSE, Rope
from dlm_eval.models.config_tables import COUNT, NONE
from dlm_eval.models.family import BlockSettings, FamilySpec, OpenedCheckpoint, blocks_of
from dlm_eval.models.naming import Naming
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


def network(opened: OpenedCheckpoint) -> Pretrained:
    """Returns Ministral 3 in its diffusion mode: predictions are read in their own place."""
    config = Ministral3Config(**opened.without("block_size"), is_causal=False)
    return Pretrained(Ministral3ForCausalLM, config, NAMING)


FAMILY = FamilySpec(
    "nemotron", KEYS, network, BlockSettings, causal_blocks=blocks_of("block_size", BLOCK_LENGTH)
)
