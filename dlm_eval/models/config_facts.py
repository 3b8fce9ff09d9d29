"""What a family makes of the keys of config.json, as a table beside the family, and the one check of a file against it.

A key is read, or must hold its usual value (any other chooses a network that is not built here), or is known to change no prediction.
A key in no list is one warning, recorded in the result; `strict_config=true` makes it an error. A key that the family needs and the file
lacks is an error: a library's default would be another network's.
"""

from __future__ import annotations

import difflib
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from dlm_eval.errors import UserError
from dlm_eval.models.rope_facts import Rope, rope_parameters
from dlm_eval.models.value_kinds import ACTIVATION, COUNT, FLAG, LIST, NUMBER, Kind, all_of

log = logging.getLogger(__name__)

Values = Mapping[str, Any]
Usual = tuple[Any, ...] | Callable[[Any], bool]

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


# Keys that choose another network in some family of transformers, with the values under which they choose none. A family that has such a
# part says so in its own table, which goes first.
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


# -- the table and its check -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Facts:
    """What a family makes of the keys of config.json.

    Attributes:
        family: its name in messages.
        needed: keys that it reads and cannot do without; nested ones are named by dots.
        read: keys that it reads if they are there (null is the same as absent).
        defaults: values of `read` keys that are absent: those of the authors' code.
        usual: keys that must hold one of these values (absent: the first), or pass this test.
        harmless: keys that change no prediction; "training" stands for "training.weight" too.
        rope: how it reads rotary positions, or None if it has none.
    """

    family: str
    needed: Mapping[str, Kind]
    read: Mapping[str, Kind] = field(default_factory=dict)
    defaults: Values = field(default_factory=dict)
    usual: Mapping[str, Usual] = field(default_factory=dict)
    harmless: frozenset[str] = frozenset()
    rope: Rope | None = None

    def extended(
        self,
        needed: Mapping[str, Kind] | None = None,
        read: Mapping[str, Kind] | None = None,
        usual: Mapping[str, Usual] | None = None,
        harmless: frozenset[str] = frozenset(),
        **changes: Any,
    ) -> Facts:
        """Returns these facts with more entries."""
        return replace(
            self,
            needed={**self.needed, **(needed or {})},
            read={**self.read, **(read or {})},
            usual={**self.usual, **(usual or {})},
            harmless=self.harmless | harmless,
            **changes,
        )


@dataclass(frozen=True)
class Checked:
    """What a check found.

    Attributes:
        values: the needed and read keys, defaults filled in, rotary positions as `rope_parameters` in transformers 5's form.
        unread: keys in no list.
    """

    values: dict[str, Any]
    unread: tuple[str, ...]


ROPE_KEYS = ("rope_theta", "rope_scaling", "rope_parameters")


def check(raw: Values, facts: Facts, name: str) -> Checked:
    """Returns the values that `facts` reads of a config.json, and the keys that nobody knows.

    Args:
        raw: the file.
        facts: the family's table.
        name: the checkpoint's, for messages.

    Raises:
        UserError: a key is missing, of the wrong kind, or chooses a network that is not built here.
    """
    where = f"pretrained '{name}': config.json"
    raw = flat(raw) if any("." in key for key in facts.needed) else raw
    absent = [key for key in facts.needed if raw.get(key) is None]
    if facts.rope and not absent and raw.get("rope_theta") is None and not raw.get("rope_parameters"):
        absent = ["rope_theta"]
    if absent:
        raise UserError(
            f"pretrained '{name}' is not a {facts.family} checkpoint: its config.json (model_type '{raw.get('model_type', 'unnamed')}') "
            f"lacks {', '.join(absent)}"
        )
    values = dict(facts.defaults)
    for key, kind in {**facts.needed, **facts.read}.items():
        value = raw.get(key)
        if value is None:
            continue
        if not kind.test(value):
            raise UserError(f"{where} has {key} {value!r}; it must be {kind.called}")
        values[key] = value
    usual = {**NETWORK, **facts.usual}
    known = {*facts.needed, *facts.read, *(ROPE_KEYS if facts.rope else ())}
    for key in sorted((NETWORK.keys() - known - facts.harmless) | facts.usual.keys()):
        if key in raw:
            _check_usual(where, facts.family, key, raw[key], usual[key])
    if facts.rope:
        values["rope_parameters"] = rope_parameters(raw, facts.rope, facts.family, where)
    else:
        for key in ROPE_KEYS:
            if key not in known and raw.get(key) is not None and key not in facts.harmless:
                raise UserError(f"{where} has {key} {raw[key]!r}, which {facts.family} does not read")
    known |= usual.keys() | facts.harmless | HARMLESS | set(ROPE_KEYS)
    return Checked(values, tuple(sorted(key for key in raw if key not in known and key.split(".")[0] not in known)))


def flat(nested: Values, prefix: str = "") -> dict[str, Any]:
    """Returns nested entries by one name each, such as "model.length"."""
    found: dict[str, Any] = {}
    for key, value in nested.items():
        found |= flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return found


def report_unread(unread: tuple[str, ...], facts: Facts, name: str, strict: bool) -> None:
    """Warns of keys that nobody knows, in one line; with `strict` raises UserError."""
    if not unread:
        return
    listed = {*facts.needed, *facts.read, *facts.usual}
    guesses = []
    for key in unread:
        near = difflib.get_close_matches(key, listed - {key}, 1, 0.8)
        guesses.append(f"{key} (near {near[0]})" if near else key)
    told = f"pretrained '{name}': config.json has keys that {facts.family} does not know and does not read: {', '.join(guesses)}"
    if strict:
        raise UserError(f"{told}; strict_config=true makes this an error")
    log.warning("%s; the result lists them, strict_config=true makes this an error", told)


def _check_usual(where: str, family: str, key: str, value: Any, usual: Usual) -> None:
    if callable(usual):
        if not usual(value):
            raise UserError(
                f"{where} has {key} {value!r}, which chooses another network than the one built for {family}"
            )
        return
    if not any(value == one and isinstance(value, bool) == isinstance(one, bool) for one in usual):
        allowed = " or ".join(
            "null" if one is None else str(one).lower() if isinstance(one, bool) else repr(one) for one in usual
        )
        raise UserError(
            f"{where} has {key} {value!r}, which chooses another network than the one built for {family}; it must be {allowed}"
        )


# -- tables that several families share -------------------------------------------------------------------------------------

# A decoder of transformers in the form of Llama: sizes, norm, activation, head.
DENSE = Facts(
    "a transformer",
    needed=all_of(
        COUNT,
        "vocab_size",
        "hidden_size",
        "intermediate_size",
        "num_hidden_layers",
        "num_attention_heads",
        "max_position_embeddings",
    )
    | {"rms_norm_eps": NUMBER},
    read={"hidden_act": ACTIVATION, "tie_word_embeddings": FLAG, "head_dim": COUNT, "num_key_value_heads": COUNT},
    defaults={"hidden_act": "silu"},
    rope=Rope(),
)
# sliding_window counts only with use_sliding_window, which must be false.
WINDOWS = frozenset({"sliding_window", "max_window_layers"})
# Qwen2: q, k and v have a bias, whatever the file says.
QWEN2 = DENSE.extended(
    needed={"num_key_value_heads": COUNT},
    usual={"attention_bias": (None, True), "qkv_bias": (None, True)},
    harmless=WINDOWS,
)
# Qwen3: no such bias unless the file says so, and norms of q and k.
QWEN3 = DENSE.extended(
    needed={"num_key_value_heads": COUNT, "head_dim": COUNT},
    read={"attention_bias": FLAG},
    defaults={"hidden_act": "silu", "attention_bias": False},
    usual={"qk_norm": (None, True), "use_qk_norm": (None, True), "qk_layernorm": (None, True)},
    harmless=WINDOWS,
)
QWEN3_MOE = QWEN3.extended(
    needed=all_of(COUNT, "num_experts", "num_experts_per_tok", "moe_intermediate_size", "decoder_sparse_step")
    | {"norm_topk_prob": FLAG},
    read={"mlp_only_layers": LIST},
    defaults={"hidden_act": "silu", "attention_bias": False, "mlp_only_layers": []},
)
