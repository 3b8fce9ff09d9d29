"""MDLM (Sahoo et al. 2024): the DiT without time conditioning; the mask is the last id and is never predicted (SUBS)."""

from __future__ import annotations

from typing import Any

from dlm_eval.models.assemble import assemble
from dlm_eval.models.config_facts import NO, Facts
from dlm_eval.models.dit import DiT, DiTConfig, DiTDenoiser, rename
from dlm_eval.models.loading import LoadSettings, open_checkpoint
from dlm_eval.models.transformer import Traits, TransformersDenoiser
from dlm_eval.models.value_kinds import COUNT, all_of
from dlm_eval.models.vocabulary import read_vocabulary
from dlm_eval.models.weights import load_module

FACTS = Facts(
    "MDLM",
    needed=all_of(COUNT, "vocab_size", "hidden_dim", "cond_dim", "n_blocks", "n_heads", "model_length"),
    usual={
        "adaln": (True, None),
        "parameterization": (None, "subs"),
        "scale_by_sigma": (None, True),
        "tie_word_embeddings": (None, False),
        "time_conditioning": NO,
    },
    harmless=frozenset({"T", "attn_backend", "cross_attn", "sampling_eps_max", "sampling_eps_min", "var_min"}),
)


def load(settings: LoadSettings) -> TransformersDenoiser:
    """Returns the denoiser of an MDLM checkpoint."""
    folder, raw, values = open_checkpoint(settings, FACTS)
    config = sizes(values)
    vocabulary = read_vocabulary(folder, raw, settings, default_mask=config.vocab_size - 1)
    model = load_module(lambda: DiT(config), folder, settings, rename)
    traits = Traits("mdlm", barred=(vocabulary.mask_id,))
    return assemble(model, vocabulary, traits, folder, settings, DiTDenoiser)


def sizes(values: dict[str, Any]) -> DiTConfig:
    """Returns the network's sizes from an MDLM or BD3LM config.json."""
    return DiTConfig(
        *(values[key] for key in ("vocab_size", "hidden_dim", "cond_dim", "n_blocks", "n_heads", "model_length"))
    )
