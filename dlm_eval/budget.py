"""How much goes into one batch: `--batch_size` as a budget of rows or of tokens."""

from __future__ import annotations

import logging
import os
import re

import torch

from dlm_eval.engine import Engine
from dlm_eval.errors import UserError
from dlm_eval.forward import device_of
from dlm_eval.models.denoiser import Denoiser

CPU_TOKENS = 4096  # a CPU gains nothing from larger batches
BYTES_PER_TOKEN = 2**19  # activations of one token in an 8B model's forward, with room to spare
MOST_TOKENS = 2**16  # a GPU gains nothing from larger batches
# Stand-in for the device's memory, in padded tokens of a batch, where there is no CUDA to run out of: for tests of what happens then.
MEMORY_VARIABLE = "DLM_EVAL_MEMORY_TOKENS"

log = logging.getLogger(__name__)


def make_engine(model: Denoiser, batch_size: str | int = "auto", batch_tokens: int | None = None) -> Engine:
    """Returns the engine for `model`.

    Args:
        model: the denoiser.
        batch_size: rows in a batch, or 'auto' ('auto:N' likewise): padded tokens in a batch, by the device's free memory.
        batch_tokens: what an earlier run found to fit; a larger budget is cut to it.

    Raises:
        UserError: a batch size that is neither.
    """
    text = str(batch_size).strip()
    memory = os.environ.get(MEMORY_VARIABLE)
    logits = 2**27
    if re.fullmatch(r"auto(:\d+)?", text):
        rows = None
        tokens, logits = _budget(model)
    elif re.fullmatch(r"\d+(\.0)?", text) and int(float(text)) >= 1:
        rows = int(float(text))
        tokens = rows * model.max_length
    else:
        raise UserError(
            f"--batch_size '{batch_size}' is not allowed; it must be 'auto' or a whole number of at least 1"
        )
    tokens = min(tokens, batch_tokens or tokens)
    return Engine(model, rows, tokens, logits, memory_tokens=int(memory) if memory else None)


def _budget(model: Denoiser) -> tuple[int, int]:
    """Returns padded tokens and float32 logits in a batch."""
    device = device_of(model)
    if device.type != "cuda":
        return CPU_TOKENS, 2**26
    free, _ = torch.cuda.mem_get_info(device)
    logits = max(2**24, free // 8 // 4)
    tokens = int(free * 0.5 / _bytes_per_token(model, device))
    return min(MOST_TOKENS, max(2048, tokens)), logits


@torch.inference_mode()
def _bytes_per_token(model: Denoiser, device: torch.device) -> float:
    """Returns the device memory that a token of a batch takes, measured on two small batches: their difference leaves constant costs out."""
    length = min(512, model.max_length)
    peaks = []
    for rows in (1, 3):
        tokens = torch.full((rows, length), model.mask_id, dtype=torch.long, device=device)
        wanted = torch.zeros(tokens.shape, dtype=torch.bool, device=device)
        wanted[:, -1] = True
        try:
            torch.cuda.reset_peak_memory_stats(device)
            before = torch.cuda.memory_allocated(device)
            model.logits(tokens, None, wanted)
            peaks.append(torch.cuda.max_memory_allocated(device) - before)
        except torch.OutOfMemoryError:
            return BYTES_PER_TOKEN
    return max(2**10, (peaks[1] - peaks[0]) / (2 * length))
