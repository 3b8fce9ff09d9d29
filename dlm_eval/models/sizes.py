"""The sizes in a config.json: whole numbers that a network can have. Python would build 10^12 layers, one after the other, until memory ends."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dlm_eval.errors import UserError

LAYERS, MANY, ROWS = 10_000, 2**20, 2**31  # most layers; heads, experts and their like; widths, rows and positions
MOST = {
    **dict.fromkeys(["n_layers", "n_layer", "num_layers", "num_hidden_layers", "n_blocks", "layers"], LAYERS),
    **dict.fromkeys(["first_k_dense_replace", "num_nextn_predict_layers"], LAYERS),
    **dict.fromkeys(["n_heads", "n_head", "heads", "num_attention_heads", "num_heads"], MANY),
    **dict.fromkeys(["n_kv_heads", "num_key_value_heads", "n_query_groups", "n_group", "topk_group"], MANY),
    **dict.fromkeys(["num_experts", "n_routed_experts", "num_local_experts", "num_shared_experts"], MANY),
    **dict.fromkeys(["num_experts_per_tok", "n_shared_experts", "head_dim", "bd_size"], MANY),
    **dict.fromkeys(["d_model", "n_embd", "hidden_size", "hidden_dim", "model_length", "block_size", "length"], ROWS),
    **dict.fromkeys(["intermediate_size", "mlp_hidden_size", "moe_intermediate_size", "n_inner"], ROWS),
    **dict.fromkeys(["expert_intermediate_size", "dense_intermediate_size", "cond_dim", "cond_size"], ROWS),
    **dict.fromkeys(["vocab_size", "embedding_size", "padded_vocab_size", "tokens", "type_vocab_size"], ROWS),
    **dict.fromkeys(["max_position_embeddings", "max_sequence_length", "n_positions", "n_ctx"], ROWS),
}
ZERO = {  # that may be absent in a network
    "first_k_dense_replace", "num_nextn_predict_layers", "num_shared_experts", "n_shared_experts", "num_experts", "n_routed_experts",
    "num_local_experts", "num_experts_per_tok", "n_group", "topk_group", "moe_intermediate_size", "type_vocab_size",
}  # fmt: skip
KERNELS = ("attn_implementation", "experts_implementation")  # entries that can name code of others


def check_config(config: Mapping[str, Any], whose: str, name: str = "config.json") -> None:
    """Raises UserError if a size in `config`, or in a mapping inside it, is no whole number or none that a network has, or if it names code.

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
        raise UserError(f"{said} {key} {str(shown)[:40]}; it must be a whole number from {least} to {MOST[key]}")


def _check_ids(key: str, value: Any, said: str) -> None:
    for one in value if isinstance(value, list) else [value]:
        if one is not None and (type(one) is not int or not -1 <= one < ROWS):
            raise UserError(f"{said} {key} {str(one)[:40]}; it must be the number of a token")
