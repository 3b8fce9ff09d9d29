"""LLaDA2.0 and 2.1 (Bailing/Ling MoE): GLM-4 MoE with other names and a fused qkv, trained block-causally in blocks of 32."""

from __future__ import annotations

from typing import Any

from transformers import Glm4MoeConfig, Glm4MoeForCausalLM
from transformers.conversion_mapping import get_checkpoint_conversion_mapping, register_checkpoint_conversion_mapping
from transformers.core_model_loading import Split, WeightConverter, WeightRenaming

from dlm_eval.models.assemble import assemble
from dlm_eval.models.loading import Folder, locate, read_config, require
from dlm_eval.models.sdar import BlockSettings
from dlm_eval.models.transformer import Traits, TransformersDenoiser
from dlm_eval.models.vocabulary import read_vocabulary
from dlm_eval.models.weights import load_weights

BLOCK_LENGTH = 32  # that all published checkpoints were trained with; their config does not say


class Llada2ForCausalLM(Glm4MoeForCausalLM):  # type: ignore[misc]
    """GLM-4 MoE under a name of its own, because transformers keeps conversions by class name."""


QKV = [f"self_attn.{letter}_proj.weight" for letter in "qkv"]
CONVERSION = [
    WeightRenaming("model.word_embeddings", "model.embed_tokens"),
    WeightRenaming("attention.dense", "self_attn.o_proj"),
    WeightRenaming("attention.query_layernorm", "self_attn.q_norm"),
    WeightRenaming("attention.key_layernorm", "self_attn.k_norm"),
    WeightRenaming("mlp.gate.expert_bias", "mlp.gate.e_score_correction_bias"),
    WeightConverter("attention.query_key_value.weight", QKV, [Split(0)]),
]


def load(settings: BlockSettings) -> TransformersDenoiser:
    """Returns the denoiser of a LLaDA2.x checkpoint."""
    folder = locate(settings.pretrained, settings.revision)
    raw = read_config(folder)
    require(raw, ["num_experts", "moe_intermediate_size", "n_group", "topk_group"], folder, "LLaDA2")
    vocabulary = read_vocabulary(folder, raw, settings, ["<|endoftext|>", "<|role_end|>"], "<|mask|>")
    known = get_checkpoint_conversion_mapping("glm4_moe")
    register_checkpoint_conversion_mapping(Llada2ForCausalLM.__name__, [*CONVERSION, *known], overwrite=True)
    model = load_weights(Llada2ForCausalLM, _config(raw, folder), folder, settings)
    traits = Traits("llada2", attention="block", block_length=settings.block_length or BLOCK_LENGTH)
    return assemble(model, vocabulary, traits, folder, settings)


def _config(raw: dict[str, Any], folder: Folder) -> Any:
    """Returns the GLM-4 MoE config of a LLaDA2 config.json."""
    same = ["vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "head_dim"]
    same += ["num_key_value_heads", "moe_intermediate_size", "num_experts_per_tok", "first_k_dense_replace", "n_group"]
    same += ["topk_group", "routed_scaling_factor", "rms_norm_eps", "max_position_embeddings"]
    require(raw, same, folder, "LLaDA2")
    rope = {"rope_type": "default", "rope_theta": raw["rope_theta"]}
    rope["partial_rotary_factor"] = raw.get("partial_rotary_factor", 0.5)
    return Glm4MoeConfig(
        **{key: raw[key] for key in same},
        n_routed_experts=raw["num_experts"],
        n_shared_experts=raw.get("num_shared_experts", 1),
        tie_word_embeddings=raw.get("tie_word_embeddings", False),
        norm_topk_prob=raw.get("norm_topk_prob", True),
        attention_bias=bool(raw.get("use_qkv_bias")),
        use_qk_norm=raw.get("use_qk_norm", True),
        num_nextn_predict_layers=0,
        rope_parameters=rope,
        is_causal=False,
    )
