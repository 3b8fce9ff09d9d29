"""Checks on a loaded model that turn silently wrong numbers into errors. They cost four short forward passes.

Shape letters: L = positions, V = vocabulary.
"""

from __future__ import annotations

import torch
from torch import Tensor

from dlm_eval.errors import UserError
from dlm_eval.models.denoiser import Denoiser, embedding_rows

LENGTH = 8
FLUENT = "Anna had a red kite. Then she left the kite at the park. She was sad and asked Ben for help."
KNOWS, CLEARLY = 3.5, 2.0  # nats per token below which a network knows the language, and that make a difference clear
BARRED = 1e5  # logits beyond this say "never"; they carry no scale
# Relative changes of logits that rounding alone can make (expert batching moves float32 by 1e-7), and that only a leak makes.
NOISE = {torch.float32: 1e-5, torch.float16: 1e-3, torch.bfloat16: 1e-3}
LEAK = {torch.float32: 1e-4, torch.float16: 5e-2, torch.bfloat16: 2e-1}


def probe(model: Denoiser) -> None:
    """Checks special ids, NaN, what positions see, and padding.

    Raises:
        UserError: a check failed; the message says what to do.
    """
    check_ids(model)
    length = min(max(LENGTH, 2 * (model.block_length or 0)), model.max_length)
    tokens = example(model, length)
    logits = model.logits(tokens)
    if logits.shape != (1, length, model.vocab_size):
        raise UserError(
            f"{model.name}: logits has shape {list(logits.shape)} for one row of {length}; it must be [1, {length}, {model.vocab_size}]"
        )
    logits = logits[0]
    if bool(logits.isnan().any()):
        raise UserError(f"{model.name}: the model returns NaN; set dtype=float32, or the weights are broken")
    check_attention(model, tokens, logits)
    check_padding(model, tokens, logits)


def example(model: Denoiser, length: int) -> Tensor:
    """Returns a row [1, L] of ordinary ids, the mask at every third place but neither first nor last."""
    special = {model.mask_id, model.pad_id, model.bos_id, *model.eos_ids}
    ordinary = [i for i in range(min(model.vocab_size, 20 * length)) if i not in special]
    row = [ordinary[(7 * i + 3) % len(ordinary)] for i in range(length)]
    if model.process == "absorbing":
        row[1:-1:3] = [model.mask_id] * len(row[1:-1:3])
    return torch.tensor([row])


def check_ids(model: Denoiser) -> None:
    """Raises UserError where a special id is missing or outside the embedding."""
    rows = embedding_rows(model)
    named = {"pad_id": model.pad_id, "bos_id": model.bos_id}
    if model.process == "absorbing":
        named["mask_id"] = model.mask_id
    for what, value in named.items():
        if value is not None and not 0 <= value < rows:
            raise UserError(
                f"{model.name}: {what} {value} is outside the embedding, which has rows 0 to {rows - 1}; set {what}= or mend the config"
            )
    if model.needs_bos and model.bos_id is None:
        raise UserError(
            f"{model.name}: the model reads each prediction one position to the left, so it needs a bos token, and its files name none; add bos_token_id to config.json (generic: or set bos_id=)"
        )
    if not model.eos_ids:
        raise UserError(f"{model.name}: the files name no end-of-text token; add eos_token_id to config.json")


def check_attention(model: Denoiser, tokens: Tensor, before: Tensor) -> None:
    """Raises UserError where the last token changes predictions that it must not change, or none of those that it must."""
    last = tokens.shape[1] - 1
    changed = tokens.clone()
    changed[0, last] = next(i for i in tokens[0].tolist() if i not in (int(tokens[0, last]), model.mask_id))
    moves = difference(model.logits(changed)[0], before).amax(-1)
    seen = {"full": 0, "block": last // (model.block_length or 1) * (model.block_length or 1), "causal": last}[
        model.attention
    ]
    dtype = dtype_of(model)
    if seen < last and float(moves[seen:last].max()) <= NOISE[dtype]:
        raise UserError(
            f"{model.name}: the network is causal (the last token changes no prediction before it), so it cannot fill masks; "
            "choose a class that obeys is_causal=False, or set attn_implementation=eager"
        )
    if seen > 0 and float(moves[:seen].max()) > LEAK[dtype]:
        raise UserError(
            f"{model.name}: positions see beyond their block; the network is not {model.attention}-causal as declared"
        )


def check_padding(model: Denoiser, tokens: Tensor, before: Tensor) -> None:
    """Raises UserError where padding on either side changes the predictions of a row."""
    if tokens.shape[1] + 1 > model.max_length:
        tokens = tokens[:, :-1]
        before = model.logits(tokens)[0]
    pad, real = torch.full((1, 1), model.pad_id), torch.ones_like(tokens, dtype=torch.bool)
    for side, place in (("right", tokens.shape[1]), ("left", 0)):
        row = torch.cat([tokens[:, :place], pad, tokens[:, place:]], 1)
        valid = torch.cat([real[:, :place], ~real[:, :1], real[:, place:]], 1)
        leak = float(difference(model.logits(row, valid)[0][valid[0].to(before.device)], before).max())
        if leak > LEAK[dtype_of(model)]:
            raise UserError(
                f"{model.name}: padding on the {side} changes a row's predictions (by {leak:.1e} of their range); "
                "set attn_implementation=eager, or probe=false together with --batch_size 1"
            )


def check_shift(model: Denoiser, shift: bool) -> None:
    """Raises UserError where a fluent text says that predictions are to be read in the other place.

    Each token is masked alone; its cross-entropy [nats] is taken where `shift` says and, for a second time, one position further. Only a clear
    case counts: a network of random weights, or one that knows no English, passes.
    """
    ids = torch.tensor(model.encode(FLUENT)[: min(32, model.max_length)])
    count = len(ids) - 2
    rows = ids.repeat(count, 1)
    order, places = torch.arange(count), torch.arange(1, count + 1)
    rows[order, places] = model.mask_id
    losses = []
    for read in (places, places + 1 if shift else places - 1):
        wanted = torch.zeros_like(rows, dtype=torch.bool)
        wanted[order, read] = True
        log_p = model.logits(rows, positions=wanted).log_softmax(-1)
        losses.append(-float(log_p[order, ids[places]].mean()))
    declared, other = losses
    if other < KNOWS and other + CLEARLY < declared:
        raise UserError(
            f"{model.name}: with shift={str(shift).lower()} a masked word of plain English costs {declared:.1f} nats, with "
            f"shift={str(not shift).lower()} {other:.1f}; set shift={str(not shift).lower()}, or probe=false"
        )


@torch.inference_mode()
def steady(model: Denoiser) -> bool:
    """Returns whether a row's logits have the same bits alone and among others. Not so where other kernels run for other numbers of rows: in
    experts, whose shares of a batch are of any size, in networks that read a noise level per row, in heads of odd sizes."""
    network = getattr(model, "model", None)
    if network is None:
        return True
    if any(name.endswith("experts") for name, _ in network.named_modules()):
        return False
    row = example(model, min(7, model.max_length))  # an odd length: kernels for pairs of positions leave one over
    rows = torch.cat([row.roll(shift, 1) for shift in range(5)])
    together = model.logits(rows)
    return all(torch.equal(model.logits(rows[i : i + 1])[0], together[i]) for i in range(len(rows)))


def difference(one: Tensor, other: Tensor) -> Tensor:
    """Returns |one - other| [L, V] in units of the largest logit; what is barred in both differs by 0."""
    counted = (other.abs() < BARRED) & (one.abs() < BARRED)
    scale = other[counted].abs().max().clamp(min=1e-6)
    return torch.where(counted, (one - other).abs() / scale, 0.0)


def dtype_of(model: Denoiser) -> torch.dtype:
    """Returns the dtype whose rounding counts: that of the weights, or float32."""
    dtype: torch.dtype = getattr(model, "dtype", torch.float32)
    return dtype if dtype in NOISE else torch.float32
