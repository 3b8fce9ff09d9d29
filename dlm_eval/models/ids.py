"""The one check of a canvas' ids before they reach a network, where a wrong one is an IndexError, or a CUDA assertion that ends the process."""

from __future__ import annotations

from dlm_eval.canvas import Canvas
from dlm_eval.errors import SampleError
from dlm_eval.models.denoiser import Denoiser, embedding_rows


def check_ids(model: Denoiser, canvas: Canvas, scored: bool) -> SampleError | None:
    """Returns why `model` cannot read the ids of `canvas`, or None.

    Args:
        model: for its numbers of ids.
        canvas: given ids go into the network; open ones only where they are scored.
        scored: whether open positions hold a truth, which also has to be an id that the network predicts, and no hole.
    """
    rows = embedding_rows(model)
    for place, (token, is_open) in enumerate(zip(canvas.tokens, canvas.open, strict=True)):
        if is_open and not scored:
            continue
        if not 0 <= token < rows:
            return SampleError(
                f"token {token} at position {place} is outside the model's vocabulary: its embedding has ids 0 to {rows - 1}"
            )
        if is_open and token >= model.vocab_size:
            return SampleError(
                f"token {token} at position {place} is outside the model's vocabulary: it predicts ids 0 to {model.vocab_size - 1}"
            )
        if is_open and token == model.mask_id and not model.mask_is_word:
            return SampleError(
                f"position {place} is to be scored and holds the mask token {token}, which is a hole and no text"
            )
    return None
