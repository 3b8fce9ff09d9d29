"""How much goes into one batch: `--batch_size` as a budget of rows or of tokens."""

from __future__ import annotations

import re

import torch

from dlm_eval.engine import Engine
from dlm_eval.errors import UserError
from dlm_eval.models.denoiser import Denoiser

CPU_TOKENS = 4096  # a CPU gains nothing from larger batches, and small ones waste less padding
BYTES_PER_TOKEN = 2**19  # activations of one token in an 8B model's forward, with room to spare


def make_engine(model: Denoiser, batch_size: str | int = "auto") -> Engine:
    """Returns the engine for `model`.

    Args:
        model: the denoiser.
        batch_size: rows in a batch, or 'auto' ('auto:N' likewise): padded tokens in a batch, by the device's free memory.

    Raises:
        UserError: a batch size that is neither.
    """
    text = str(batch_size).strip()
    if re.fullmatch(r"auto(:\d+)?", text):
        tokens, logits = _budget(torch.device(getattr(model, "device", "cpu")))
        return Engine(model, batch_tokens=tokens, batch_logits=logits)
    if not re.fullmatch(r"\d+(\.0)?", text) or int(float(text)) < 1:
        raise UserError(f"--batch_size '{batch_size}' is not allowed; it must be 'auto' or a whole number of at least 1")
    rows = int(float(text))
    return Engine(model, batch_rows=rows, batch_tokens=rows * model.max_length)


def _budget(device: torch.device) -> tuple[int, int]:
    """Returns padded tokens and float32 logits in a batch."""
    if device.type != "cuda":
        return CPU_TOKENS, 2**26
    free, _ = torch.cuda.mem_get_info(device)
    return max(2048, free // 2 // BYTES_PER_TOKEN), max(2**26, free // 8 // 4)
