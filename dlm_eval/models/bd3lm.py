"""BD3LM (Arriola et al. 2025): MDLM's DiT trained block-causally.

The published networks read [noisy text, clean text] to score all blocks at once. A block whose predecessors are clean sees the same in a plain
block-causal forward, which is what this adapter runs.
"""

from __future__ import annotations

from dlm_eval.models.assemble import assemble
from dlm_eval.models.dit import DiT, DiTDenoiser, rename
from dlm_eval.models.loading import locate, read_config, require
from dlm_eval.models.mdlm import sizes
from dlm_eval.models.sdar import BlockSettings
from dlm_eval.models.transformer import Traits, TransformersDenoiser
from dlm_eval.models.vocabulary import read_vocabulary
from dlm_eval.models.weights import load_module


def load(settings: BlockSettings) -> TransformersDenoiser:
    """Returns the denoiser of a BD3LM checkpoint; one whose block is its whole length has full attention."""
    folder = locate(settings.pretrained, settings.revision)
    raw = read_config(folder)
    require(raw, ["block_size"], folder, "BD3LM")
    config = sizes(raw, folder, "BD3LM")
    vocabulary = read_vocabulary(folder, raw, settings, default_mask=config.vocab_size - 1)
    model = load_module(lambda: DiT(config), folder, settings, rename)
    block_length = settings.block_length or raw["block_size"]
    whole = block_length >= config.max_position_embeddings
    traits = Traits(
        "bd3lm",
        attention="full" if whole else "block",
        block_length=None if whole else block_length,
        barred=(vocabulary.mask_id,),
    )
    return assemble(model, vocabulary, traits, folder, settings, DiTDenoiser)
