"""Nemotron-Labs-Diffusion 3B, 8B and 14B (NVIDIA 2026): Ministral 3 under an encoder's names, trained block-causally in blocks of 32."""

from __future__ import annotations

from transformers import Ministral3Config, Ministral3ForCausalLM

from dlm_eval.models.assemble import assemble
from dlm_eval.models.config_facts import DENSE, NONE
from dlm_eval.models.loading import open_checkpoint
from dlm_eval.models.naming import Naming
from dlm_eval.models.rope_facts import Rope
from dlm_eval.models.sdar import BlockSettings, block_length
from dlm_eval.models.transformer import Traits, TransformersDenoiser
from dlm_eval.models.value_kinds import COUNT
from dlm_eval.models.vocabulary import read_vocabulary
from dlm_eval.models.weights import load_weights

BLOCK_LENGTH = 32  # where config.json does not say
NAMING = Naming({r"^encoder\.": "model.", r"^diffusion_head\.": "lm_head."})
FACTS = DENSE.extended(
    family="Nemotron-Labs-Diffusion",
    needed={"head_dim": COUNT, "num_key_value_heads": COUNT},
    read={"block_size": COUNT},
    usual={"dlm_paradigm": (None, "bidirectional", "block_diff"), "sliding_window": NONE},
    harmless=frozenset({"ar_loss_weight", "dlm_loss_weight", "dp_varying_mask_ratio"}),
    # Queries are scaled by their position (Llama 4's way), from these two.
    rope=Rope(
        more=frozenset({"max_position_embeddings"}),
        needed=frozenset({"llama_4_scaling_beta", "original_max_position_embeddings"}),
    ),
)


def load(settings: BlockSettings) -> TransformersDenoiser:
    """Returns the denoiser of a Nemotron-Labs-Diffusion checkpoint in its diffusion mode: predictions stand in their own place."""
    folder, raw, values = open_checkpoint(settings, FACTS)
    block = block_length(settings, {"block_size": values.pop("block_size", None)}, BLOCK_LENGTH)
    config = Ministral3Config(**values, is_causal=False)
    vocabulary = read_vocabulary(folder, raw, settings)
    model = load_weights(Ministral3ForCausalLM, config, folder, settings, NAMING)
    traits = Traits("nemotron", attention="block", block_length=block)
    return assemble(model, vocabulary, traits, folder, settings)
