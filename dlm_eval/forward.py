"""One forward pass: sequences to a padded batch, the model, and every row's own reading of the logits.

Shape letters: B = sequences of a batch, L = positions, N = wanted positions of a batch, V = vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from dlm_eval.errors import SampleError
from dlm_eval.models.denoiser import Denoiser
from dlm_eval.rows import Ints, Reader, Reading, Row

# Matrix products of fewer rows than this take other kernels, which round differently (MKL: below 4). Reading a few positions more, or running a
# very short sequence twice, makes a row's reading the same whoever shares its batch.
FEW_WANTED, FEW_TOKENS = 8, 4

Ask = tuple[int, Row]  # place of a sequence in the batch, and a row that wants to read it


@torch.inference_mode()
def forward(
    model: Denoiser, rows: Sequence[Row], asks: Sequence[Ask]
) -> tuple[list[Reading | SampleError], torch.Size]:
    """Runs distinct sequences (of one head) once each; returns a reading for every ask, and the batch's shape [B, L] without repeats."""
    device = device_of(model)
    sequences = [row.tokens for row in rows] + [row.unguided for row in rows if row.unguided is not None]
    distinct = len(sequences)
    if device.type == "cpu" and rows[0].inputs is None:
        sequences += sequences[:1] * max(0, FEW_TOKENS - sum(map(len, sequences)))
    tokens, valid = _pad(sequences, model.pad_id, device)
    twin = _twins(rows)
    wanted = torch.zeros(tokens.shape, dtype=torch.bool)
    for sequence, row in asks:
        for place in (sequence, twin.get(sequence)):
            if place is not None:
                wanted[place, torch.as_tensor(row.wanted)] = True
    if device.type == "cpu" and (few := FEW_WANTED - int(wanted.sum())) > 0:
        wanted.view(-1)[(~wanted if valid is None else ~wanted & valid.cpu()).view(-1).nonzero().view(-1)[:few]] = True
    logits = getattr(model, rows[0].head)(tokens, valid, wanted.to(device), **_continuous(rows, tokens))
    slot = torch.full(tokens.shape, -1, dtype=torch.long)
    slot[wanted] = torch.arange(int(wanted.sum()))
    readings = _read(logits, slot, asks, twin)
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return readings, torch.Size((distinct, tokens.shape[1]))


def device_of(model: Denoiser) -> torch.device:
    """Returns where a model's tokens go in."""
    return torch.device(getattr(model, "device", "cpu"))


def _pad(sequences: Sequence[Ints], pad_id: int, device: torch.device) -> tuple[Tensor, Tensor | None]:
    """Returns right-padded tokens [B, L] and what is valid in them (None where nothing is padded: sdpa is then free to use its flash kernel)."""
    lengths = torch.tensor([len(s) for s in sequences])
    tokens = torch.full((len(sequences), int(lengths.max())), pad_id, dtype=torch.long)
    for i, sequence in enumerate(sequences):
        tokens[i, : len(sequence)] = torch.from_numpy(sequence)
    if bool((lengths == tokens.shape[1]).all()):
        return tokens.to(device), None
    return tokens.to(device), (torch.arange(tokens.shape[1]) < lengths[:, None]).to(device)


def _continuous(rows: Sequence[Row], tokens: Tensor) -> dict[str, Tensor]:
    """Returns the rows' float inputs [B, L, C], zero at padding, and their noise levels [B]; nothing where rows are tokens alone."""
    given = [row.inputs for row in rows if row.inputs is not None]
    if not given:
        return {}
    inputs = torch.zeros(*tokens.shape, given[0].shape[1])
    for i, part in enumerate(given):
        inputs[i, : len(part)] = torch.from_numpy(part)
    return {"inputs": inputs.to(tokens.device), "time": torch.tensor([row.time for row in rows], device=tokens.device)}


def _twins(rows: Sequence[Row]) -> dict[int, int]:
    """Returns sequence -> place of its unconditional twin, which stands behind all conditional sequences."""
    guided = [i for i, row in enumerate(rows) if row.unguided is not None]
    return {sequence: len(rows) + order for order, sequence in enumerate(guided)}


def _read(logits: Tensor, slot: Tensor, asks: Sequence[Ask], twin: dict[int, int]) -> list[Reading | SampleError]:
    """Returns each ask's reading. Asks with equal readers (and equal need of guidance) are read in one call."""
    readings: list[Reading | SampleError] = [()] * len(asks)
    groups: dict[tuple[Reader, float | None], list[int]] = {}
    for number, (sequence, row) in enumerate(asks):
        groups.setdefault((row.reader, row.guidance if sequence in twin else None), []).append(number)
    for (reader, guidance), members in groups.items():
        places = [slot[asks[m][0], torch.as_tensor(asks[m][1].wanted)] for m in members]
        own = logits[torch.cat(places).to(logits.device)]
        if guidance is not None:
            others = [slot[twin[asks[m][0]], torch.as_tensor(asks[m][1].wanted)] for m in members]
            plain = logits[torch.cat(others).to(logits.device)]
            never = (
                own.isneginf() & plain.isneginf()
            )  # a token that both rule out stays ruled out: -inf minus -inf is NaN
            own = (plain + guidance * (own - plain)).masked_fill(never, float("-inf"))
        payload = torch.from_numpy(np.concatenate([asks[m][1].payload for m in members])).to(logits.device)
        bad = own.isnan().any(-1).cpu()
        arrays = [array.cpu().numpy() for array in reader(own, payload)]
        begin = 0
        for m, place in zip(members, places, strict=True):
            end = begin + len(place)
            if bool(bad[begin:end].any()):
                readings[m] = SampleError("the model returned NaN")
            else:
                readings[m] = tuple(array[begin:end] for array in arrays)
            begin = end
    return readings
