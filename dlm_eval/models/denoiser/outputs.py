"""Optional: outputs besides logits of the vocabulary; and what is read from logits on the device.

Shape letters: B = rows of a batch, L = positions, N = wanted positions of the batch, V = vocabulary, C =
classes, H = hidden size.
"""

from __future__ import annotations

from typing import Protocol, cast

from torch import Tensor

from dlm_eval.models.denoiser.core import Denoiser
from dlm_eval.models.denoiser.members import offers


class LengthHead(Protocol):
    """A denoiser that predicts the length of an answer (DiffusionLLM)."""

    def length_logits(
        self, tokens: Tensor, valid: Tensor | None = None, positions: Tensor | None = None
    ) -> Tensor:
        """Returns float32 logits [N, C] of length - 1, at each wanted position its row's."""
        ...


class HiddenStates(Protocol):
    """A denoiser whose last hidden states can be read as features of a text."""

    def hidden(self, tokens: Tensor, valid: Tensor | None) -> Tensor:
        """Returns the states [B, L, H] before the head.

        Args:
            tokens: [B, L] long.
            valid: [B, L] bool, false at padding, or None.
        """
        ...


class EditTokens(Protocol):
    """A denoiser trained to insert and delete tokens (LLaDA2.2): ids that say so, None if it has none.

    Attributes:
        delete_token_id: predicted at a position that is to be removed.
        split_token_id: predicted at a position before which a mask is to be inserted.
    """

    delete_token_id: int | None
    split_token_id: int | None


def edit_tokens(model: Denoiser) -> tuple[int | None, int | None]:
    """Returns the ids with which a model deletes a token and splits a position, None if unknown."""
    if not offers(model, EditTokens):
        return None, None
    able = cast(EditTokens, model)
    return able.delete_token_id, able.split_token_id


class LogitsOp(Protocol):
    """What is read from logits. It is hashable: rows with equal ones are read together."""

    def __call__(self, logits: Tensor, payload: Tensor) -> tuple[Tensor, ...]:
        """Returns tensors [N, ...] of float32 `logits` [N, V] and `payload` [N, ...], inputs."""
        ...


class KeepingOp(Protocol):
    """A `LogitsOp` whose last output stays on the device, an input of the next call."""

    def __call__(
        self, logits: Tensor, payload: Tensor, before: Tensor | None, known: Tensor
    ) -> tuple[Tensor, ...]:
        """Returns tensors with first dimension N; the last one is kept.

        Args:
            logits: [N, V] float32.
            payload: [N, ...].
            before: [N, ...] what the last call kept for these positions; None if it is the first
                call.
            known: [N] bool, false at positions of which nothing was kept (`before` is 0 there).
        """
        ...
