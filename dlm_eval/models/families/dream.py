"""Dream (Ye et al. 2025), Dream-Coder, DiffuCoder, Open-dCoder: Qwen2, bidirectional, shifted."""

from __future__ import annotations

from transformers import Qwen2Config, Qwen2ForCausalLM, Qwen2Tokenizer

from dlm_eval.models.config_keys import QWEN2
from dlm_eval.models.family import FamilySpec, OpenedCheckpoint
from dlm_eval.models.weights import Pretrained

KEYS = QWEN2.extended(family="Dream")


def network(opened: OpenedCheckpoint) -> Pretrained:
    """Returns Qwen2 with full attention."""
    return Pretrained(Qwen2ForCausalLM, Qwen2Config(**opened.values, is_causal=False))


FAMILY = FamilySpec(
    "dream",
    KEYS,
    network,
    shift=True,
    eos_tokens=("<|endoftext|>", "<|im_end|>"),
    mask_token="<|mask|>",
    tokenizer_class=Qwen2Tokenizer,  # Dream's own class gives the same ids
)
