"""BD3LM (Arriola et al. 2025): MDLM's DiT trained block-causally.

The published networks read [noisy text, clean text] to score all blocks at once. A block whose predecessors are clean sees the same in a plain
block-causal forward, which is what this adapter runs.
"""

from __future__ import annotations

from dlm_eval.models.assemble import assemble
from dlm_eval.models.dit import DiT, DiTDenoiser, rename
from dlm_eval.models.loading import open_checkpoint
from dlm_eval.models.mdlm import FACTS as MDLM
from dlm_eval.models.mdlm import sizes
from dlm_eval.models.sdar import BlockSettings, block_length
from dlm_eval.models.transformer import Traits, TransformersDenoiser
from dlm_eval.models.value_kinds import COUNT
from dlm_eval.models.vocabulary import read_vocabulary
from dlm_eval.models.weights import load_module

FACTS = MDLM.extended(family="BD3LM", needed={"block_size": COUNT})


def load(settings: BlockSettings) -> TransformersDenoiser:
    """Returns the denoiser of a BD3LM checkpoint; one whose block is its whole length has full attention."""
    folder, raw, values = open_checkpoint(settings, FACTS)
    config = sizes(values)
    vocabulary = read_vocabulary(folder, raw, settings, default_mask=config.vocab_size - 1)
    model = load_module(lambda: DiT(config), folder, settings, rename)
    block = block_length(settings, values, values["block_size"])
    whole = block >= config.max_position_embeddings
    traits = Traits(
        "bd3lm",
        attention="full" if whole else "block",
        block_length=None if whole else block,
        barred=(vocabulary.mask_id,),
    )
    return assemble(model, vocabulary, traits, folder, settings, DiTDenoiser)
