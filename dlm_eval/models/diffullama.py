"""DiffuLLaMA (Gong et al. 2024): Llama-2 files as they are, bidirectional, shifted. Its mask is an ordinary vocabulary item."""

from __future__ import annotations

from transformers import LlamaConfig, LlamaForCausalLM

from dlm_eval.models.assemble import assemble
from dlm_eval.models.loading import LoadSettings, locate, native_config, read_config, require
from dlm_eval.models.transformer import Traits, TransformersDenoiser
from dlm_eval.models.vocabulary import read_vocabulary
from dlm_eval.models.weights import load_weights

MASKS = {32000: 811}  # by vocabulary size: a word of Llama 2's vocabulary


def load(settings: LoadSettings) -> TransformersDenoiser:
    """Returns the denoiser of a DiffuLLaMA checkpoint."""
    folder = locate(settings.pretrained, settings.revision)
    raw = read_config(folder)
    require(raw, ["hidden_size", "num_hidden_layers", "num_attention_heads"], folder, "DiffuLLaMA")
    config = native_config(LlamaConfig, raw, is_causal=False)
    vocabulary = read_vocabulary(folder, raw, settings, default_mask=MASKS.get(raw.get("vocab_size", 0)))
    model = load_weights(LlamaForCausalLM, config, folder, settings)
    return assemble(model, vocabulary, Traits("diffullama", shift=True), folder, settings)
