"""LLaDA2.0, 2.1 (Ling MoE): GLM-4 MoE, other names, fused qkv, block-causal in blocks of 32."""

from __future__ import annotations

from typing import Any

from transformers import Glm4MoeConfig, Glm4MoeForCausalLM
from transformers.conversion_mapping import (
    get_checkpoint_conversion_mapping,
    register_checkpoint_conversion_mapping,
)
from transformers.core_model_loading import Split, WeightConverter, WeightRenaming

from dlm_eval.errors import UserError
from dlm_eval.models.config_keys import DENSE, WINDOWS, Rope
from dlm_eval.models.config_tables import COUNT, FLAG, INDEX, NO, NUMBER, all_of
from dlm_eval.models.family import BlockSettings, FamilySpec, OpenedCheckpoint, blocks_of
from dlm_eval.models.loading import CheckpointFiles
from dlm_eval.models.naming import Naming
from dlm_eval.models.soft_inputs import SoftDenoiser
from dlm_eval.models.weights import Pretrained

# that all published checkpoints were trained with; used if config.json does not say
BLOCK_LENGTH = 32


class Llada2ForCausalLM(Glm4MoeForCausalLM):  # type: ignore[misc]
    """GLM-4 MoE under a name of its own, because transformers keeps conversions by class name."""


RENAMES = {
    "model.word_embeddings": "model.embed_tokens",
    "attention.dense": "self_attn.o_proj",
    "attention.query_layernorm": "self_attn.q_norm",
    "attention.key_layernorm": "self_attn.k_norm",
    "mlp.gate.expert_bias": "mlp.gate.e_score_correction_bias",
}
FUSED = {
    f"attention.query_key_value.{kind}": tuple(
        f"self_attn.{letter}_proj.{kind}" for letter in "qkv"
    )
    for kind in ("weight", "bias")
}
NAMING = Naming(RENAMES, FUSED)
SAME = (  # keys that mean the same to both
    "vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "head_dim", "hidden_act",
    "num_key_value_heads", "moe_intermediate_size", "num_experts_per_tok", "first_k_dense_replace", "n_group", "topk_group",
    "routed_scaling_factor", "rms_norm_eps", "max_position_embeddings", "norm_topk_prob", "use_qk_norm",
)  # fmt: skip
KEYS = DENSE.extended(
    family="LLaDA2",
    needed=all_of(
        COUNT,
        "head_dim",
        "num_key_value_heads",
        "num_experts",
        "moe_intermediate_size",
        "num_experts_per_tok",
    )
    | all_of(COUNT, "n_group", "topk_group")
    | {"first_k_dense_replace": INDEX, "routed_scaling_factor": NUMBER, "norm_topk_prob": FLAG},
    read={
        "num_shared_experts": COUNT,
        "use_qkv_bias": FLAG,
        "use_qk_norm": FLAG,
        "partial_rotary_factor": NUMBER,
        "rotary_dim": COUNT,
        "block_size": COUNT,
    },
    defaults={
        "hidden_act": "silu",
        "num_shared_experts": 1,
        "use_qkv_bias": False,
        "use_qk_norm": True,
    },
    usual={
        "moe_router_enable_expert_bias": (True,),
        "router_dtype": (None, "fp32", "float32"),
        "score_function": ("sigmoid",),
        "scoring_func": (None, "sigmoid"),
        "topk_method": (None, "noaux_tc"),
        "use_rmsnorm": (True,),
        "using_split_qkv_in_self_attention": NO,
    },
    harmless=WINDOWS
    | {"delete_token_id", "split_token_id", "moe_shared_expert_intermediate_size", "router_type"},
    rope=Rope(partial=True),
)


def network(opened: OpenedCheckpoint) -> Pretrained:
    """Returns GLM-4 MoE, whose conversion of weights it registers under LLaDA2's names."""
    config = _config(opened.values, opened.files)
    known = get_checkpoint_conversion_mapping("glm4_moe")
    ours: list[Any] = [WeightRenaming(theirs, mine) for theirs, mine in RENAMES.items()]
    ours += [WeightConverter(theirs, list(parts), [Split(0)]) for theirs, parts in FUSED.items()]
    register_checkpoint_conversion_mapping(
        Llada2ForCausalLM.__name__, [*ours, *known], overwrite=True
    )
    return Pretrained(Llada2ForCausalLM, config, NAMING)


def _config(values: dict[str, Any], folder: CheckpointFiles) -> Any:
    """Returns the GLM-4 MoE config of what a LLaDA2 config.json says.

    Raises:
        UserError: the file does not say, or says twice and differently, how much of a head turns.
    """
    rope, turned = dict(values["rope_parameters"]), values.get("rotary_dim")
    if turned is not None:
        part = rope.setdefault("partial_rotary_factor", turned / values["head_dim"])
        if turned != int(values["head_dim"] * part):
            raise UserError(
                f"pretrained '{folder.name}': config.json has rotary_dim {turned}, and "
                f"partial_rotary_factor {part!r} of heads of {values['head_dim']}"
            )
    if "partial_rotary_factor" not in rope:
        raise UserError(
            f"pretrained '{folder.name}': config.json lacks partial_rotary_factor, which LLaDA2 "
            "needs"
        )
    return Glm4MoeConfig(
        **{key: values[key] for key in SAME},
        n_routed_experts=values["num_experts"],
        n_shared_experts=values["num_shared_experts"],
        tie_word_embeddings=values.get("tie_word_embeddings", False),
        attention_bias=values["use_qkv_bias"],
        num_nextn_predict_layers=0,
        rope_parameters=rope,
        is_causal=False,
    )


FAMILY = FamilySpec(
    "llada2",
    KEYS,
    network,
    BlockSettings,
    causal_blocks=blocks_of("block_size", BLOCK_LENGTH),
    eos_tokens=("<|endoftext|>", "<|role_end|>"),
    mask_token="<|mask|>",
    denoiser=lambda _: SoftDenoiser,
)
