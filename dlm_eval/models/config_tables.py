"""What every family knows about the keys of a config.json: kinds of values, lists of keys, bounds
of sizes.

`HARMLESS` keys change no prediction. `NETWORK` keys choose another network unless they hold a usual
value. A family's own table (`config_keys.ConfigKeys`) goes before these. `check_config` bounds
sizes: Python would build 10^12 layers, one after the other, until memory ends.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any

from dlm_eval.errors import UserError

Usual = tuple[Any, ...] | Callable[[Any], bool]

# -- kinds of values -------------------------------------------------------------------------------


@dataclass(frozen=True)
class Kind:
    """A kind of value: what it is called and the test of it."""

    called: str
    test: Callable[[Any], bool]


def is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _activations() -> Collection[str]:
    from transformers.activations import ACT2FN

    known: Collection[str] = ACT2FN
    return known


COUNT = Kind("a whole number above 0", lambda value: _whole(value) and value > 0)
INDEX = Kind("a whole number, 0 or more", lambda value: _whole(value) and value >= 0)
POSITION = Kind("a number, 0 or more", lambda value: is_number(value) and value >= 0)
NUMBER = Kind("a number above 0", lambda value: is_number(value) and value > 0)
FLAG = Kind("true or false", lambda value: isinstance(value, bool))
TEXT = Kind("text", lambda value: isinstance(value, str))
ACTIVATION = Kind(
    "an activation that transformers knows",
    lambda value: isinstance(value, str) and value in _activations(),
)
LIST = Kind("a list", lambda value: isinstance(value, list))
OBJECT = Kind("an object", lambda value: isinstance(value, dict))
ANYTHING = Kind("anything", lambda value: True)


def all_of(kind: Kind, *keys: str) -> dict[str, Kind]:
    """Returns these keys with one kind."""
    return dict.fromkeys(keys, kind)


# -- lists of keys ---------------------------------------------------------------------------------

METADATA = {
    "_attn_implementation", "_commit_hash", "_name_or_path", "_note", "architectures", "attn_implementation", "auto_map", "dtype",
    "finetuning_task", "id2label", "label2id", "language", "license", "model_type", "name_or_path", "num_labels", "problem_type",
    "task_specific_params", "tokenizer_class", "torch_dtype", "transformers_version", "transformers_weights", "unsloth_version",
    "unsloth_fixed", "processor_class", "name", "notes",
}  # fmt: skip
TRAINING = {
    "attention_dropout", "attention_probs_dropout_prob", "attn_pdrop", "aux_loss_alpha", "classifier_dropout", "dropout",
    "embd_pdrop", "embedding_dropout", "gradient_checkpointing", "hidden_dropout", "hidden_dropout_prob", "initializer_range",
    "initializer_factor", "mtp_loss_scaling_factor", "output_dropout", "output_router_logits", "pretraining_tp", "resid_pdrop",
    "residual_dropout", "router_aux_loss_coef", "router_jitter_noise", "router_z_loss_coef", "seq_aux", "torchscript", "use_bfloat16",
    "tf_legacy_loss", "keys_to_ignore_at_inference", "chunk_size_feed_forward",
}  # fmt: skip
GENERATION = {
    "bad_words_ids", "begin_suppress_tokens", "bos_token_id", "decoder_start_token_id", "diversity_penalty", "do_sample",
    "early_stopping", "encoder_no_repeat_ngram_size", "eos_token_id", "exponential_decay_length_penalty", "forced_bos_token_id",
    "forced_eos_token_id", "length_penalty", "mask_token_id", "max_length", "min_length", "no_repeat_ngram_size", "num_beam_groups",
    "num_beams", "num_return_sequences", "output_attentions", "output_hidden_states", "output_scores", "pad_token_id", "prefix",
    "remove_invalid_values", "repetition_penalty", "return_dict", "return_dict_in_generate", "sep_token_id", "suppress_tokens",
    "temperature", "top_k", "top_p", "typical_p", "use_cache", "cls_token_id", "output_past",
    "unk_token_id",
}  # fmt: skip
HARMLESS = METADATA | TRAINING | GENERATION

NO = (None, False)
ONE = (None, 1)
NONE = (None,)


def full_layers(kinds: Any) -> bool:
    """Returns whether every layer of `layer_types` attends to everything."""
    return kinds is None or (isinstance(kinds, list) and set(kinds) <= {"full_attention"})


# Keys that choose another network in some family of transformers, with the values under which they
# choose none. A family that has such a part says so in its own table, which goes first.
NETWORK: dict[str, Usual] = {
    **dict.fromkeys(
        [
            "add_bias_linear", "add_cross_attention", "alibi", "apply_layernorm_1p", "attention_bias", "attention_out_bias", "attn_bias",
            "attention_output_gate", "attn_temperature_tuning", "bias", "causal", "causal_attn", "cross_attention", "include_bias",
            "input_emb_norm", "is_decoder", "is_encoder_decoder", "lm_head_bias", "logit_scale_enabled", "mlp_bias", "mup", "mup_enabled",
            "norm_head", "norm_softmax", "normalize_embedding", "parallel_attn", "parallel_residual", "qk_layernorm", "qk_norm",
            "qkv_bias", "rope_interleave", "rope_interleaved", "rotary_interleaved", "scale_embedding", "scale_embeddings", "scale_logits",
            "shared_attention_norm", "tie_encoder_decoder", "time_conditioning", "use_alibi", "use_bias", "use_mrope", "use_mup",
            "use_parallel_residual", "use_qk_norm", "use_qkv_bias", "use_sliding_window", "multi_query_attention", "multi_query",
            "apply_residual_connection_post_layernorm", "clip_qkv_enabled", "use_post_norm", "sandwich_norm", "use_linear_attention",
        ],
        NO,
    ),
    **dict.fromkeys(
        [
            "attention_chunk_size", "attention_multiplier_base", "attn_logit_softcapping", "attn_scale", "attention_scale", "clip_qkv",
            "dim_model_base", "embedding_scale", "expert_capacity", "final_logit_softcapping", "kv_lora_rank", "linear_attention",
            "logit_cap", "logit_scale_base", "mrope_section", "mup_base_width", "mup_width_multiplier", "mup_attn_multiplier",
            "no_rope_layer_interval", "no_rope_layers", "nope_layer_interval", "num_hash_layers", "q_lora_rank", "qk_clip",
            "query_pre_attn_scalar", "rotary_dim", "softmax_scale", "attention_softcap", "attn_softcap", "logits_softcap",
            "quantization_config", "quantization", "quantization_bits", "compression_config", "sliding_window_pattern",
            "rope_local_base_freq", "local_rope_theta", "sliding_window", "router_num_group", "router_topk_group", "layer_group_size",
        ],
        NONE,
    ),
    **dict.fromkeys(
        [
            "attention_multiplier", "attn_output_multiplier", "attention_in_multiplier", "attention_out_multiplier", "embedding_multiplier",
            "key_multiplier", "lm_head_multiplier", "logit_multiplier", "logit_scale", "logits_scaling", "logits_scale", "mup_multiplier",
            "moe_router_topk_scaling_factor", "mlp_multiplier", "output_multiplier", "output_multiplier_scale", "partial_rotary_factor",
            "residual_multiplier", "rotary_emb_fraction", "rotary_pct", "rotary_percentage", "routed_scaling_factor", "scale_depth",
            "scale_emb", "width_multiplier", "mup_input_alpha", "mup_output_alpha", "mup_embeddings_multiplier", "embed_scale",
            "condense_ratio", "block_group_size", "rope_factor", "position_scale", "residual_scale",
        ],
        ONE,
    ),
    **dict.fromkeys(
        ["num_experts", "num_local_experts", "n_routed_experts", "n_shared_experts", "num_shared_experts", "shared_expert_intermediate_size",
         "moe_intermediate_size", "num_nextn_predict_layers", "first_k_dense_replace", "n_group", "topk_group", "num_experts_per_tok"],
        (None, 0),
    ),
    "hidden_act": ("silu",),
    "layer_types": full_layers,
    "position_embedding_type": (None, "rope", "rotary"),
    "pruned_heads": (None, {}),
    "is_causal": NO,
    "block_size": NONE,
    "block_length": NONE,
}  # fmt: skip


# -- sizes -----------------------------------------------------------------------------------------

# most layers; heads, experts and their like; widths, rows and positions
LAYERS, MANY, ROWS = (10_000, 2**20, 2**31)
MOST = {
    **dict.fromkeys(
        ["n_layers", "n_layer", "num_layers", "num_hidden_layers", "n_blocks", "layers"], LAYERS
    ),
    **dict.fromkeys(["first_k_dense_replace", "num_nextn_predict_layers"], LAYERS),
    **dict.fromkeys(["n_heads", "n_head", "heads", "num_attention_heads", "num_heads"], MANY),
    **dict.fromkeys(
        ["n_kv_heads", "num_key_value_heads", "n_query_groups", "n_group", "topk_group"], MANY
    ),
    **dict.fromkeys(
        ["num_experts", "n_routed_experts", "num_local_experts", "num_shared_experts"], MANY
    ),
    **dict.fromkeys(["num_experts_per_tok", "n_shared_experts", "head_dim", "bd_size"], MANY),
    **dict.fromkeys(
        ["d_model", "n_embd", "hidden_size", "hidden_dim", "model_length", "block_size", "length"],
        ROWS,
    ),
    **dict.fromkeys(
        ["intermediate_size", "mlp_hidden_size", "moe_intermediate_size", "n_inner"], ROWS
    ),
    **dict.fromkeys(
        ["expert_intermediate_size", "dense_intermediate_size", "cond_dim", "cond_size"], ROWS
    ),
    **dict.fromkeys(
        ["vocab_size", "embedding_size", "padded_vocab_size", "tokens", "type_vocab_size"], ROWS
    ),
    **dict.fromkeys(
        ["max_position_embeddings", "max_sequence_length", "n_positions", "n_ctx"], ROWS
    ),
}
ZERO = {  # that may be absent in a network
    "first_k_dense_replace", "num_nextn_predict_layers", "num_shared_experts", "n_shared_experts", "num_experts", "n_routed_experts",
    "num_local_experts", "num_experts_per_tok", "n_group", "topk_group", "moe_intermediate_size", "type_vocab_size",
}  # fmt: skip
KERNELS = ("attn_implementation", "experts_implementation")  # entries that can name code of others


def check_config(config: Mapping[str, Any], whose: str, name: str = "config.json") -> None:
    """Raises UserError if a size in `config`, or in a mapping inside it, is no whole number or none
    that a network has, or if it names code.

    Args:
        config: a config.json.
        whose: names the checkpoint, for the message.
        name: of the file.
    """
    said = f"{whose}: {name} has"
    pending: list[Mapping[str, Any]] = [config]
    while pending:
        for key, value in pending.pop().items():
            if isinstance(value, Mapping) and not key.endswith("token_id"):
                pending.append(value)
            elif key in MOST and value is not None and not isinstance(value, list):
                _check_size(key, value, said)
            elif key.endswith("token_id"):
                _check_ids(key, value, said)
            elif key.endswith(KERNELS) and "/" in str(value):
                raise UserError(f"{said} {key} '{value}', code from elsewhere, which is not run")


def _check_size(key: str, value: Any, said: str) -> None:
    least = 0 if key in ZERO else 1
    if type(value) is not int or not least <= value <= MOST[key]:
        shown = repr(value) if isinstance(value, str) else value
        raise UserError(
            f"{said} {key} {str(shown)[:40]}; it must be a whole number from {least} to {MOST[key]}"
        )


def _check_ids(key: str, value: Any, said: str) -> None:
    for one in value if isinstance(value, list) else [value]:
        if one is not None and (type(one) is not int or not -1 <= one < ROWS):
            raise UserError(f"{said} {key} {str(one)[:40]}; it must be the number of a token")
