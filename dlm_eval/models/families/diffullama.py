"""DiffuLLaMA (Gong et al. 2024): Llama-2 files as they are, bidirectional, shifted. Its mask is an ordinary vocabulary item."""

from __future__ import annotations

from transformers import LlamaConfig, LlamaForCausalLM

from dlm_eval.models.config_keys import DENSE
from dlm_eval.models.config_tables import FLAG
from dlm_eval.models.family import FamilySpec, OpenedCheckpoint
from dlm_eval.models.naming import Naming
from dlm_eval.models.weights import Pretrained

MASKS = {32000: 811}  # by vocabulary size: a word of Llama 2's vocabulary

# Its authors' class keeps the token embedding apart from the network, which the files do not.
NAMING = Naming(prefixes=(("denoise_model.", "model."),))
KEYS = DENSE.extended(
    family="DiffuLLaMA",
    read={"attention_bias": FLAG, "mlp_bias": FLAG},
    defaults={"hidden_act": "silu", "attention_bias": False, "mlp_bias": False},
)


def network(opened: OpenedCheckpoint) -> Pretrained:
    """Returns Llama with full attention."""
    return Pretrained(LlamaForCausalLM, LlamaConfig(**opened.values, is_causal=False), NAMING)


FAMILY = FamilySpec(
    "diffullama",
    KEYS,
    network,
    shift=True,
    default_mask=lambda values: MASKS.get(values["vocab_size"]),
    mask_may_be_regular=True,
)
