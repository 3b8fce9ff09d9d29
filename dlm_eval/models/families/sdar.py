"""SDAR and TraDo (Cheng et al. 2025): Qwen3 or its MoE, trained block-causally; and I-DLM.

I-DLM (Yu et al. 2026, arXiv 2604.11035) has SDAR's model_type and is read in another way: strictly
causal, the distribution of token i at position i-1. Its config.json has a `block_size` of 1, 2 or
3, which is that of its training data and no block of attention.
"""

from __future__ import annotations

from transformers import Qwen3Config, Qwen3ForCausalLM, Qwen3MoeConfig, Qwen3MoeForCausalLM

from dlm_eval.models.config_keys import QWEN3, QWEN3_MOE
from dlm_eval.models.config_tables import COUNT, Kind
from dlm_eval.models.family import BlockSettings, FamilySpec, OpenedCheckpoint, blocks_of
from dlm_eval.models.weights import Pretrained

BLOCK_LENGTH = 4  # of the checkpoints whose config does not say


# What the authors' training code wrote beside the sizes.
TRAINED = frozenset(
    {"debug", "ep_size", "fuse_cross_entropy", "micro_forward", "skip_checkpoint", "use_deepep"}
)
LARGEST_IDLM = 3  # block_size of I-DLM's configs: 1, 2 and 3
BLOCK = {
    "block_size": Kind(
        f"a whole number above {LARGEST_IDLM} (up to it, the checkpoint is --model idlm)",
        lambda value: COUNT.test(value) and value > LARGEST_IDLM,
    )
}
IDLM_BLOCK = {
    "block_size": Kind(
        f"1 to {LARGEST_IDLM} (above it, the checkpoint is --model sdar)",
        lambda value: COUNT.test(value) and value <= LARGEST_IDLM,
    )
}
KEYS = QWEN3.extended(family="SDAR", read=BLOCK, harmless=TRAINED)
SPARSE = QWEN3_MOE.extended(family="SDAR", read=BLOCK, harmless=TRAINED)
# model_type is SDAR's, so the name has to begin with it.
IDLM_KEYS = QWEN3.extended(family="SDAR (I-DLM)", needed=IDLM_BLOCK, harmless=TRAINED)


def network(opened: OpenedCheckpoint) -> Pretrained:
    """Returns Qwen3, or its mixture of experts."""
    sparse = "num_experts" in opened.values
    config = (Qwen3MoeConfig if sparse else Qwen3Config)(
        **opened.without("block_size"), is_causal=False
    )
    return Pretrained(Qwen3MoeForCausalLM if sparse else Qwen3ForCausalLM, config)


FAMILY = FamilySpec(
    "sdar",
    lambda config: SPARSE if "num_experts" in config else KEYS,
    network,
    BlockSettings,
    causal_blocks=blocks_of("block_size", BLOCK_LENGTH, warn=True),
    eos_tokens=("<|im_end|>", "<|endoftext|>"),
    mask_token="<|MASK|>",
)
IDLM = FamilySpec(
    "idlm",
    IDLM_KEYS,
    network,
    autoregressive=lambda _: True,
    bos_only_if_empty=True,
    eos_tokens=("<|im_end|>", "<|endoftext|>"),
    mask_token="<|MASK|>",
)
