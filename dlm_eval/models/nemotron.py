"""Nemotron-Labs-Diffusion 3B, 8B and 14B (NVIDIA 2026): Ministral 3 under an encoder's names, trained block-causally in blocks of 32."""

from __future__ import annotations

from transformers import Ministral3Config, Ministral3ForCausalLM

from dlm_eval.models.assemble import assemble
from dlm_eval.models.loading import locate, native_config, read_config, require
from dlm_eval.models.sdar import BlockSettings
from dlm_eval.models.transformer import Traits, TransformersDenoiser
from dlm_eval.models.vocabulary import read_vocabulary
from dlm_eval.models.weights import load_weights

BLOCK_LENGTH = 32  # where config.json does not say
KEYS = {r"^encoder\.": "model.", r"^diffusion_head\.": "lm_head."}


def load(settings: BlockSettings) -> TransformersDenoiser:
    """Returns the denoiser of a Nemotron-Labs-Diffusion checkpoint in its diffusion mode: predictions stand in their own place."""
    folder = locate(settings.pretrained, settings.revision)
    raw = read_config(folder)
    require(raw, ["hidden_size", "num_hidden_layers", "head_dim", "rope_parameters"], folder, "Nemotron-Labs-Diffusion")
    config = native_config(Ministral3Config, raw, is_causal=False)
    vocabulary = read_vocabulary(folder, raw, settings)
    model = load_weights(Ministral3ForCausalLM, config, folder, settings, KEYS)
    block_length = settings.block_length or raw.get("block_size") or BLOCK_LENGTH
    traits = Traits("nemotron", attention="block", block_length=block_length)
    return assemble(model, vocabulary, traits, folder, settings)
