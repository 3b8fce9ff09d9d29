"""Dream (Ye et al. 2025), Dream-Coder, DiffuCoder, Open-dCoder: Qwen2, bidirectional, shifted.

DreamReasoner (arXiv 2606.19257) has the same model_type and is another network: Qwen3,
block-causal, read in its own place. Its config.json has a `block_size`, and its weights norms of
queries and keys.
"""

from __future__ import annotations

from typing import Any

from transformers import (
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen2Tokenizer,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from dlm_eval.errors import UserError
from dlm_eval.models.config_keys import QWEN2, QWEN3, ConfigKeys
from dlm_eval.models.config_tables import COUNT, Kind
from dlm_eval.models.family import BlockSettings, FamilySpec, OpenedCheckpoint, blocks_of
from dlm_eval.models.weights import Pretrained

KEYS = QWEN2.extended(family="Dream")
REASONER_KEYS = QWEN3.extended(
    family="DreamReasoner",
    needed={
        "block_size": Kind(
            "a whole number above 1 (a Dream checkpoint without it is --model dream)",
            lambda value: COUNT.test(value) and value > 1,
        )
    },
)
BLOCK_LENGTH = 32


def keys(config: dict[str, Any]) -> ConfigKeys:
    """Returns the table of Dream.

    Raises:
        UserError: the file is DreamReasoner's.
    """
    if config.get("block_size") is not None:
        raise UserError(
            f"config.json has block_size {str(config['block_size'])[:40]}: this checkpoint is not "
            "Dream but block-causal, as DreamReasoner is; use --model dreamreasoner"
        )
    return KEYS


def network(opened: OpenedCheckpoint) -> Pretrained:
    """Returns Qwen2 with full attention."""
    return Pretrained(Qwen2ForCausalLM, Qwen2Config(**opened.values, is_causal=False))


def reasoner_network(opened: OpenedCheckpoint) -> Pretrained:
    """Returns Qwen3, whose attention the denoiser masks."""
    config = Qwen3Config(**opened.without("block_size"), is_causal=False)
    return Pretrained(Qwen3ForCausalLM, config)


FAMILY = FamilySpec(
    "dream",
    keys,
    network,
    shift=True,
    eos_tokens=("<|endoftext|>", "<|im_end|>"),
    mask_token="<|mask|>",
    tokenizer_class=Qwen2Tokenizer,  # Dream's own class gives the same ids
)
REASONER = FamilySpec(
    "dreamreasoner",
    REASONER_KEYS,
    reasoner_network,
    BlockSettings,
    causal_blocks=blocks_of("block_size", BLOCK_LENGTH),
    eos_tokens=("<|im_end|>", "<|endoftext|>"),
    tokenizer_class=Qwen2Tokenizer,
)
