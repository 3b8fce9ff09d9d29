"""DiffuGPT S and M (Gong et al. 2024): GPT-2, bidirectional, shifted; the files keep the token embedding apart from the network."""

from __future__ import annotations

from transformers import GPT2Config, GPT2LMHeadModel

from dlm_eval.models.config_keys import ConfigKeys
from dlm_eval.models.config_tables import COUNT, FLAG, NUMBER, TEXT, all_of
from dlm_eval.models.family import FamilySpec, OpenedCheckpoint
from dlm_eval.models.naming import Naming
from dlm_eval.models.weights import Pretrained

MASKS = {50257: 10541, 50258: 50257}  # by vocabulary size: S masks with a word, M with a token of its own
NAMING = Naming({r"^embed_tokens\.": "transformer.wte.", r"^denoise_model\.": "transformer."})
KEYS = ConfigKeys(
    "DiffuGPT",
    needed=all_of(COUNT, "n_embd", "n_layer", "n_head", "n_positions", "vocab_size") | {"layer_norm_epsilon": NUMBER},
    read={
        "activation_function": TEXT,
        "n_inner": COUNT,
        "reorder_and_upcast_attn": FLAG,
        "scale_attn_by_inverse_layer_idx": FLAG,
        "scale_attn_weights": FLAG,
    },
    defaults={"activation_function": "gelu_new"},
    usual={"tie_word_embeddings": (None, True)},
    harmless=frozenset(
        [
            "n_ctx",
            "summary_activation",
            "summary_first_dropout",
            "summary_proj_to_labels",
            "summary_type",
            "summary_use_proj",
            "summary_hidden_size",
            "summary_last_dropout",
        ]
    ),
)


def network(opened: OpenedCheckpoint) -> Pretrained:
    """Returns GPT-2 with full attention."""
    config = GPT2Config(**opened.values, is_causal=False, tie_word_embeddings=True)
    return Pretrained(GPT2LMHeadModel, config, NAMING)


FAMILY = FamilySpec(
    "diffugpt",
    KEYS,
    network,
    shift=True,
    default_mask=lambda values: MASKS.get(values["vocab_size"]),
    mask_may_be_regular=True,
)
