"""LLaDA-MoE 7B-A1B (inclusionAI): Qwen3-MoE with router weights that are not renormalised, bidirectional, no shift."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from transformers import Qwen3MoeConfig, Qwen3MoeForCausalLM

from dlm_eval.models.config_keys import DENSE, WINDOWS
from dlm_eval.models.config_tables import COUNT, FLAG, NO, all_of
from dlm_eval.models.family import FamilySpec, OpenedCheckpoint
from dlm_eval.models.weights import Pretrained


def every_layer(frequency: Any) -> bool:
    """Returns whether every layer has experts."""
    return frequency in (None, 1) or (isinstance(frequency, list) and set(frequency) <= {1})


# Its experts have a size of their own; intermediate_size is that of layers without experts, of which it has none.
SIZES = {key: kind for key, kind in DENSE.needed.items() if key != "intermediate_size"}
KEYS = replace(DENSE, needed=SIZES).extended(
    family="LLaDA-MoE",
    needed=all_of(COUNT, "num_key_value_heads", "num_experts", "expert_intermediate_size", "num_experts_per_tok"),
    read={"dense_intermediate_size": COUNT, "norm_topk_prob": FLAG, "attention_bias": FLAG},
    defaults={"hidden_act": "silu", "norm_topk_prob": False, "attention_bias": False},
    usual={
        "moe_layer_freq": every_layer,
        "moe_router_enable_expert_bias": NO,
        "moe_router_score_function": ("softmax",),
        "qk_layernorm": (True,),
    },
    harmless=WINDOWS | {"ffn_hidden_size", "intermediate_size"},
)


def network(opened: OpenedCheckpoint) -> Pretrained:
    """Returns Qwen3-MoE with full attention."""
    values = opened.without("expert_intermediate_size", "dense_intermediate_size")
    inner = opened.values["expert_intermediate_size"]
    sizes = {
        "intermediate_size": opened.values.get("dense_intermediate_size", inner),
        "head_dim": values.get("head_dim", values["hidden_size"] // values["num_attention_heads"]),
    }
    config = Qwen3MoeConfig(
        **{**values, **sizes},
        moe_intermediate_size=inner,
        decoder_sparse_step=1,
        mlp_only_layers=[],
        is_causal=False,
    )
    return Pretrained(Qwen3MoeForCausalLM, config)


FAMILY = FamilySpec("lladamoe", KEYS, network, eos_tokens=("<|endoftext|>", "<|role_end|>"), mask_token="<|mask|>")
