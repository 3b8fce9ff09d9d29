"""SDAR and TraDo (Cheng et al. 2025): Qwen3 or its MoE, trained block-causally."""

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
# A block of 1 is I-DLM's: strictly causal and shifted, under the same names.
BLOCK = {
    "block_size": Kind(
        "a whole number above 1 (1 is another model, I-DLM)",
        lambda value: COUNT.test(value) and value > 1,
    )
}
KEYS = QWEN3.extended(family="SDAR", read=BLOCK, harmless=TRAINED)
SPARSE = QWEN3_MOE.extended(family="SDAR", read=BLOCK, harmless=TRAINED)


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
