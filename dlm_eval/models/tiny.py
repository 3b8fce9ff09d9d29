"""`tiny`: the masked diffusion model that travels with the package. A Llama whose own config says is_causal=false and names the mask."""

from __future__ import annotations

from transformers import LlamaConfig, LlamaForCausalLM

from dlm_eval.models.assemble import assemble
from dlm_eval.models.loading import LoadSettings, locate, native_config, read_config, require
from dlm_eval.models.transformer import Traits, TransformersDenoiser
from dlm_eval.models.vocabulary import read_vocabulary
from dlm_eval.models.weights import load_weights


def load(settings: LoadSettings) -> TransformersDenoiser:
    """Returns the denoiser of `tiny`, or of a checkpoint that scripts/train_tiny.py wrote."""
    folder = locate(settings.pretrained, settings.revision)
    raw = read_config(folder)
    require(raw, ["hidden_size", "num_hidden_layers", "mask_token_id", "is_causal"], folder, "tiny")
    vocabulary = read_vocabulary(folder, raw, settings)
    model = load_weights(LlamaForCausalLM, native_config(LlamaConfig, raw), folder, settings)
    return assemble(model, vocabulary, Traits("tiny"), folder, settings)
