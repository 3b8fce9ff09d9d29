"""Dream 7B, Dream-Coder, DiffuCoder, Open-dCoder: Qwen2 files as they are, bidirectional, shifted (Ye et al. 2025)."""

from __future__ import annotations

from transformers import Qwen2Config, Qwen2ForCausalLM, Qwen2Tokenizer

from dlm_eval.models.assemble import assemble
from dlm_eval.models.config_facts import QWEN2
from dlm_eval.models.loading import LoadSettings, open_checkpoint
from dlm_eval.models.transformer import Traits, TransformersDenoiser
from dlm_eval.models.vocabulary import read_vocabulary
from dlm_eval.models.weights import load_weights

FACTS = QWEN2.extended(family="Dream")


def load(settings: LoadSettings) -> TransformersDenoiser:
    """Returns the denoiser of a Dream-like checkpoint."""
    folder, raw, values = open_checkpoint(settings, FACTS)
    config = Qwen2Config(**values, is_causal=False)
    # Dream's own tokenizer class is Qwen2's in all that counts, with identical ids.
    eos = ["<|endoftext|>", "<|im_end|>"]
    vocabulary = read_vocabulary(folder, raw, settings, eos, "<|mask|>", Qwen2Tokenizer)
    model = load_weights(Qwen2ForCausalLM, config, folder, settings)
    return assemble(model, vocabulary, Traits("dream", shift=True), folder, settings)
