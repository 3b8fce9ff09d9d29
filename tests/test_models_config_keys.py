"""Keys of config.json that choose another network are read, or refused in one line; what nobody knows is one warning."""

from __future__ import annotations

import importlib
import json
import logging
import shutil
from pathlib import Path
from typing import Any

import models_builders as build
import pytest
import torch
from models_builders import row
from transformers import Glm4MoeConfig, Qwen2Config, Qwen2ForCausalLM

from dlm_eval.errors import UserError
from dlm_eval.models import load_model, load_without_weights, packaged_asset
from dlm_eval.models.config_keys import ConfigKeys, check
from dlm_eval.models.families.llada2 import _config
from dlm_eval.models.loading import CheckpointFiles

LLAMA = {
    "model_type": "llama", "vocab_size": 320, "hidden_size": 48, "intermediate_size": 96, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 12, "max_position_embeddings": 256, "rms_norm_eps": 1e-6,
    "rope_theta": 1e6, "rope_scaling": None, "hidden_act": "silu", "tie_word_embeddings": False, "attention_dropout": 0.0,
    "use_sliding_window": False, "sliding_window": 4096, "max_window_layers": 2, "layer_types": ["full_attention"] * 2,
    "initializer_range": 0.02, "use_cache": True, "torch_dtype": "bfloat16", "transformers_version": "4.51.3", "architectures": ["X"],
    "auto_map": {"AutoModel": "a.B"}, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 2, "mask_token_id": 3,
}  # fmt: skip
LLAMA_2 = {
    key: value
    for key, value in LLAMA.items()
    if key not in ("sliding_window", "max_window_layers", "use_sliding_window")
}
MOE = {
    "num_experts": 8,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 24,
    "output_router_logits": False,
}
DIT = {
    "vocab_size": 300,
    "hidden_dim": 40,
    "cond_dim": 24,
    "n_blocks": 2,
    "n_heads": 4,
    "model_length": 32,
}
# What the released files of each family hold, as their authors' configuration classes and public copies show them, in small sizes.
RELEASED: dict[str, dict[str, Any]] = {
    "llada": {
        "activation_type": "silu", "alibi": False, "alibi_bias_max": 8.0, "architectures": ["LLaDAModelLM"], "attention_dropout": 0.0,
        "attention_layer_norm": False, "attention_layer_norm_with_affine": True, "auto_map": {}, "bias_for_layer_norm": False,
        "block_group_size": 1, "block_type": "llama", "d_model": 48, "embedding_dropout": 0.0, "embedding_size": 312,
        "eos_token_id": 299, "flash_attention": False, "include_bias": False, "include_qkv_bias": False, "init_cutoff_factor": None,
        "init_device": "meta", "init_fn": "mitchell", "init_std": 0.02, "input_emb_norm": False, "layer_norm_type": "rms",
        "layer_norm_with_affine": True, "mask_token_id": 304, "max_sequence_length": 256, "mlp_hidden_size": 96, "mlp_ratio": 4,
        "model_type": "llada", "multi_query_attention": None, "n_heads": 4, "n_kv_heads": 4, "n_layers": 2, "pad_token_id": 299,
        "precision": "amp_bf16", "residual_dropout": 0.0, "rms_norm_eps": 1e-5, "rope": True, "rope_full_precision": True,
        "rope_theta": 500000.0, "scale_logits": False, "transformers_version": "4.46.3", "use_cache": False, "vocab_size": 312,
        "weight_tying": False,
    },
    "dream": LLAMA | {"model_type": "Dream", "use_mrope": False, "sliding_window": None},
    "diffullama": LLAMA_2 | {"attention_bias": False, "mlp_bias": False, "pretraining_tp": 1, "_name_or_path": "x"},
    "diffugpt": {
        "model_type": "gpt2", "activation_function": "gelu_new", "architectures": ["GPT2LMHeadModel"], "attn_pdrop": 0.1,
        "embd_pdrop": 0.1, "initializer_range": 0.02, "layer_norm_epsilon": 1e-5, "n_ctx": 128, "n_embd": 48, "n_head": 4,
        "n_inner": None, "n_layer": 2, "n_positions": 128, "reorder_and_upcast_attn": False, "resid_pdrop": 0.1,
        "scale_attn_by_inverse_layer_idx": False, "scale_attn_weights": True, "summary_activation": None,
        "summary_first_dropout": 0.1, "summary_proj_to_labels": True, "summary_type": "cls_index", "summary_use_proj": True,
        "task_specific_params": {}, "use_cache": True, "vocab_size": 320,
    },
    "fastdllm": LLAMA | {"model_type": "Fast_dLLM_Qwen", "bd_size": 32},
    "sdlm": LLAMA | {
        "model_type": "qwen2", "block_size": 4, "causal_attn": False, "text_mask_token_id": 3, "text_mask_token": "<text_mask>",
        "attn_implementation": "sdpa",
    },
    "e2d2": {
        "T": 0, "architectures": ["E2D2"], "attn_backend": "sdpa", "auto_map": {}, "block_size": 4, "bos_token_id": 1, "diffusion_type": "absorbing",
        "eos_token_id": 2, "eval_block_size": 4, "keep_clean_bos": False, "length": 32, "mask_token_id": 3, "model_type": "e2d2",
        "noise_config": {"_target_": "src.noise_schedule.noise_schedules.LinearNoise"}, "pad_token_id": 2, "pad_vocab_size_multiple": 1,
        "time_conditioned_backbone": None, "tokenizer_name": "Qwen/Qwen3-1.7B-Base", "train_on_context": False, "vocab_size": 320,
        "tokenization_config": {"bos_token_id": 1, "eos_token_id": 2, "mask_token_id": 3, "pad_token_id": 2, "vocab_size": 320},
        "backbone_config": {
            "_target_": "src.backbone.encoder_decoder.LLMasEncoderDecoderShareKV", "attn_backend": "sdpa", "freeze_encoder": False,
            "keep_top_decoder_layers": True, "keep_top_encoder_layers": False, "max_length": 32, "num_decoder_layers": 2,
            "num_encoder_layers": -1, "pretrained_model_name_or_path": "Qwen/Qwen3-1.7B-Base", "reinit_decoder": False,
            "reinit_encoder": False, "tie_encoder_decoder_weights": True, "use_encoder_causal_mask": False,
            "use_gradient_checkpointing": False,
        },
    },
    "sdar": LLAMA | {
        "model_type": "sdar", "attention_bias": False, "block_size": 4, "debug": False, "ep_size": 1, "fuse_cross_entropy": True,
        "micro_forward": False, "skip_checkpoint": False, "use_deepep": False, "attn_implementation": "flex_attention",
    },
    "idlm": LLAMA | {
        "model_type": "sdar", "attention_bias": False, "block_size": 1, "fuse_cross_entropy": True, "max_window_layers": 36,
        "sliding_window": None, "use_sliding_window": False, "attn_implementation": "flex_attention",
    },
    "sdar moe": LLAMA | MOE | {
        "model_type": "sdar_moe", "attention_bias": False, "block_size": 4, "decoder_sparse_step": 1, "mlp_only_layers": [],
        "norm_topk_prob": True, "router_aux_loss_coef": 0.001,
    },
    "wedlm": LLAMA | {"model_type": "wedlm", "qk_norm": True, "attention_bias": False},
    "wedlm 7b": LLAMA | {"model_type": "wedlm", "qk_norm": False, "attention_bias": True},
    "lladamoe": {k: v for k, v in LLAMA.items() if k not in ("intermediate_size", "head_dim")} | {
        "model_type": "llada", "dense_intermediate_size": 80, "expert_intermediate_size": 16, "shared_expert_intermediate_size": None,
        "partial_rotary_factor": 1, "num_experts": 8, "num_experts_per_tok": 2, "qk_layernorm": True, "moe_layer_freq": [1, 1],
        "moe_router_enable_expert_bias": False, "moe_router_score_function": "softmax", "norm_topk_prob": None,
        "router_num_group": None, "router_topk_group": None, "attention_bias": False, "clip_qkv": None, "ffn_hidden_size": 80,
        "router_aux_loss_coef": 0.01, "routed_scaling_factor": 1.0, "output_router_logits": False,
    },
    "llada2": LLAMA | MOE | {
        "model_type": "llada2_moe", "first_k_dense_replace": 1, "norm_topk_prob": True, "norm_head": False, "use_bias": False,
        "use_rmsnorm": True, "num_shared_experts": 1, "use_qkv_bias": False, "embedding_dropout": 0.0, "norm_softmax": False,
        "output_dropout": 0.0, "rotary_dim": 6, "using_split_qkv_in_self_attention": False, "router_dtype": "fp32",
        "moe_router_enable_expert_bias": True, "routed_scaling_factor": 2.5, "n_group": 4, "topk_group": 2,
        "score_function": "sigmoid", "partial_rotary_factor": 0.5, "use_qk_norm": True, "num_nextn_predict_layers": 0,
        "mtp_loss_scaling_factor": 0, "moe_shared_expert_intermediate_size": 24,
    },
    "nemotron": LLAMA_2 | {
        "model_type": "nemotron_labs_diffusion", "attention_bias": False, "mlp_bias": False, "block_size": 32, "dlm_loss_weight": None,
        "ar_loss_weight": 1.0, "dlm_paradigm": "bidirectional", "dp_varying_mask_ratio": False, "sliding_window": None,
        "rope_theta": None,
        "rope_parameters": {
            "beta_fast": 32.0, "beta_slow": 1.0, "factor": 16.0, "llama_4_scaling_beta": 0.1, "mscale": 1.0, "mscale_all_dim": 1.0,
            "original_max_position_embeddings": 16384, "rope_theta": 1e6, "rope_type": "yarn", "type": "yarn",
        },
    },
    "mdlm": DIT | {"model_type": "mdlm", "dropout": 0.1, "return_dict": False, "time_conditioning": False},
    "bd3lm": DIT | {
        "model_type": "bd3lm", "block_size": 4, "cross_attn": True, "adaln": True, "attn_backend": "flex", "causal": False, "dropout": 0.1,
        "time_conditioning": False, "var_min": True, "sampling_eps_min": 0.001, "sampling_eps_max": 1.0, "return_dict": False,
    },
    "sedd": {
        "ngpus": 8, "tokens": 280, "training": {"batch_size": 512, "ema": 0.9999}, "data": {"train": "openwebtext"},
        "graph": {"type": "absorb", "file": "data", "report_all": False}, "noise": {"type": "loglinear", "sigma_min": 1e-4, "sigma_max": 20},
        "sampling": {"predictor": "euler"}, "eval": {"perplexity": True}, "optim": {"lr": 3e-4},
        "model": {
            "name": "small", "type": "ddit", "hidden_size": 40, "cond_dim": 24, "length": 32, "n_blocks": 2, "n_heads": 4,
            "scale_by_sigma": True, "dropout": 0.1,
        },
    },
    "smdm": {
        "name": "t", "block_size": 256, "vocab_size": 320, "padding_multiple": 64, "n_layer": 2, "n_head": 4, "n_embd": 40,
        "rotary_percentage": 1.0, "parallel_residual": False, "bias": False, "_norm_class": "FusedRMSNorm", "norm_eps": 1e-5,
        "_mlp_class": "LLaMAMLP", "intermediate_size": 80, "n_query_groups": 4, "mask_token_id": 320, "padded_vocab_size": 320,
    },
    "diffusionllm": {
        "architectures": ["XLMRobertaForMaskedLM"], "attention_probs_dropout_prob": 0.1, "bos_token_id": 0, "eos_token_id": 2,
        "hidden_act": "gelu", "hidden_dropout_prob": 0.1, "hidden_size": 48, "initializer_range": 0.02, "intermediate_size": 96,
        "layer_norm_eps": 1e-5, "max_position_embeddings": 514, "model_type": "xlm-roberta", "num_attention_heads": 4,
        "num_hidden_layers": 2, "output_past": True, "pad_token_id": 1, "position_embedding_type": "absolute",
        "transformers_version": "4.17.0.dev0", "type_vocab_size": 1, "use_cache": True, "vocab_size": 320,
    },
}  # fmt: skip
TABLES = {
    "sdar moe": ("sdar", "SPARSE"),
    "idlm": ("sdar", "IDLM_KEYS"),
    "wedlm": ("wedlm", "WITH_NORMS"),
    "wedlm 7b": ("wedlm", "KEYS"),
    "bd3lm": ("mdlm", "BLOCK_KEYS"),
    "diffugpt": ("diffullama", "GPT_KEYS"),
    "lladamoe": ("llada", "MOE_KEYS"),
}


def facts(name: str) -> ConfigKeys:
    module, table = TABLES.get(name, (name, "KEYS"))
    found: ConfigKeys = getattr(
        importlib.import_module(f"dlm_eval.models.families.{module}"), table
    )
    return found


def put(config: dict[str, Any], key: str, value: Any) -> dict[str, Any]:
    """A copy with one entry changed; "a.b" is nested."""
    changed = json.loads(json.dumps(config))
    place, last = changed, key.split(".")[-1]
    for part in key.split(".")[:-1]:
        place = place[part]
    place[last] = value
    return changed


@pytest.mark.parametrize("name", RELEASED)
def test_08_a_released_config_is_read_without_a_word(name: str) -> None:
    checked = check(RELEASED[name], facts(name), "x")
    assert checked.unread == () and checked.values


@pytest.mark.parametrize("name", RELEASED)
def test_08_what_a_family_needs_is_never_a_default(name: str) -> None:
    table = facts(name)
    for key in table.needed:
        with pytest.raises(UserError, match=key.rpartition(".")[2]):
            check(put(RELEASED[name], key, None), table, "x")
    if table.rope and "rope_theta" in RELEASED[name] and RELEASED[name]["rope_theta"]:
        with pytest.raises(UserError, match="lacks rope_theta"):
            check(put(RELEASED[name], "rope_theta", None), table, "x")


@pytest.mark.parametrize("name", RELEASED)
def test_08_sizes_are_whole_numbers_and_flags_are_flags(name: str) -> None:
    table = facts(name)
    for key, kind in table.needed.items():
        for wrong in (["4"], "4", -1, float("nan")) if kind.called != "text" else (1, True, ["x"]):
            with pytest.raises(UserError, match="must be"):
                check(put(RELEASED[name], key, wrong), table, "x")
        if "number" in kind.called:
            with pytest.raises(UserError, match="must be"):
                check(put(RELEASED[name], key, True), table, "x")


OTHER_NETWORKS: list[tuple[str, str, Any]] = [
    *(("llada", key, value) for key, value in [
        ("alibi", True), ("scale_logits", True), ("block_type", "sequential"), ("activation_type", "swiglu"), ("include_bias", True),
        ("layer_norm_type", "default"), ("layer_norm_with_affine", False), ("bias_for_layer_norm", True), ("attention_layer_norm", True),
        ("rope", False), ("rope_full_precision", False), ("input_emb_norm", True), ("clip_qkv", 8.0), ("multi_query_attention", True),
        ("block_group_size", 2), ("rope_scaling", {"type": "linear", "factor": 2.0}), ("partial_rotary_factor", 0.5), ("n_kv_heads", 0),
        ("rope_scaling", {"rope_type": "yarn", "factor": 4.0}), ("hidden_act", "gelu"), ("sliding_window", 64), ("use_bias", True),
        ("quantization_config", {"quant_method": "gptq"}), ("num_experts", 8), ("logits_scaling", 8.0), ("rope_parameters", {
            "rope_type": "linear", "rope_theta": 500000.0, "factor": 2.0}),
    ]),
    *(("llada2", key, value) for key, value in [
        ("score_function", "softmax"), ("use_bias", True), ("norm_head", True), ("norm_softmax", True), ("use_rmsnorm", False),
        ("using_split_qkv_in_self_attention", True), ("moe_router_enable_expert_bias", False), ("router_dtype", "bf16"),
        ("use_sliding_window", True), ("num_nextn_predict_layers", 1), ("attention_bias", True),
        ("rope_scaling", {"rope_type": "dynamic", "factor": 2.0}), ("topk_method", "greedy"), ("scoring_func", "softmax"),
        ("embedding_multiplier", 12.0), ("attn_logit_softcapping", 50.0), ("clip_qkv", 4.0), ("layer_types", ["sliding_attention"] * 2),
    ]),
    *(("lladamoe", key, value) for key, value in [
        ("moe_router_score_function", "sigmoid"), ("expert_capacity", 48), ("moe_router_enable_expert_bias", True), ("shared_expert_intermediate_size", 16),
        ("routed_scaling_factor", 2.5), ("partial_rotary_factor", 0.5), ("clip_qkv", 8.0), ("router_num_group", 4), ("qk_layernorm", False),
        ("moe_layer_freq", [0, 1]), ("rope_scaling", {"type": "longrope", "factor": 2.0}), ("moe_router_topk_scaling_factor", 2.0),
        ("n_group", 8), ("use_bias", True),
    ]),
    *((name, key, value) for name in ("dream", "diffullama", "fastdllm", "sdar", "wedlm", "nemotron", "sdlm") for key, value in [
        ("use_sliding_window", True), ("layer_types", ["full_attention", "sliding_attention"]), ("partial_rotary_factor", 0.5),
        ("use_mrope", True), ("embedding_multiplier", 12.0), ("residual_multiplier", 0.22), ("scale_emb", 12), ("scale_depth", 1.4),
        ("attention_multiplier", 0.01), ("final_logit_softcapping", 30.0), ("num_experts", 8) if name != "sdar" else ("n_group", 8),
        ("rope_scaling", {"rope_type": "dynamic", "factor": 2.0}), ("rope_scaling", {"rope_type": "linear"}), ("alibi", True),
        ("rope_scaling", {"rope_type": "linear", "factor": 2.0, "twist": 3.0}), ("is_decoder", True), ("pruned_heads", {"0": [1]}),
        ("attn_temperature_tuning", True), ("no_rope_layers", [1, 0]), ("rotary_pct", 0.25), ("query_pre_attn_scalar", 256),
    ]),
    *(("dream", key, value) for key, value in [("block_size", 32), ("attention_bias", False), ("causal_attn", True), ("qk_norm", True)]),
    *(("sdar", key, value) for key, value in [
        ("block_size", 1), ("block_size", 3), ("block_size", "4"), ("block_size", True), ("block_size", 4.0)]),
    *(("idlm", key, value) for key, value in [("block_size", 4), ("block_size", 0), ("block_size", None), ("num_experts", 8)]),
    *(("sdlm", key, value) for key, value in [("block_size", 0), ("causal_attn", "no"), ("attention_bias", False), ("text_mask_token_id", -1)]),
    *(("e2d2", key, value) for key, value in [
        ("diffusion_type", "uniform"), ("time_conditioned_backbone", True), ("backbone_config.use_encoder_causal_mask", True),
        ("backbone_config.num_encoder_layers", 10**9), ("backbone_config.hidden_size", 0), ("eval_block_size", 0)]),
    *(("nemotron", key, value) for key, value in [
        ("sliding_window", 64), ("dlm_paradigm", "autoregressive"), ("attention_bias", True), ("block_size", 0)]),
    *(("diffugpt", key, value) for key, value in [
        ("tie_word_embeddings", False), ("add_cross_attention", True), ("n_inner", "64"), ("rope_theta", 1e4)]),
    *(("mdlm", key, value) for key, value in [
        ("time_conditioning", True), ("causal", True), ("block_size", 4), ("adaln", False), ("tie_word_embeddings", True)]),
    *(("bd3lm", key, value) for key, value in [("time_conditioning", True), ("causal", True), ("adaln", False), ("block_size", 0)]),
    *(("sedd", key, value) for key, value in [("graph.type", "uniform"), ("model.scale_by_sigma", False), ("model.type", "unet")]),
    *(("smdm", key, value) for key, value in [
        ("rotary_percentage", 0.5), ("parallel_residual", True), ("bias", True), ("_norm_class", "LayerNorm"), ("_mlp_class", "GptNeoxMLP"),
        ("shared_attention_norm", True), ("condense_ratio", 2), ("scale_embeddings", True)]),
    *(("diffusionllm", key, value) for key, value in [("position_embedding_type", "relative_key"), ("is_decoder", True)]),
    ("sdar moe", "mlp_only_layers", "none"), ("sdar moe", "routed_scaling_factor", 2.5), ("sdar moe", "norm_topk_prob", 1),
    ("wedlm", "is_causal", False), ("wedlm 7b", "attention_bias", False),
]  # fmt: skip


@pytest.mark.parametrize(("name", "key", "value"), OTHER_NETWORKS, ids=lambda part: str(part)[:30])
def test_08_a_key_that_chooses_another_network_is_refused(name: str, key: str, value: Any) -> None:
    with pytest.raises(UserError) as caught:
        check(put(RELEASED[name], key, value), facts(name), "x")
    told, last = str(caught.value), key.rpartition(".")[2]
    assert "\n" not in told and (
        last in told or (last.startswith("rope") and "rotary positions" in told)
    )


@pytest.mark.parametrize(
    "name", [name for name in RELEASED if facts(name).rope and name != "nemotron"]
)
def test_08_the_form_of_transformers_5_says_the_same(name: str) -> None:
    """`rope_parameters`, flat or for each kind of layer, against `rope_theta` and `rope_scaling`."""
    table, old = (
        facts(name),
        {
            key: value
            for key, value in RELEASED[name].items()
            if key not in ("rope_theta", "rope_scaling")
        },
    )
    base = RELEASED[name]["rope_theta"]
    entries: dict[str, Any] = {"rope_type": "default", "rope_theta": base}
    told = check(RELEASED[name], table, "x").values["rope_parameters"]
    assert told["rope_theta"] == base and told["rope_type"] == "default"
    for new in (entries, {"full_attention": entries}, {"rope_theta": base}):
        assert check(old | {"rope_parameters": new}, table, "x").values["rope_parameters"] == told
    assert (
        check(RELEASED[name] | {"rope_parameters": entries}, table, "x").values["rope_parameters"]
        == told
    )
    with pytest.raises(UserError, match="leave one out"):
        check(RELEASED[name] | {"rope_parameters": entries | {"rope_theta": 7.0}}, table, "x")
    with pytest.raises(UserError, match="other layers"):
        both = {"full_attention": entries, "sliding_attention": entries | {"rope_theta": 7.0}}
        check({**old, "rope_parameters": both, "layer_types": None}, table, "x")
    if "yarn" in table.rope.scalings:
        scaled = {"type": "yarn", "factor": 2.0, "original_max_position_embeddings": 128}
        one = check(RELEASED[name] | {"rope_scaling": scaled}, table, "x").values["rope_parameters"]
        other = entries | {
            "rope_type": "yarn",
            "factor": 2.0,
            "original_max_position_embeddings": 128,
        }
        assert (
            one == check(old | {"rope_parameters": other}, table, "x").values["rope_parameters"]
            and one["rope_type"] == "yarn"
        )


def test_08_a_scaling_that_is_read_is_the_networks(tmp_path: Path) -> None:
    """Dream's class is Qwen2's; linear scaling of 2 is positions at half the pace."""
    sizes = {
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
    }
    sizes |= {
        "vocab_size": build.VOCAB,
        "max_position_embeddings": 64,
        "rms_norm_eps": 1e-6,
        "tie_word_embeddings": False,
    }
    ids = {
        "eos_token_id": 267,
        "bos_token_id": 266,
        "mask_token_id": build.MASK_ID,
        "model_type": "Dream",
    }
    network = build.spread(
        Qwen2ForCausalLM(
            Qwen2Config(**sizes, rope_parameters={"rope_type": "default", "rope_theta": 1e4})
        )
    )
    folder = build.write(
        tmp_path,
        {**sizes, **ids, "rope_theta": 1e4, "rope_scaling": {"type": "linear", "factor": 2.0}},
        network.state_dict(),
    )
    tokens = row(1, 12)
    tokens[0, 0] = 266
    model = load_model("dream", pretrained=folder)
    with torch.inference_mode():
        places = torch.arange(12)[None] / 2
        table = network.model.rotary_emb(torch.zeros(1, 12, 32), places)
        network.model.rotary_emb.forward = lambda *_, **__: table
        network.config.is_causal = False
        raw = network(input_ids=tokens, is_causal=False).logits
    assert torch.allclose(model.logits(tokens)[:, 1:], raw[:, :-1], atol=2e-5)


def test_08_llada2_reads_how_much_of_a_head_turns() -> None:
    values = check(RELEASED["llada2"], facts("llada2"), "x").values
    config = _config(values, CheckpointFiles(Path(), "x"))
    assert (
        isinstance(config, Glm4MoeConfig) and config.rope_parameters["partial_rotary_factor"] == 0.5
    )
    assert config.routed_scaling_factor == 2.5 and config.hidden_act == "silu"
    for changed in ({"partial_rotary_factor": 0.25}, {"rotary_dim": 12}):
        with pytest.raises(UserError, match="rotary_dim"):
            _config(
                check(RELEASED["llada2"] | changed, facts("llada2"), "x").values,
                CheckpointFiles(Path(), "x"),
            )
    alone = {
        key: value
        for key, value in RELEASED["llada2"].items()
        if key not in ("partial_rotary_factor", "rotary_dim")
    }
    with pytest.raises(UserError, match="partial_rotary_factor"):
        _config(check(alone, facts("llada2"), "x").values, CheckpointFiles(Path(), "x"))
    turned = check(alone | {"rotary_dim": 3}, facts("llada2"), "x").values
    assert (
        _config(turned, CheckpointFiles(Path(), "x")).rope_parameters["partial_rotary_factor"]
        == 0.25
    )


def changed_config(base: Path, folder: Path, **changes: Any) -> Path:
    shutil.copytree(base, folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(
        json.dumps(
            {key: value for key, value in {**config, **changes}.items() if value != "absent"}
        )
    )
    return folder


def test_08_a_key_in_no_list_is_one_warning_and_stands_in_the_result(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    base = build.llada(tmp_path / "base")[0]
    odd = changed_config(base, tmp_path / "odd", a_new_thing=3, rms_norm_epz=1e-5)
    with caplog.at_level(logging.WARNING):
        described = load_without_weights("llada", pretrained=odd).describe()
    warned = [
        record.getMessage() for record in caplog.records if "config.json" in record.getMessage()
    ]
    assert (
        len(warned) == 1
        and "a_new_thing" in warned[0]
        and "rms_norm_epz (near rms_norm_eps)" in warned[0]
    )
    assert described["config_keys_not_read"] == ["a_new_thing", "rms_norm_epz"]
    assert "config_keys_not_read" not in load_without_weights("llada", pretrained=base).describe()
    with pytest.raises(UserError, match="a_new_thing.*strict_config=true") as caught:
        load_without_weights("llada", pretrained=odd, strict_config="true")
    assert "\n" not in str(caught.value)
    load_without_weights("llada", pretrained=base, strict_config="true")


def test_08_transformers_own_classes_have_a_table_too(tmp_path: Path) -> None:
    """`generic`: the class reads its fields; sizes and rope_theta are never its defaults, and keys of other networks are refused."""
    network = build.llama()
    config = network.config.to_dict() | {
        "architectures": ["LlamaForCausalLM"],
        "mask_token_id": build.MASK_ID,
    }
    base = build.write(
        tmp_path / "base", config | {"eos_token_id": 267, "bos_token_id": 266}, network.state_dict()
    )
    load_without_weights("generic", pretrained=base, strict_config=True)
    for number, (changes, told) in enumerate([
        ({"rms_norm_eps": "absent"}, "lacks rms_norm_eps"),
        ({"hidden_size": "absent"}, "lacks hidden_size"),
        ({"rope_parameters": "absent"}, "lacks rope_theta"),
        ({"embedding_multiplier": 12.0}, "embedding_multiplier"),
        ({"partial_rotary_factor": 0.5}, "partial_rotary_factor"),
        ({"num_hidden_layers": "2"}, "num_hidden_layers"),
        ({"alibi": True}, "alibi"),
    ]):  # fmt: skip
        odd = changed_config(base, tmp_path / str(number), **changes)
        for options in ({}, {"architecture": "LlamaForCausalLM"}):
            with pytest.raises(UserError, match=told):
                load_without_weights("generic", pretrained=odd, **options)


def test_08_the_checkpoints_of_the_authors_code_load_strictly(shared: Path) -> None:
    for family in (
        "llada",
        "diffullama",
        "diffugpt",
        "dream",
        "lladamoe",
        "llada2",
        "sdar",
        "wedlm",
        "smdm",
        "mdlm",
        "sedd",
        "bd3lm",
    ):
        described = load_without_weights(
            family, pretrained=str(shared / "goldens" / family), strict_config=True
        ).describe()
        assert "config_keys_not_read" not in described
    load_without_weights("tiny", pretrained=str(packaged_asset("tiny")), strict_config=True)


def test_10_a_bias_of_q_k_and_v_alone_is_read(tmp_path: Path) -> None:
    """LLaDA's include_qkv_bias: no bias of the output projection, unlike Llama's attention_bias."""
    sizes = {
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
    }
    sizes |= {
        "vocab_size": build.VOCAB,
        "max_position_embeddings": 64,
        "tie_word_embeddings": False,
        "is_causal": False,
    }
    network = build.spread(
        Qwen2ForCausalLM(
            Qwen2Config(**sizes, rope_parameters={"rope_type": "default", "rope_theta": 1e4})
        )
    )
    config = build.llada_config() | {"include_qkv_bias": True}
    folder = build.write(tmp_path / "a", config, build.llada_names(network.state_dict()), mask=None)
    tokens = row(1, 9)
    with torch.inference_mode():
        assert torch.allclose(
            load_model("llada", pretrained=folder).logits(tokens),
            network(input_ids=tokens).logits,
            atol=1e-5,
        )
    with pytest.raises(UserError, match="surplus"):
        load_model(
            "llada", pretrained=changed_config(folder, tmp_path / "b", include_qkv_bias=False)
        )
