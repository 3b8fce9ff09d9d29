"""MDLM (Sahoo et al. 2024): the DiT without time conditioning; the mask is the last id and is never predicted (SUBS)."""

from __future__ import annotations

from typing import Any

from dlm_eval.errors import UserError
from dlm_eval.models.assemble import assemble
from dlm_eval.models.dit import DiT, DiTConfig, DiTDenoiser, rename
from dlm_eval.models.loading import Folder, LoadSettings, locate, read_config, require
from dlm_eval.models.transformer import Traits, TransformersDenoiser
from dlm_eval.models.vocabulary import read_vocabulary
from dlm_eval.models.weights import load_module

NEEDED = ["vocab_size", "hidden_dim", "cond_dim", "n_blocks", "n_heads", "model_length"]


def load(settings: LoadSettings) -> TransformersDenoiser:
    """Returns the denoiser of an MDLM checkpoint."""
    folder = locate(settings.pretrained, settings.revision)
    raw = read_config(folder)
    config = sizes(raw, folder, "MDLM")
    vocabulary = read_vocabulary(folder, raw, settings, default_mask=config.vocab_size - 1)
    model = load_module(lambda: DiT(config), folder, settings, rename)
    traits = Traits("mdlm", barred=(vocabulary.mask_id,))
    return assemble(model, vocabulary, traits, folder, settings, DiTDenoiser)


def sizes(raw: dict[str, Any], folder: Folder, family: str) -> DiTConfig:
    """Returns the network's sizes from an MDLM or BD3LM config.json.

    Raises:
        UserError: a field is missing, or the network is told the time, which these families are not.
    """
    require(raw, NEEDED, folder, family)
    if raw.get("time_conditioning"):
        raise UserError(
            f"pretrained '{folder.name}': time_conditioning true in config.json is not possible for {family}"
        )
    return DiTConfig(
        raw["vocab_size"], raw["hidden_dim"], raw["cond_dim"], raw["n_blocks"], raw["n_heads"], raw["model_length"]
    )
