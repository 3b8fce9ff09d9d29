"""MDLM (Sahoo et al. 2024) and BD3LM (Arriola et al. 2025): the DiT without time conditioning.

The mask is the last id and is never predicted (SUBS). BD3LM is trained block-causally: the
published networks read [noisy text, clean text] to score all blocks at once. A block whose
predecessors are clean sees the same in a plain block-causal forward, which is what runs here.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from dlm_eval.models.config_keys import ConfigKeys
from dlm_eval.models.config_tables import COUNT, NO, all_of
from dlm_eval.models.families.dit import DiT, DiTConfig, DiTDenoiser, rename
from dlm_eval.models.family import (
    BlockSettings,
    FamilySpec,
    OpenedCheckpoint,
    asked_block,
    the_mask,
)
from dlm_eval.models.weights import OwnModule

KEYS = ConfigKeys(
    "MDLM",
    needed=all_of(
        COUNT, "vocab_size", "hidden_dim", "cond_dim", "n_blocks", "n_heads", "model_length"
    ),
    usual={
        "adaln": (True, None),
        "parameterization": (None, "subs"),
        "scale_by_sigma": (None, True),
        "tie_word_embeddings": (None, False),
        "time_conditioning": NO,
    },
    harmless=frozenset(
        {"T", "attn_backend", "cross_attn", "sampling_eps_max", "sampling_eps_min", "var_min"}
    ),
)


BLOCK_KEYS = KEYS.extended(family="BD3LM", needed={"block_size": COUNT})


def network(opened: OpenedCheckpoint) -> OwnModule:
    """Returns the DiT."""
    return OwnModule(lambda: DiT(sizes(opened.values)), rename)


def causal_blocks(opened: OpenedCheckpoint) -> int | None:
    """Returns the block length; None (full attention) if it is the network's length."""
    block = int(asked_block(opened.settings) or opened.values["block_size"])
    return None if block >= sizes(opened.values).max_position_embeddings else block


def sizes(values: dict[str, Any]) -> DiTConfig:
    """Returns the network's sizes from an MDLM or BD3LM config.json."""
    return DiTConfig(
        *(
            values[key]
            for key in (
                "vocab_size",
                "hidden_dim",
                "cond_dim",
                "n_blocks",
                "n_heads",
                "model_length",
            )
        )
    )


MDLM = FamilySpec(
    "mdlm",
    KEYS,
    network,
    default_mask=lambda values: sizes(values).vocab_size - 1,
    suppressed=the_mask,
    denoiser=lambda _: DiTDenoiser,
)
BD3LM = replace(
    MDLM, name="bd3lm", keys=BLOCK_KEYS, settings=BlockSettings, causal_blocks=causal_blocks
)
