"""`tiny`, the packaged model: a Llama whose config says is_causal=false and names the mask."""

from __future__ import annotations

from transformers import LlamaConfig, LlamaForCausalLM

from dlm_eval.models.config_keys import DENSE
from dlm_eval.models.config_tables import FLAG, INDEX
from dlm_eval.models.family import FamilySpec
from dlm_eval.models.weights import Pretrained

KEYS = DENSE.extended(
    family="tiny",
    needed={"mask_token_id": INDEX, "is_causal": FLAG},
    read={"attention_bias": FLAG, "mlp_bias": FLAG},
    defaults={"hidden_act": "silu", "attention_bias": False, "mlp_bias": False},
)


FAMILY = FamilySpec(
    "tiny", KEYS, lambda opened: Pretrained(LlamaForCausalLM, LlamaConfig(**opened.values))
)
