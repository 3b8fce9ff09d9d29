"""Optional: facts about device, batches and ids, each with a default."""

from __future__ import annotations

from typing import Protocol, cast

import torch

from dlm_eval.canvas import BLANK, Canvas
from dlm_eval.errors import SampleError
from dlm_eval.models.denoiser.core import Denoiser
from dlm_eval.models.denoiser.members import offers


class OnDevice(Protocol):
    """A denoiser whose tokens go to `device`. Without it, they are given to it on the CPU."""

    device: torch.device | str


def device_of(model: Denoiser) -> torch.device:
    """Returns the device that a model's tokens go to."""
    return torch.device(cast(OnDevice, model).device if offers(model, OnDevice) else "cpu")


class InPrecision(Protocol):
    """A denoiser whose weights have a `dtype`. Without it, float32 is assumed."""

    dtype: torch.dtype


def dtype_of(model: Denoiser) -> torch.dtype:
    """Returns the dtype of a model's weights."""
    return cast(InPrecision, model).dtype if offers(model, InPrecision) else torch.float32


class BatchInvariance(Protocol):
    """A denoiser that says whether a row's bits are independent of its batch mates.

    With `batch_invariant = False` rows run one by one on a CPU, to be reproducible. Without it,
    rows of equal length are taken to be independent.
    """

    batch_invariant: bool


def is_batch_invariant(model: Denoiser) -> bool:
    """Returns whether a row's bits are independent of batch mates of its own length."""
    return cast(BatchInvariance, model).batch_invariant if offers(model, BatchInvariance) else True


class Padding(Protocol):
    """A denoiser that says whether `logits` hides positions whose `valid` is false. Without it, it
    does.

    A network without an attention mask has `padding = False`: rows of different lengths never share
    a batch, and `valid` is always None.
    """

    padding: bool


def can_pad(model: Denoiser) -> bool:
    """Returns whether rows of different lengths may share a batch."""
    return cast(Padding, model).padding if offers(model, Padding) else True


class EmbeddingRows(Protocol):
    """A denoiser that reads another number of ids than it predicts. Without it, both are V."""

    embedding_rows: int


def embedding_rows(model: Denoiser) -> int:
    """Returns the number of ids that a model reads."""
    return (
        cast(EmbeddingRows, model).embedding_rows
        if offers(model, EmbeddingRows)
        else model.vocab_size
    )


def check_ids(model: Denoiser, canvas: Canvas, scored: bool) -> SampleError | None:
    """Returns why `model` cannot read the ids of `canvas`, or None.

    A wrong id would be an IndexError in the network, or a CUDA assertion that ends the process.

    Args:
        model: for its numbers of ids.
        canvas: given ids go into the network; open ones only if they are scored, or of a draft.
        scored: whether open positions hold the truth. Then each has to be an id that the network
            predicts, and not a hole.
    """
    rows = embedding_rows(model)
    for place, (token, is_open) in enumerate(zip(canvas.tokens, canvas.open, strict=True)):
        if is_open and not scored and not (canvas.draft and token != BLANK):
            continue
        outside = f"token {token} at position {place} is outside the model's vocabulary"
        if not 0 <= token < rows:
            return SampleError(f"{outside}: its embedding has ids 0 to {rows - 1}")
        if is_open and token >= model.vocab_size:
            return SampleError(f"{outside}: it predicts ids 0 to {model.vocab_size - 1}")
        if is_open and token == model.mask_id and not model.mask_is_regular_token:
            return SampleError(
                f"position {place} is to be {'scored' if scored else 'revised'} and holds the mask token "
                f"{token}, which is a hole and no text"
            )
    return None
