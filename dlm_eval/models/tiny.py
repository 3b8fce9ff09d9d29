"""`tiny`: the masked diffusion model that travels with the package. A Llama whose own config says is_causal=false and names the mask."""

from __future__ import annotations

from transformers import LlamaConfig, LlamaForCausalLM

from dlm_eval.models.assemble import assemble
from dlm_eval.models.config_facts import DENSE
from dlm_eval.models.loading import LoadSettings, open_checkpoint
from dlm_eval.models.transformer import Traits, TransformersDenoiser
from dlm_eval.models.value_kinds import FLAG, INDEX
from dlm_eval.models.vocabulary import read_vocabulary
from dlm_eval.models.weights import load_weights

FACTS = DENSE.extended(
    family="tiny",
    needed={"mask_token_id": INDEX, "is_causal": FLAG},
    read={"attention_bias": FLAG, "mlp_bias": FLAG},
    defaults={"hidden_act": "silu", "attention_bias": False, "mlp_bias": False},
)


def load(settings: LoadSettings) -> TransformersDenoiser:
    """Returns the denoiser of `tiny`, or of a checkpoint that scripts/train_tiny.py wrote."""
    folder, raw, values = open_checkpoint(settings, FACTS)
    vocabulary = read_vocabulary(folder, raw, settings)
    model = load_weights(LlamaForCausalLM, LlamaConfig(**values), folder, settings)
    return assemble(model, vocabulary, Traits("tiny"), folder, settings)
