"""LLaDA 8B Base/Instruct, LLaDA 1.5 (Nie et al. 2025): a Llama with other names, bidirectional, no shift. Mask and eos come from the files."""

from __future__ import annotations

from transformers import LlamaConfig, LlamaForCausalLM

from dlm_eval.models.assemble import assemble
from dlm_eval.models.loading import LoadSettings, locate, read_config, require
from dlm_eval.models.transformer import Traits, TransformersDenoiser
from dlm_eval.models.vocabulary import read_vocabulary
from dlm_eval.models.weights import load_weights

PARTS = {
    "attn_norm": "input_layernorm",
    "q_proj": "self_attn.q_proj",
    "k_proj": "self_attn.k_proj",
    "v_proj": "self_attn.v_proj",
    "attn_out": "self_attn.o_proj",
    "ff_norm": "post_attention_layernorm",
    "ff_proj": "mlp.gate_proj",
    "up_proj": "mlp.up_proj",
    "ff_out": "mlp.down_proj",
}
KEYS = {
    rf"^model\.transformer\.blocks\.(\d+)\.{theirs}\.": rf"model.layers.\1.{ours}." for theirs, ours in PARTS.items()
} | {
    r"^model\.transformer\.wte\.": "model.embed_tokens.",
    r"^model\.transformer\.ln_f\.": "model.norm.",
    r"^model\.transformer\.ff_out\.": "lm_head.",
}
NEEDED = ["d_model", "n_layers", "n_heads", "mlp_hidden_size", "max_sequence_length", "rope_theta"]


def load(settings: LoadSettings) -> TransformersDenoiser:
    """Returns the denoiser of a LLaDA checkpoint."""
    folder = locate(settings.pretrained, settings.revision)
    raw = read_config(folder)
    require(raw, NEEDED, folder, "LLaDA")
    config = LlamaConfig(
        vocab_size=raw.get("embedding_size") or raw["vocab_size"],
        hidden_size=raw["d_model"],
        intermediate_size=raw["mlp_hidden_size"],
        num_hidden_layers=raw["n_layers"],
        num_attention_heads=raw["n_heads"],
        num_key_value_heads=raw.get("n_kv_heads") or raw["n_heads"],
        max_position_embeddings=raw["max_sequence_length"],
        rms_norm_eps=raw.get("rms_norm_eps", 1e-5),
        tie_word_embeddings=raw.get("weight_tying", False),
        attention_bias=bool(raw.get("include_bias") or raw.get("include_qkv_bias")),
        rope_parameters={"rope_type": "default", "rope_theta": raw["rope_theta"]},
        is_causal=False,
    )
    vocabulary = read_vocabulary(folder, raw, settings, ["<|endoftext|>", "<|eot_id|>"], "<|mdm_mask|>")
    model = load_weights(LlamaForCausalLM, config, folder, settings, KEYS)
    return assemble(model, vocabulary, Traits("llada"), folder, settings)
