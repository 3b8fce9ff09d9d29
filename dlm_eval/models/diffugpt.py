"""DiffuGPT S and M (Gong et al. 2024): GPT-2, bidirectional, shifted; the files keep the token embedding apart from the network."""

from __future__ import annotations

from transformers import GPT2Config, GPT2LMHeadModel

from dlm_eval.models.assemble import assemble
from dlm_eval.models.loading import LoadSettings, locate, native_config, read_config, require
from dlm_eval.models.transformer import Traits, TransformersDenoiser
from dlm_eval.models.vocabulary import read_vocabulary
from dlm_eval.models.weights import load_weights

MASKS = {50257: 10541, 50258: 50257}  # by vocabulary size: S masks with a word, M with a token of its own
KEYS = {r"^embed_tokens\.": "transformer.wte.", r"^denoise_model\.": "transformer."}


def load(settings: LoadSettings) -> TransformersDenoiser:
    """Returns the denoiser of a DiffuGPT checkpoint."""
    folder = locate(settings.pretrained, settings.revision)
    raw = read_config(folder)
    require(raw, ["n_embd", "n_layer", "n_head", "n_positions"], folder, "DiffuGPT")
    config = native_config(GPT2Config, raw, is_causal=False, tie_word_embeddings=True)
    vocabulary = read_vocabulary(folder, raw, settings, default_mask=MASKS.get(raw.get("vocab_size", 0)))
    model = load_weights(GPT2LMHeadModel, config, folder, settings, KEYS)
    return assemble(model, vocabulary, Traits("diffugpt", shift=True), folder, settings)
