"""DiffuLLaMA and DiffuGPT (Gong et al. 2024): Llama-2 and GPT-2, bidirectional, shifted.

The files of DiffuLLaMA are Llama-2's as they are. Those of DiffuGPT S and M keep the token
embedding apart from the network. A mask may be an ordinary vocabulary item.
"""

from __future__ import annotations

from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

from dlm_eval.models.config_keys import DENSE, ConfigKeys
from dlm_eval.models.config_tables import COUNT, FLAG, NUMBER, TEXT, all_of
from dlm_eval.models.family import FamilySpec, OpenedCheckpoint
from dlm_eval.models.naming import Naming
from dlm_eval.models.weights import Pretrained

# By vocabulary size: words of Llama 2's and of GPT-2's vocabulary (DiffuGPT S), and a token of its
# own (M).
LLAMA_MASKS = {32000: 811}
GPT_MASKS = {50257: 10541, 50258: 50257}
# The authors' Llama keeps the token embedding apart from the network, which the files do not.
LLAMA_NAMING = Naming(prefixes=(("denoise_model.", "model."),))
GPT_NAMING = Naming({r"^embed_tokens\.": "transformer.wte.", r"^denoise_model\.": "transformer."})
KEYS = DENSE.extended(
    family="DiffuLLaMA",
    read={"attention_bias": FLAG, "mlp_bias": FLAG},
    defaults={"hidden_act": "silu", "attention_bias": False, "mlp_bias": False},
)
GPT_KEYS = ConfigKeys(
    "DiffuGPT",
    needed=all_of(COUNT, "n_embd", "n_layer", "n_head", "n_positions", "vocab_size") | {"layer_norm_epsilon": NUMBER},
    read={"activation_function": TEXT, "n_inner": COUNT}
    | all_of(FLAG, "reorder_and_upcast_attn", "scale_attn_by_inverse_layer_idx", "scale_attn_weights"),
    defaults={"activation_function": "gelu_new"},
    usual={"tie_word_embeddings": (None, True)},
    harmless=frozenset(
        {
            "n_ctx", "summary_activation", "summary_first_dropout", "summary_proj_to_labels", "summary_type", "summary_use_proj",
            "summary_hidden_size", "summary_last_dropout",
        }
    ),
)  # fmt: skip


def llama(opened: OpenedCheckpoint) -> Pretrained:
    """Returns Llama with full attention."""
    return Pretrained(LlamaForCausalLM, LlamaConfig(**opened.values, is_causal=False), LLAMA_NAMING)


def gpt(opened: OpenedCheckpoint) -> Pretrained:
    """Returns GPT-2 with full attention."""
    config = GPT2Config(**opened.values, is_causal=False, tie_word_embeddings=True)
    return Pretrained(GPT2LMHeadModel, config, GPT_NAMING)


FAMILY = FamilySpec(
    "diffullama",
    KEYS,
    llama,
    shift=True,
    default_mask=lambda values: LLAMA_MASKS.get(values["vocab_size"]),
    mask_may_be_regular=True,
)
DIFFUGPT = FamilySpec(
    "diffugpt",
    GPT_KEYS,
    gpt,
    shift=True,
    default_mask=lambda values: GPT_MASKS.get(values["vocab_size"]),
    mask_may_be_regular=True,
)
