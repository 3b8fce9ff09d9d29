"""SMDM (Nie et al. 2024): TinyLlama in lit-gpt's names, bidirectional, no shift, with rotary tables
rounded to bfloat16.

Its published weights come without config.json: put one beside them with the fields of lit-gpt's
Config that `KEYS` needs. Shape letters: G = key-value groups, q = queries of a group, d = head
size, H = hidden size.
"""

from __future__ import annotations

import re
from typing import Any

import torch
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM

from dlm_eval.models.config_keys import ConfigKeys
from dlm_eval.models.config_tables import COUNT, NUMBER, all_of
from dlm_eval.models.family import FamilySpec, OpenedCheckpoint
from dlm_eval.models.weights import OwnModule

KEYS = ConfigKeys(
    "SMDM",
    needed=all_of(
        COUNT, "n_layer", "n_head", "n_embd", "intermediate_size", "block_size", "vocab_size"
    )
    | {"norm_eps": NUMBER},
    read={"n_query_groups": COUNT, "padded_vocab_size": COUNT, "rope_base": NUMBER},
    defaults={"rope_base": 10000.0},  # a constant of its authors' code
    usual={
        "_mlp_class": (None, "LLaMAMLP"),
        "_norm_class": (None, "FusedRMSNorm", "RMSNorm"),
        "tie_word_embeddings": (None, False),
    },
    harmless=frozenset({"hf_config", "org", "padding_multiple"}),
)
PARTS = {
    "norm_1": "input_layernorm",
    "attn.proj": "self_attn.o_proj",
    "norm_2": "post_attention_layernorm",
    "mlp.swiglu.w1": "mlp.gate_proj",
    "mlp.swiglu.w2": "mlp.up_proj",
    "mlp.swiglu.w3": "mlp.down_proj",
}
OUTER = {
    "transformer.wte.weight": "model.embed_tokens.weight",
    "transformer.ln_f.weight": "model.norm.weight",
}


def network(opened: OpenedCheckpoint) -> OwnModule:
    """Returns Llama with full attention and a row for the mask."""
    values = opened.values
    heads = values["n_head"]
    groups = values.get("n_query_groups", heads)
    config = LlamaConfig(
        vocab_size=_mask(values) + 1,
        hidden_size=values["n_embd"],
        intermediate_size=values["intermediate_size"],
        num_hidden_layers=values["n_layer"],
        num_attention_heads=heads,
        num_key_value_heads=groups,
        max_position_embeddings=values["block_size"],
        rms_norm_eps=values["norm_eps"],
        tie_word_embeddings=False,
        rope_parameters={"rope_type": "default", "rope_theta": values["rope_base"]},
        is_causal=False,
    )
    return OwnModule(
        lambda: LlamaForCausalLM(config), lambda state: rename(state, groups, heads // groups)
    )


def round_tables(denoiser: Any, opened: OpenedCheckpoint) -> None:
    """Keeps rotary tables in bfloat16, as the authors do; else logits differ by 0.1."""
    denoiser.model.model.rotary_emb.register_forward_hook(_round_tables)


def rename(state: dict[str, Tensor], groups: int, queries: int) -> dict[str, Tensor]:
    """Returns a lit-gpt state under Llama's names: q, k, v apart, a head row for the mask."""
    named: dict[str, Tensor] = {}
    for key, value in state.items():
        layer = re.fullmatch(r"transformer\.h\.(\d+)\.(.+)\.weight", key)
        if layer is None:
            named[OUTER.get(key, key)] = value
        # [G (q + 2) d, H]: each group's queries, then its key, then its value
        elif layer[2] == "attn.attn":
            parts = torch.split_with_sizes(
                value.view(groups, queries + 2, -1, value.shape[1]), [queries, 1, 1], dim=1
            )
            for letter, part in zip("qkv", parts, strict=True):
                projection = part.reshape(-1, value.shape[1])
                named[f"model.layers.{layer[1]}.self_attn.{letter}_proj.weight"] = projection
        else:
            named[f"model.layers.{layer[1]}.{PARTS.get(layer[2], layer[2])}.weight"] = value
    if "lm_head.weight" in named:
        head = named["lm_head.weight"]
        named["lm_head.weight"] = torch.cat([head, head.new_zeros(1, head.shape[1])])
    return named


def _round_tables(module: Any, inputs: Any, tables: tuple[Tensor, Tensor]) -> tuple[Tensor, ...]:
    return tuple(table.to(torch.bfloat16).to(table.dtype) for table in tables)


def _mask(values: dict[str, Any]) -> int:
    """Returns the mask id, the row behind all words."""
    return int(values.get("padded_vocab_size", values["vocab_size"]))


FAMILY = FamilySpec(
    "smdm",
    KEYS,
    network,
    default_mask=_mask,
    suppressed=lambda opened, _: (_mask(opened.values),),
    finish=round_tables,
)
