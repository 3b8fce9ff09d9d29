"""LLaDA-MoE 7B-A1B (inclusionAI): Qwen3-MoE with router weights that are not renormalised, bidirectional, no shift."""

from __future__ import annotations

from transformers import Qwen3MoeConfig, Qwen3MoeForCausalLM

from dlm_eval.models.assemble import assemble
from dlm_eval.models.loading import LoadSettings, locate, native_config, read_config, require
from dlm_eval.models.transformer import Traits, TransformersDenoiser
from dlm_eval.models.vocabulary import read_vocabulary
from dlm_eval.models.weights import load_weights


def load(settings: LoadSettings) -> TransformersDenoiser:
    """Returns the denoiser of a LLaDA-MoE checkpoint."""
    folder = locate(settings.pretrained, settings.revision)
    raw = read_config(folder)
    require(raw, ["num_experts", "expert_intermediate_size", "num_experts_per_tok"], folder, "LLaDA-MoE")
    config = native_config(
        Qwen3MoeConfig,
        raw,
        intermediate_size=raw.get("dense_intermediate_size") or raw["expert_intermediate_size"],
        moe_intermediate_size=raw["expert_intermediate_size"],
        head_dim=raw["hidden_size"] // raw["num_attention_heads"],
        norm_topk_prob=bool(raw.get("norm_topk_prob")),
        decoder_sparse_step=1,
        mlp_only_layers=[],
        rope_parameters={"rope_type": "default", "rope_theta": raw["rope_theta"]},
        is_causal=False,
    )
    vocabulary = read_vocabulary(folder, raw, settings, ["<|endoftext|>", "<|role_end|>"], "<|mask|>")
    model = load_weights(Qwen3MoeForCausalLM, config, folder, settings)
    return assemble(model, vocabulary, Traits("lladamoe"), folder, settings)
