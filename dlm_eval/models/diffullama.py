"""DiffuLLaMA (Gong et al. 2024): Llama-2 files as they are, bidirectional, shifted. Its mask is an ordinary vocabulary item."""

from __future__ import annotations

from transformers import LlamaConfig, LlamaForCausalLM

from dlm_eval.models.assemble import assemble
from dlm_eval.models.config_facts import DENSE
from dlm_eval.models.loading import LoadSettings, open_checkpoint
from dlm_eval.models.naming import Naming
from dlm_eval.models.transformer import Traits, TransformersDenoiser
from dlm_eval.models.value_kinds import FLAG
from dlm_eval.models.vocabulary import read_vocabulary
from dlm_eval.models.weights import load_weights

MASKS = {32000: 811}  # by vocabulary size: a word of Llama 2's vocabulary

# Its authors' class keeps the token embedding apart from the network, which the files do not.
NAMING = Naming(prefixes=(("denoise_model.", "model."),))
FACTS = DENSE.extended(
    family="DiffuLLaMA",
    read={"attention_bias": FLAG, "mlp_bias": FLAG},
    defaults={"hidden_act": "silu", "attention_bias": False, "mlp_bias": False},
)


def load(settings: LoadSettings) -> TransformersDenoiser:
    """Returns the denoiser of a DiffuLLaMA checkpoint."""
    folder, raw, values = open_checkpoint(settings, FACTS)
    config = LlamaConfig(**values, is_causal=False)
    vocabulary = read_vocabulary(
        folder, raw, settings, default_mask=MASKS.get(values["vocab_size"]), mask_may_be_word=True
    )
    model = load_weights(LlamaForCausalLM, config, folder, settings, NAMING)
    return assemble(model, vocabulary, Traits("diffullama", shift=True), folder, settings)
