"""LLaDA-MoE 7B-A1B (inclusionAI): Qwen3-MoE with router weights that are not renormalised, bidirectional, no shift."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from transformers import Qwen3MoeConfig, Qwen3MoeForCausalLM

from dlm_eval.models.assemble import assemble
from dlm_eval.models.config_facts import DENSE, NO, WINDOWS
from dlm_eval.models.loading import LoadSettings, open_checkpoint
from dlm_eval.models.transformer import Traits, TransformersDenoiser
from dlm_eval.models.value_kinds import COUNT, FLAG, all_of
from dlm_eval.models.vocabulary import read_vocabulary
from dlm_eval.models.weights import load_weights


def every_layer(frequency: Any) -> bool:
    """Returns whether every layer has experts."""
    return frequency in (None, 1) or (isinstance(frequency, list) and set(frequency) <= {1})


# Its experts have a size of their own; intermediate_size is that of layers without experts, of which it has none.
SIZES = {key: kind for key, kind in DENSE.needed.items() if key != "intermediate_size"}
FACTS = replace(DENSE, needed=SIZES).extended(
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


def load(settings: LoadSettings) -> TransformersDenoiser:
    """Returns the denoiser of a LLaDA-MoE checkpoint."""
    folder, raw, values = open_checkpoint(settings, FACTS)
    inner = values.pop("expert_intermediate_size")
    config = Qwen3MoeConfig(
        **{
            **values,
            "intermediate_size": values.pop("dense_intermediate_size", inner),
            "head_dim": values.get("head_dim", values["hidden_size"] // values["num_attention_heads"]),
        },
        moe_intermediate_size=inner,
        decoder_sparse_step=1,
        mlp_only_layers=[],
        is_causal=False,
    )
    vocabulary = read_vocabulary(folder, raw, settings, ["<|endoftext|>", "<|role_end|>"], "<|mask|>")
    model = load_weights(Qwen3MoeForCausalLM, config, folder, settings)
    return assemble(model, vocabulary, Traits("lladamoe"), folder, settings)
