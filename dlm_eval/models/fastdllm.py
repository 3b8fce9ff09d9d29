"""Fast-dLLM v2 1.5B and 7B (Wu et al. 2025): Qwen2.5 trained block-causally in blocks of 32, shifted.

A block's first token is read at the last position of the block before, which does not see it: the autoregressive prediction, as in the
authors' decoding (`decoding.loop` writes it alone, before the rest of the block).
"""

from __future__ import annotations

from transformers import Qwen2Config, Qwen2ForCausalLM

from dlm_eval.models.assemble import assemble
from dlm_eval.models.loading import locate, native_config, read_config, require
from dlm_eval.models.sdar import BlockSettings
from dlm_eval.models.transformer import Traits, TransformersDenoiser
from dlm_eval.models.vocabulary import read_vocabulary
from dlm_eval.models.weights import load_weights

BLOCK_LENGTH = 32  # where config.json does not say


def load(settings: BlockSettings) -> TransformersDenoiser:
    """Returns the denoiser of a Fast-dLLM v2 checkpoint."""
    folder = locate(settings.pretrained, settings.revision)
    raw = read_config(folder)
    require(raw, ["hidden_size", "num_hidden_layers", "num_key_value_heads"], folder, "Fast-dLLM v2")
    config = native_config(Qwen2Config, raw, is_causal=False)
    vocabulary = read_vocabulary(folder, raw, settings, ["<|im_end|>", "<|endoftext|>"], "|<MASK>|")
    model = load_weights(Qwen2ForCausalLM, config, folder, settings)
    block_length = settings.block_length or raw.get("bd_size") or BLOCK_LENGTH
    traits = Traits("fastdllm", shift=True, attention="block", block_length=block_length, bare=True)
    return assemble(model, vocabulary, traits, folder, settings)
