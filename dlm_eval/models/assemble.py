"""The last step of every transformers family: network, vocabulary and traits become a denoiser that has been probed."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from dlm_eval.errors import UserError
from dlm_eval.models.compiled import compile_backend, compile_denoiser
from dlm_eval.models.identity import identity
from dlm_eval.models.loading import Folder, LoadSettings
from dlm_eval.models.probes import probe
from dlm_eval.models.transformer import Traits, TransformersDenoiser
from dlm_eval.models.vocabulary import Vocabulary

LONGEST_BLOCK = 2**14
DEFAULT_LENGTH = 2048  # of networks whose config names no limit


def assemble(
    model: Any,
    vocabulary: Vocabulary,
    traits: Traits,
    folder: Folder,
    settings: LoadSettings,
    kind: type[TransformersDenoiser] = TransformersDenoiser,
) -> TransformersDenoiser:
    """Returns the denoiser, after the probes.

    Raises:
        UserError: a probe failed.
    """
    traits = replace(traits, described={"checkpoint": settings.checkpoint or None, **identity(folder, settings)})
    sizes = getattr(model.config, "text_config", model.config)
    positions = getattr(sizes, "max_position_embeddings", None)
    if settings.max_length is not None and not 1 <= settings.max_length <= (positions or settings.max_length):
        raise UserError(
            f"model_args max_length '{settings.max_length}' is not possible; the network has {positions} positions"
        )
    longest = settings.max_length or positions or DEFAULT_LENGTH
    block = traits.block_length
    if traits.attention == "block" and (type(block) is not int or not 1 <= block <= LONGEST_BLOCK):
        raise UserError(
            f"{traits.family} ({folder.name}): block length {str(block)[:40]} is not possible; it must be 1 to {LONGEST_BLOCK}"
        )
    denoiser = kind(model, vocabulary, traits, f"{traits.family} ({settings.checkpoint or folder.name})", longest)
    if backend := compile_backend(settings.compile):
        compile_denoiser(denoiser, backend)
    if settings.probe:
        probe(denoiser)
    return denoiser
