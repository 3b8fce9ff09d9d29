"""`compile=`: the network through torch.compile. Batches are padded to a few shapes, because every new shape compiles anew.

Shape letters: B = rows of a batch, L = positions, H = hidden size.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from dlm_eval.errors import UserError, unknown

SHAPES = 256  # compiled versions of one network at most; further shapes run as they are
SHORTEST = 16  # positions of the smallest bucket
SWITCH = {"true": "inductor", "yes": "inductor", "1": "inductor", "false": None, "no": None, "0": None}


def compile_backend(setting: str | None) -> str | None:
    """Returns torch.compile's backend for the option `compile`, or None for no compilation.

    Raises:
        UserError: torch has no such backend.
    """
    if setting is None or setting.lower() in SWITCH:
        return SWITCH[setting.lower()] if setting else None
    known = torch._dynamo.list_backends(None)
    if setting not in known:
        raise unknown("model_args compile", setting, ["true", "false", *torch._dynamo.list_backends()])
    return setting


def compile_denoiser(denoiser: Any, backend: str) -> None:
    """Makes a `TransformersDenoiser` run its network compiled, over bucketed shapes.

    Raises:
        UserError: this family's network has other inputs than tokens.
    """
    if hasattr(denoiser, "embedding_size") or hasattr(denoiser, "state_size"):
        raise UserError(f"model_args compile '{backend}' is not possible for {denoiser.name}; leave it out")
    plain = denoiser.hidden
    torch._dynamo.config.recompile_limit = SHAPES
    denoiser.backbone.compile(backend=backend, dynamic=False)

    def hidden(tokens: Tensor, valid: Tensor | None) -> Tensor:
        rows, length = tokens.shape
        wide, real = padded(tokens, valid, denoiser.pad_id, denoiser.max_length)
        with torch.inference_mode():  # always the same mode: torch compiles once more for every other one
            states: Tensor = plain(wide, real)
        return states[:rows, :length]

    denoiser.hidden = hidden


def padded(tokens: Tensor, valid: Tensor | None, pad_id: int, longest: int) -> tuple[Tensor, Tensor | None]:
    """Returns tokens [B', L'] and valid [B', L'] of the bucket that holds `tokens` [B, L]: padding at the right, the last row repeated below."""
    rows, length = tokens.shape
    more = max(length, min(bucket(length, SHORTEST), longest)) - length
    if more:
        valid = F.pad(torch.ones_like(tokens, dtype=torch.bool) if valid is None else valid, (0, more))
        tokens = F.pad(tokens, (0, more), value=pad_id)
    places = torch.arange(bucket(rows), device=tokens.device).clamp(max=rows - 1)
    return tokens[places], None if valid is None else valid[places]


def bucket(count: int, least: int = 1) -> int:
    """Returns the smallest of 1, 2, 3, 4, 6, 8, 12, 16, 24, ... that is `count` or more, and at least `least`."""
    power = 1 << (max(count, least) - 1).bit_length()
    return power * 3 // 4 if power >= 4 and power * 3 // 4 >= max(count, least) else power
