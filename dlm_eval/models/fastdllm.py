"""Fast-dLLM v2 1.5B and 7B (Wu et al. 2025): Qwen2.5 trained block-causally in blocks of 32, shifted.

A block's first token is read at the last position of the block before, which does not see it: the autoregressive prediction, as in the
authors' decoding (`decoding.state.DecodeState.first_position_alone` writes it alone, before the rest of the block).
"""

from __future__ import annotations

from transformers import Qwen2Config, Qwen2ForCausalLM

from dlm_eval.models.assemble import assemble
from dlm_eval.models.config_facts import QWEN2
from dlm_eval.models.loading import open_checkpoint
from dlm_eval.models.sdar import BlockSettings, block_length
from dlm_eval.models.transformer import Traits, TransformersDenoiser
from dlm_eval.models.value_kinds import COUNT
from dlm_eval.models.vocabulary import read_vocabulary
from dlm_eval.models.weights import load_weights

BLOCK_LENGTH = 32  # where config.json does not say

FACTS = QWEN2.extended(family="Fast-dLLM v2", read={"bd_size": COUNT})


def load(settings: BlockSettings) -> TransformersDenoiser:
    """Returns the denoiser of a Fast-dLLM v2 checkpoint."""
    folder, raw, values = open_checkpoint(settings, FACTS)
    block = block_length(settings, {"block_size": values.pop("bd_size", None)}, BLOCK_LENGTH)
    config = Qwen2Config(**values, is_causal=False)
    vocabulary = read_vocabulary(folder, raw, settings, ["<|im_end|>", "<|endoftext|>"], "|<MASK>|")
    model = load_weights(Qwen2ForCausalLM, config, folder, settings)
    traits = Traits("fastdllm", shift=True, attention="block", block_length=block, bare=True)
    return assemble(model, vocabulary, traits, folder, settings)
