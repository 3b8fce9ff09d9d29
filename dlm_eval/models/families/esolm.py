"""Eso-LM (Sahoo et al. 2025, arXiv 2506.01928): the DiT of MDLM whose attention follows the order in
which tokens are written (s-sahoo/Eso-LMs 92e7982, `models/dit.py`, `algo.py`).

A text is written in two phases: a share alpha_0 of its tokens by masked diffusion, in random order,
and the others from left to right. Written tokens come first, in the order of writing, then masks in
random order. `diffusion_attn_mode` says who sees whom:

    causal (B)       each token sees itself and those before it in that order
    mixed2 (A)       as `causal`, and written tokens all see each other
    mixed            as `causal`, and masks see everything
    bidirectional    every token sees everything

In the second phase a token sees those before it; under `sequential_attn_mode` 'mixed' those that
diffusion has written all see each other. Rows with a layout give the order. `logits` reads a text in
the order of its positions, written tokens first.

Shape letters: B = rows, L = positions.
"""

from __future__ import annotations

from typing import Any, Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dlm_eval.models.config_tables import Kind, is_number
from dlm_eval.models.families.dit import DiTDenoiser
from dlm_eval.models.families.mdlm import KEYS as MDLM_KEYS
from dlm_eval.models.families.mdlm import network, sizes
from dlm_eval.models.family import FamilySpec, OpenedCheckpoint, the_mask
from dlm_eval.models.transformer import token_positions

Mode = Literal["causal", "mixed2", "mixed", "bidirectional"]
MODES: tuple[Mode, ...] = get_args(Mode)
SEQUENTIAL = ("causal", "mixed")

KEYS = MDLM_KEYS.extended(
    family="EsoLM",
    needed={
        "alpha_0": Kind("a number from 0 to 1", lambda v: is_number(v) and 0 <= v <= 1),
        "diffusion_attn_mode": Kind("one of " + ", ".join(MODES), lambda v: v in MODES),
        "sequential_attn_mode": Kind("one of " + ", ".join(SEQUENTIAL), lambda v: v in SEQUENTIAL),
    },
    harmless=frozenset({"batch_split", "diffusion_shuffle", "sequential_shuffle", "loss_type"}),
)


class EsoDenoiser(DiTDenoiser):
    """Denoiser that attends in the order of writing (`models.denoiser.WritingOrder`)."""

    alpha_0 = 1.0
    diffusion_mode: Mode = "causal"
    sequential_mode = "causal"

    @property
    def sees_masks_behind(self) -> bool:
        return self.diffusion_mode in ("mixed", "bidirectional")

    def visible(self, hidden: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """Returns [L, L] who sees whom, of an order whose masks `hidden` [L] are last."""
        rank = np.arange(len(hidden))
        found: NDArray[np.bool_] = rank[None, :] <= rank[:, None]
        found |= self._more(hidden[:, None], hidden[None, :])
        return found

    def visible_from_left(self, shown: int, left: int) -> NDArray[np.bool_]:
        """Returns [S, S] who sees whom, S = shown + 2 left: written tokens, the text of the others in
        reading order, and their masks. A mask sees itself and all of the text before it.
        """
        rank = np.arange(shown + left)
        clean = rank[None, :] <= rank[:, None]
        if self.sequential_mode == "mixed":
            clean[:shown, :shown] = True
        found = np.eye(shown + 2 * left, dtype=bool)
        found[: shown + left, : shown + left] = clean
        found[shown + left :, : shown + left] = rank[None, :] < rank[shown:, None]
        return found

    def _more(self, query: Any, key: Any) -> Any:
        """Returns which pairs see each other against the order, of whether each is a mask."""
        if self.diffusion_mode == "mixed2":
            return ~query & ~key
        if self.diffusion_mode == "mixed":
            return query | (key & False)
        return (query | True) & (key | True) & (self.diffusion_mode == "bidirectional")

    def hidden(self, tokens: Tensor, valid: Tensor | None) -> Tensor:
        """Returns the states [B, L, H] of texts whose written tokens come first, from the left."""
        masked = tokens == self.mask_id
        length = tokens.shape[1]
        rank = torch.arange(length, device=tokens.device) + masked * length  # [B, L]
        visible = rank[:, None, :] <= rank[:, :, None]
        visible = visible | self._more(masked[:, :, None], masked[:, None, :])
        if valid is not None:
            visible &= valid[:, None, :]
            visible |= torch.eye(length, dtype=torch.bool, device=tokens.device)
        return self._states(tokens, token_positions(tokens, valid), visible)

    @torch.no_grad()
    def logits_in_layout(
        self, tokens: Tensor, positions: Tensor, places: Tensor, visible: Tensor
    ) -> Tensor:
        """Returns logits at wanted positions (see `LayoutDenoiser.logits_in_layout`)."""
        tokens, device = tokens.to(self.device), self.device
        rows, columns = positions.to(device).nonzero(as_tuple=True)
        states = self._states(tokens, places.to(device), visible.to(device))
        return self._read_at(states, rows, columns, None)

    def _states(self, tokens: Tensor, places: Tensor, visible: Tensor) -> Tensor:
        found: Tensor = self.model(tokens, self.sigma(tokens, None), places, visible[:, None])
        return found

    @property
    def supports_layouts(self) -> bool:
        return True

    def no_cache_reason(self) -> str:
        return "tokens are seen in the order of writing, and not in that of the text"

    def describe(self) -> dict[str, Any]:
        modes = {"diffusion": self.diffusion_mode, "sequential": self.sequential_mode}
        return {**super().describe(), "alpha_0": self.alpha_0, "attention_modes": modes}


def set_phases(denoiser: EsoDenoiser, opened: OpenedCheckpoint) -> None:
    """Tells the denoiser how its network was trained."""
    denoiser.alpha_0 = float(opened.values["alpha_0"])
    denoiser.diffusion_mode = opened.values["diffusion_attn_mode"]
    denoiser.sequential_mode = opened.values["sequential_attn_mode"]


FAMILY = FamilySpec(
    "esolm",
    KEYS,
    network,
    default_mask=lambda values: sizes(values).vocab_size - 1,
    suppressed=the_mask,
    denoiser=lambda _: EsoDenoiser,
    finish=set_phases,
)
