"""SDAR and TraDo (Cheng et al. 2025): Qwen3 (or its MoE) trained block-causally; a block sees itself and the blocks before it."""

from __future__ import annotations

import logging
from dataclasses import dataclass

from transformers import Qwen3Config, Qwen3ForCausalLM, Qwen3MoeConfig, Qwen3MoeForCausalLM

from dlm_eval.models.assemble import assemble
from dlm_eval.models.loading import LoadSettings, locate, native_config, read_config, require
from dlm_eval.models.transformer import Traits, TransformersDenoiser
from dlm_eval.models.vocabulary import read_vocabulary
from dlm_eval.models.weights import load_weights

log = logging.getLogger(__name__)

BLOCK_LENGTH = 4  # of the checkpoints whose config does not say


@dataclass(frozen=True)
class BlockSettings(LoadSettings):
    """Options of block-causal families.

    Attributes:
        block_length: positions of a block; None for the checkpoint's own, which it was trained with.
    """

    block_length: int | None = None


def load(settings: BlockSettings) -> TransformersDenoiser:
    """Returns the denoiser of an SDAR checkpoint."""
    folder = locate(settings.pretrained, settings.revision)
    raw = read_config(folder)
    require(raw, ["hidden_size", "num_hidden_layers", "num_key_value_heads", "head_dim"], folder, "SDAR")
    sparse = "num_experts" in raw
    config = native_config(Qwen3MoeConfig if sparse else Qwen3Config, raw, is_causal=False)
    vocabulary = read_vocabulary(folder, raw, settings, ["<|im_end|>", "<|endoftext|>"], "<|MASK|>")
    model = load_weights(Qwen3MoeForCausalLM if sparse else Qwen3ForCausalLM, config, folder, settings)
    block_length = settings.block_length or raw.get("block_size")
    if block_length is None:
        block_length = BLOCK_LENGTH
        log.warning("%s names no block size; %d is taken, block_length= sets another", folder.name, block_length)
    traits = Traits("sdar", attention="block", block_length=block_length)
    return assemble(model, vocabulary, traits, folder, settings)
