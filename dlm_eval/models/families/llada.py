"""LLaDA 8B Base/Instruct, LLaDA 1.5 (Nie et al. 2025) and LLaDA-MoE 7B-A1B: bidirectional, no
shift.

LLaDA is a Llama with other names; its mask and eos come from the files. LLaDA-MoE (inclusionAI) is
a Qwen3-MoE with router weights that are not renormalised.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3MoeConfig,
    Qwen3MoeForCausalLM,
)

from dlm_eval.models.config_keys import DENSE, WINDOWS, ConfigKeys, Rope
from dlm_eval.models.config_tables import COUNT, FLAG, NO, NUMBER, all_of
from dlm_eval.models.family import FamilySpec, OpenedCheckpoint
from dlm_eval.models.naming import Naming
from dlm_eval.models.weights import Pretrained

PARTS = {
    "attn_norm": "input_layernorm",
    "q_proj": "self_attn.q_proj",
    "k_proj": "self_attn.k_proj",
    "v_proj": "self_attn.v_proj",
    "attn_out": "self_attn.o_proj",
    "ff_norm": "post_attention_layernorm",
    "ff_proj": "mlp.gate_proj",
    "up_proj": "mlp.up_proj",
    "ff_out": "mlp.down_proj",
}
NAMING = Naming(
    {
        rf"^model\.transformer\.blocks\.(\d+)\.{theirs}\.": rf"model.layers.\1.{ours}."
        for theirs, ours in PARTS.items()
    }
    | {
        r"^model\.transformer\.wte\.": "model.embed_tokens.",
        r"^model\.transformer\.ln_f\.": "model.norm.",
        r"^model\.transformer\.ff_out\.": "lm_head.",
    }
)
KEYS = ConfigKeys(
    "LLaDA",
    needed=all_of(COUNT, "vocab_size", "d_model", "n_layers", "n_heads", "mlp_hidden_size", "max_sequence_length")
    | {"rms_norm_eps": NUMBER},
    read={
        "embedding_size": COUNT,
        "n_kv_heads": COUNT,
        "weight_tying": FLAG,
        "tie_word_embeddings": FLAG,
        "include_qkv_bias": FLAG,
    },
    usual={
        "activation_type": ("silu",),
        "attention_layer_norm": NO,
        "bias_for_layer_norm": NO,
        "block_type": ("llama",),
        "layer_norm_type": ("rms",),
        "layer_norm_with_affine": (True,),
        "rope": (True,),
        "rope_full_precision": (True,),
    },
    harmless=frozenset(
        {
            "alibi_bias_max", "attention_layer_norm_with_affine", "flash_attention", "init_cutoff_factor", "init_device", "init_fn",
            "init_std", "layer_norm_eps", "mlp_ratio", "precision",
        }
    ),
    rope=Rope(("default",)),
)  # fmt: skip


def network(opened: OpenedCheckpoint) -> Pretrained:
    """Returns Llama, or Qwen2 for a checkpoint with a bias of q, k and v alone.

    Raises:
        UserError: config.json says twice and differently whether the head is tied.
    """
    values = opened.values
    tied = values.get("weight_tying", False)
    if values.get("tie_word_embeddings", tied) != tied:
        raise opened.error(
            f": config.json has weight_tying {tied} and tie_word_embeddings {not tied}; leave out "
            "the latter"
        )
    biased = values.get("include_qkv_bias", False)
    config = (Qwen2Config if biased else LlamaConfig)(
        vocab_size=values.get("embedding_size", values["vocab_size"]),
        hidden_size=values["d_model"],
        intermediate_size=values["mlp_hidden_size"],
        num_hidden_layers=values["n_layers"],
        num_attention_heads=values["n_heads"],
        num_key_value_heads=values.get("n_kv_heads", values["n_heads"]),
        max_position_embeddings=values["max_sequence_length"],
        rms_norm_eps=values["rms_norm_eps"],
        tie_word_embeddings=tied,
        rope_parameters=values["rope_parameters"],
        is_causal=False,
    )
    return Pretrained(Qwen2ForCausalLM if biased else LlamaForCausalLM, config, NAMING)


FAMILY = FamilySpec(
    "llada", KEYS, network, eos_tokens=("<|endoftext|>", "<|eot_id|>"), mask_token="<|mdm_mask|>"
)


# -- LLaDA-MoE -------------------------------------------------------------------------------------


def every_layer(frequency: Any) -> bool:
    """Returns whether every layer has experts."""
    return frequency in (None, 1) or (isinstance(frequency, list) and set(frequency) <= {1})


# Its experts have a size of their own; intermediate_size is that of layers without experts, of
# which it has none.
MOE_SIZES = {key: kind for key, kind in DENSE.needed.items() if key != "intermediate_size"}
MOE_KEYS = replace(DENSE, needed=MOE_SIZES).extended(
    family="LLaDA-MoE",
    needed=all_of(
        COUNT,
        "num_key_value_heads",
        "num_experts",
        "expert_intermediate_size",
        "num_experts_per_tok",
    ),
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


def moe_network(opened: OpenedCheckpoint) -> Pretrained:
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


MOE = FamilySpec(
    "lladamoe",
    MOE_KEYS,
    moe_network,
    eos_tokens=("<|endoftext|>", "<|role_end|>"),
    mask_token="<|mask|>",
)
