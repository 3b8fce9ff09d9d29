"""Optional: who sees whom in a row, and in which order its tokens are written.

Shape letters: B = rows of a batch, L = positions, N = wanted positions of the batch, V = vocabulary.
"""

from __future__ import annotations

from typing import Protocol, cast

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from dlm_eval.models.denoiser.core import Denoiser
from dlm_eval.models.denoiser.members import offers


class LayoutDenoiser(Protocol):
    """A denoiser whose rows may say where each token stands and which others it sees.

    Verification beside a draft needs it (WINO). What it says is tested before the first such row
    (`models.probes.layout_test`).
    """

    @property
    def supports_layouts(self) -> bool:
        """Whether `logits_in_layout` does what the layout says."""
        ...

    def logits_in_layout(
        self, tokens: Tensor, positions: Tensor, places: Tensor, visible: Tensor
    ) -> Tensor:
        """Returns float32 logits [N, V] at the wanted positions.

        A shifted model reads them one column to the left, as in a plain row.

        Args:
            tokens: [B, L] long.
            positions: [B, L] bool, the wanted ones.
            places: [B, L] long, position of each token in the text.
            visible: [B, L, L] bool, true if the first sees the second.
        """
        ...


def takes_layouts(model: Denoiser) -> bool:
    """Returns whether rows may have a layout (`engine.rows.Layout`)."""
    return offers(model, LayoutDenoiser) and cast(LayoutDenoiser, model).supports_layouts


class WritingOrder(LayoutDenoiser, Protocol):
    """A denoiser that attends in the order in which tokens are written (Eso-LM, arXiv 2506.01928).

    Written tokens come first, in the order of writing, and masks behind them. A row with a layout
    says which order that is.

    Attributes:
        alpha_0: share of the tokens that its diffusion phase writes, in random order. The others are
            written from left to right.
        sees_masks_behind: whether a token may see a mask that is written after it. Rows then have to
            show all masks.
    """

    alpha_0: float
    sees_masks_behind: bool

    def visible(self, hidden: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """Returns [L, L] who sees whom in the diffusion phase.

        Args:
            hidden: [L] whether each token of the order is a mask; masks are last.
        """
        ...

    def visible_from_left(self, shown: int, left: int) -> NDArray[np.bool_]:
        """Returns [S, S] who sees whom if `left` tokens are written from left to right at once.

        S = shown + 2 left: the tokens written before, the text of the others, and their masks.
        """
        ...


class BlockDrafts(Protocol):
    """An autoregressive denoiser that also drafts a block of tokens in one forward (Nemotron)."""

    def draft_logits(
        self, tokens: Tensor, valid: Tensor | None = None, positions: Tensor | None = None
    ) -> Tensor:
        """Returns float32 logits of the token AT each wanted position, with the arguments of `logits`.

        A row ends with masks. They and the last token before them see each other, and all that is
        before them, which is read causally.
        """
        ...


class NextTokens(Protocol):
    """A denoiser that predicts the next tokens of a text (SDLM): masks stand behind all known ones.

    It is decoded and scored from left to right. The token before the first mask attends to the
    masks, so that its keys and values change once they are written.

    Attributes:
        tokens_ahead: tokens that it was trained to predict at once.
    """

    tokens_ahead: int


def tokens_ahead(model: Denoiser) -> int | None:
    """Returns how many next tokens a model predicts at once; None of a model that fills any hole."""
    return cast(NextTokens, model).tokens_ahead if offers(model, NextTokens) else None


def is_autoregressive(model: Denoiser) -> bool:
    """Returns whether a prediction of `model` depends on the tokens before it, and on nothing else.

    That is a causal model that is read one position to the left, so that its first position has no
    prediction, and that shows no masks behind the text (as one that predicts the next tokens does).
    """
    return model.attention == "causal" and model.needs_bos and tokens_ahead(model) is None


class ReadsContext(Protocol):
    """A denoiser that reads a prompt in both directions, and what follows block by block (E2D2).

    With `reads_context` its `logits` and `forward_cached` also take `context` [B] long, the positions
    from the left that every position sees, and `blocks_from` [B] long, a position at which a block
    begins. Without it there is no such context, and blocks begin at position 0.
    """

    reads_context: bool


def reads_context(model: Denoiser) -> bool:
    """Returns whether a model is told how many positions are its prompt."""
    return offers(model, ReadsContext) and cast(ReadsContext, model).reads_context
