"""Checks on a loaded model that catch what would otherwise be silently wrong numbers. A few short forward passes.

Shape letters: L = positions, V = vocabulary.
"""

from __future__ import annotations

import torch
from torch import Tensor

from dlm_eval.errors import UserError
from dlm_eval.models.denoiser import Denoiser

LENGTH = 8
MOVES = 1e-5  # relative change of logits above which a position has seen another: expert batching alone moves them by 1e-7
PADDING = {torch.float32: 1e-4, torch.float64: 1e-6, torch.float16: 5e-2, torch.bfloat16: 2e-1}  # largest relative leak


def probe(model: Denoiser, dtype: torch.dtype | None = None) -> None:
    """Checks ids, NaN, attention and padding of `model`.

    Raises:
        UserError: a check failed; the message says what to do.
    """
    check_ids(model)
    length = LENGTH if model.block_length is None else max(LENGTH, 2 * model.block_length)
    tokens = example(model, min(length, model.max_length))
    logits = model.logits(tokens)
    if not bool(logits.isfinite().any()) or bool(logits.isnan().any()):
        raise UserError(f"{model.name}: the model returns NaN; try dtype=float32, or the file is broken")
    check_attention(model, tokens, logits[0])
    check_padding(model, tokens, logits[0])


def example(model: Denoiser, length: int) -> Tensor:
    """Returns a row [1, L] of ordinary ids with the mask at every third place (never at the first)."""
    special = {model.mask_id, model.pad_id, model.bos_id, *model.eos_ids}
    ordinary = [i for i in range(min(model.vocab_size, 20 * length)) if i not in special]
    row = [ordinary[(7 * i + 3) % len(ordinary)] for i in range(length)]
    row[1:-1:3] = [model.mask_id] * len(row[1:-1:3])
    return torch.tensor([row])


def check_ids(model: Denoiser) -> None:
    """Raises UserError where a special id is outside the embedding, or the mask's text is not one id."""
    rows = getattr(model, "embedding_rows", model.vocab_size)
    for what, value in (("mask_id", model.mask_id), ("pad_id", model.pad_id), ("bos_id", model.bos_id)):
        if value is not None and not 0 <= value < rows:
            raise UserError(f"{model.name}: {what} {value} is outside the {rows} rows of the embedding; set mask_id= to the checkpoint's mask")
    if model.needs_bos and model.bos_id is None:
        raise UserError(f"{model.name}: this model needs a first token (bos), and the checkpoint names none")
    if not model.eos_ids:
        raise UserError(f"{model.name}: the checkpoint names no end-of-text token (eos_token_id in config.json)")


def check_attention(model: Denoiser, tokens: Tensor, before: Tensor) -> None:
    """Raises UserError where changing the last token moves logits that it must not move, or none that it must."""
    changed = tokens.clone()
    changed[0, -1] = next(i for i in example(model, tokens.shape[1])[0].tolist() if i not in (int(tokens[0, -1]), model.mask_id))
    after = model.logits(changed)[0]
    scale = before.abs()[before.abs() < 1e5].max().clamp(min=1e-6)  # barred tokens stand at -1e6
    moved = (((after - before).abs() / scale).nan_to_num(0.0).amax(-1) > MOVES).cpu()
    length = tokens.shape[1]
    own = (length - 1) // model.block_length * model.block_length if model.block_length else 0
    if model.attention == "causal":
        return
    if not bool(moved[own : length - 1].any()):
        raise UserError(
            f"{model.name}: the network is causal (a later token changes no earlier prediction), so it is no {model.attention}-attention "
            "diffusion model here; choose a class that obeys is_causal=False, or attn_implementation=eager"
        )
    if bool(moved[: max(own, 0)].any()):
        raise UserError(f"{model.name}: blocks see later blocks; attention is not block-causal with block_length {model.block_length}")


def check_padding(model: Denoiser, tokens: Tensor, before: Tensor) -> None:
    """Raises UserError where padding on either side changes the predictions of a row."""
    length = tokens.shape[1] - 1 if tokens.shape[1] == model.max_length else tokens.shape[1]
    plain = before if length == tokens.shape[1] else model.logits(tokens[:, :length])[0]
    pad = torch.full((1, 1), model.pad_id)
    dtype = getattr(model, "dtype", torch.float32)
    for side, row in (("right", [tokens[:, :length], pad]), ("left", [pad, tokens[:, :length]])):
        valid = torch.cat([torch.ones_like(part, dtype=torch.bool) if part is not pad else torch.zeros_like(part, dtype=torch.bool) for part in row], 1)
        padded = model.logits(torch.cat(row, 1), valid)[valid.to(model.logits(tokens[:, :1]).device)]
        scale = plain.abs()[plain.abs() < 1e5].max().clamp(min=1e-6)
        leak = float(((padded - plain).abs() / scale).nan_to_num(0.0).max())
        if leak > PADDING[dtype]:
            raise UserError(f"{model.name}: padding on the {side} changes a row's predictions by {leak:.1e}; run with --batch_size 1 and probe=false, or try attn_implementation=eager")
