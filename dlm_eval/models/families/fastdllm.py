"""Fast-dLLM v2 1.5B and 7B (Wu et al. 2025): Qwen2.5 trained block-causally in blocks of 32,
shifted.

A block's first token is read at the last position of the block before, which does not see it: the
autoregressive prediction, as in the authors' decoding (`DecodeState.first_position_alone` writes it
alone, before the rest of the block).
"""

from __future__ import annotations

from transformers import Qwen2Config, Qwen2ForCausalLM

from dlm_eval.models.config_keys import QWEN2
from dlm_eval.models.config_tables import COUNT
from dlm_eval.models.family import BlockSettings, FamilySpec, OpenedCheckpoint, blocks_of
from dlm_eval.models.weights import Pretrained

BLOCK_LENGTH = 32  # if config.json does not say

KEYS = QWEN2.extended(family="Fast-dLLM v2", read={"bd_size": COUNT})


def network(opened: OpenedCheckpoint) -> Pretrained:
    """Returns Qwen2."""
    return Pretrained(Qwen2ForCausalLM, Qwen2Config(**opened.without("bd_size"), is_causal=False))


FAMILY = FamilySpec(
    "fastdllm",
    KEYS,
    network,
    BlockSettings,
    shift=True,
    causal_blocks=blocks_of("bd_size", BLOCK_LENGTH),
    bos_only_if_empty=True,
    eos_tokens=("<|im_end|>", "<|endoftext|>"),
    mask_token="|<MASK>|",
)
