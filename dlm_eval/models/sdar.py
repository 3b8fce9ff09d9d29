"""SDAR and TraDo (Cheng et al. 2025): Qwen3 (or its MoE) trained block-causally; a block sees itself and the blocks before it."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from transformers import Qwen3Config, Qwen3ForCausalLM, Qwen3MoeConfig, Qwen3MoeForCausalLM

from dlm_eval.errors import UserError
from dlm_eval.models.assemble import assemble
from dlm_eval.models.config_facts import QWEN3, QWEN3_MOE
from dlm_eval.models.loading import LoadSettings, open_checkpoint
from dlm_eval.models.transformer import Traits, TransformersDenoiser
from dlm_eval.models.value_kinds import COUNT, Kind
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


# What the authors' training code wrote beside the sizes.
TRAINED = frozenset({"debug", "ep_size", "fuse_cross_entropy", "micro_forward", "skip_checkpoint", "use_deepep"})
# A block of 1 is I-DLM's: strictly causal and shifted, under the same names.
BLOCK = {
    "block_size": Kind(
        "a whole number above 1 (1 is another model, I-DLM)", lambda value: COUNT.test(value) and value > 1
    )
}
FACTS = QWEN3.extended(family="SDAR", read=BLOCK, harmless=TRAINED)
SPARSE = QWEN3_MOE.extended(family="SDAR", read=BLOCK, harmless=TRAINED)


def block_length(settings: BlockSettings, values: Mapping[str, Any], default: int) -> int:
    """Returns the block of the option, else of config.json, else of the family.

    Raises:
        UserError: the option is below 1.
    """
    if settings.block_length is not None and settings.block_length < 1:
        raise UserError(f"model_args block_length '{settings.block_length}' is not allowed; it must be 1 or more")
    return int(settings.block_length or values.get("block_size") or default)


def load(settings: BlockSettings) -> TransformersDenoiser:
    """Returns the denoiser of an SDAR checkpoint."""
    folder, raw, values = open_checkpoint(settings, lambda raw: SPARSE if "num_experts" in raw else FACTS)
    sparse = "num_experts" in values
    stated = {"block_size": values.pop("block_size", None)}
    block = block_length(settings, stated, BLOCK_LENGTH)
    config = (Qwen3MoeConfig if sparse else Qwen3Config)(**values, is_causal=False)
    vocabulary = read_vocabulary(folder, raw, settings, ["<|im_end|>", "<|endoftext|>"], "<|MASK|>")
    model = load_weights(Qwen3MoeForCausalLM if sparse else Qwen3ForCausalLM, config, folder, settings)
    if settings.block_length is None and stated["block_size"] is None:
        log.warning("%s names no block size; %d is taken, block_length= sets another", folder.name, block)
    return assemble(model, vocabulary, Traits("sdar", attention="block", block_length=block), folder, settings)
