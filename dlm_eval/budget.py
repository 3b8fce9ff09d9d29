"""How much goes into one batch: `--batch_size` as a budget of rows or of tokens."""

from __future__ import annotations

import logging
import os
import re

import torch

from dlm_eval.engine import Engine
from dlm_eval.errors import UserError
from dlm_eval.forward import device_of
from dlm_eval.models.denoiser import Denoiser, remembering

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
    memory = os.environ.get(MEMORY_VARIABLE)
    rows = parse_batch_size(batch_size)
    tokens, logits, weight = _budget(model) if rows is None else (rows * model.max_length, 2**27, 1.0)
    tokens = min(tokens, batch_tokens or tokens)
    stand_in = int(memory) if memory else None
    return Engine(model, rows, tokens, logits, memory_weight=weight, memory_tokens=stand_in)


def parse_batch_size(batch_size: str | int) -> int | None:
    """Returns the rows in a batch; None for 'auto'.

    Raises:
        UserError: neither.
    """
    text = str(batch_size).strip()
    if re.fullmatch(r"auto(:\d+)?", text):
        return None
    if re.fullmatch(r"\d+(\.0)?", text) and int(float(text)) >= 1:
        return int(float(text))
    raise UserError(f"--batch_size '{batch_size}' is not allowed; it must be 'auto' or a whole number of at least 1")


def _budget(model: Denoiser) -> tuple[int, int, float]:
    """Returns padded tokens and float32 logits in a batch, and what a remembered position weighs beside a token."""
    device = device_of(model)
    if device.type != "cuda":
        return CPU_TOKENS, 2**26, 1.0
    free, _ = torch.cuda.mem_get_info(device)
    logits = max(2**24, free // 8 // 4)
    each = _bytes_per_token(model, device)
    tokens = min(MOST_TOKENS, max(2048, int(free * 0.5 / each)))
    return tokens, logits, _bytes_per_memory(model, device) / each


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


@torch.inference_mode()
def _bytes_per_memory(model: Denoiser, device: torch.device) -> float:
    """Returns the device memory that a remembered position takes: its keys and values, in the walk's memory and in a batch's copy of it."""
    knowing = remembering(model)
    if knowing is None:
        return 0.0
    tokens = torch.full((1, 8), model.pad_id, dtype=torch.long, device=device)
    _, states = knowing.recall(tokens, None, torch.ones_like(tokens, dtype=torch.bool), None, True)
    assert states is not None
    return 2 * states.nbytes / tokens.shape[1]
