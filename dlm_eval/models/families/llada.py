"""LLaDA 8B Base/Instruct, LLaDA 1.5 (Nie et al. 2025): a Llama with other names, bidirectional, no shift. Mask and eos come from the files."""

from __future__ import annotations

from transformers import LlamaConfig, LlamaForCausalLM, Qwen2Config, Qwen2ForCausalLM

from dlm_eval.models.config_keys import ConfigKeys
from dlm_eval.models.config_tables import COUNT, FLAG, NO, NUMBER, all_of
from dlm_eval.models.family import FamilySpec, OpenedCheckpoint
from dlm_eval.models.naming import Naming
from dlm_eval.models.rope_keys import Rope
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
    {rf"^model\.transformer\.blocks\.(\d+)\.{theirs}\.": rf"model.layers.\1.{ours}." for theirs, ours in PARTS.items()}
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
        [
            "alibi_bias_max",
            "attention_layer_norm_with_affine",
            "flash_attention",
            "init_cutoff_factor",
            "init_device",
            "init_fn",
            "init_std",
            "layer_norm_eps",
            "mlp_ratio",
            "precision",
        ]
    ),
    rope=Rope(("default",)),
)


def network(opened: OpenedCheckpoint) -> Pretrained:
    """Returns Llama, or Qwen2 for a checkpoint with a bias of q, k and v alone.

    Raises:
        UserError: config.json says twice and differently whether the head is tied.
    """
    values = opened.values
    tied = values.get("weight_tying", False)
    if values.get("tie_word_embeddings", tied) != tied:
        raise opened.error(
            f": config.json has weight_tying {tied} and tie_word_embeddings {not tied}; leave out the latter"
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


FAMILY = FamilySpec("llada", KEYS, network, eos_tokens=("<|endoftext|>", "<|eot_id|>"), mask_token="<|mdm_mask|>")
