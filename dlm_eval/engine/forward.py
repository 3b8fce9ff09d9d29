"""One forward pass: pads sequences into a batch, runs the model, and reads the logits for each row.

Shape letters: B = sequences of a batch, L = positions, N = wanted positions of a batch, V =
vocabulary, S = 2 x layers, h = heads, d = head size.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from dlm_eval.engine.rows import ForwardRow, Ints, Kept, Output
from dlm_eval.errors import SampleError
from dlm_eval.models.denoiser import (
    CachingDenoiser,
    Denoiser,
    FeatureCacheDenoiser,
    KeepingOp,
    LayoutDenoiser,
    LogitsOp,
    device_of,
)
from dlm_eval.models.feature_cache import Features
from dlm_eval.models.kv_cache import gather

# Matrix products of few rows use other kernels, which round differently (MKL: below 4 rows).
# Reading a few more positions, or running a very short sequence twice, makes outputs independent of
# the batch.
FEW_WANTED, FEW_TOKENS = 8, 4

Request = tuple[int, ForwardRow]  # index of a sequence in the batch, and a row that reads it


@torch.inference_mode()
def forward(
    model: Denoiser, rows: Sequence[ForwardRow], requests: Sequence[Request]
) -> tuple[list[Output | SampleError], torch.Size]:
    """Runs distinct sequences of one head once each.

    Rows with cached positions run only their query span. KV caches are updated after everything has
    succeeded.

    Returns:
        The output of every request, and the shape [B, L] of the batch without repeats.
    """
    device = device_of(model)
    sequences = [row.run for row in rows] + [
        row.unguided for row in rows if row.unguided is not None
    ]
    distinct = len(sequences)
    if device.type == "cpu" and rows[0].inputs is None and rows[0].features is None:
        sequences += sequences[:1] * max(0, FEW_TOKENS - sum(map(len, sequences)))
    tokens, valid = _pad(sequences, model.pad_id, device)
    twin = _twins(rows)
    wanted = torch.zeros(tokens.shape, dtype=torch.bool)
    for ops in (requests, _of_twins(requests, twin)):
        if ops:
            wanted[_spots(ops)] = True
    count = int(wanted.sum())
    if device.type == "cpu" and (few := FEW_WANTED - count) > 0:
        wanted.view(-1)[
            (~wanted if valid is None else ~wanted & valid.cpu()).view(-1).nonzero().view(-1)[:few]
        ] = True
        count = int(wanted.sum())
    plans = [row.features for row in rows if row.features is not None]
    features: list[Features] = []
    if plans:
        able = cast(FeatureCacheDenoiser, model)
        logits, features = able.forward_features(tokens, wanted.to(device), plans)
        states = None
    else:
        logits, states = _run(model, rows, requests, tokens, valid, wanted.to(device))
    slot = torch.full(tokens.shape, -1, dtype=torch.long)
    slot[wanted] = torch.arange(count)
    outputs, fresh = _read(logits, slot, requests, twin)
    if states is not None:
        _keep(states, requests)
    for plan, layers in zip(plans, features, strict=True):
        plan.cache.layers = layers
    for kept, ids, values in fresh:  # only after everything has succeeded
        kept.put(ids, values)
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return outputs, torch.Size((distinct, tokens.shape[1]))


def _run(
    model: Denoiser,
    rows: Sequence[ForwardRow],
    requests: Sequence[Request],
    tokens: Tensor,
    valid: Tensor | None,
    wanted: Tensor,
) -> tuple[Tensor, Tensor | None]:
    """Returns logits [N, V], and all states [S, B, h, L, d] if any request caches some."""
    if rows[0].layout is not None:
        laid_out = cast(LayoutDenoiser, model).logits_in_layout
        return laid_out(tokens, wanted, *_layouts(rows, tokens)), None
    keep = any(row.cache_until for _, row in requests)
    context = _context(rows, tokens)
    if rows[0].query_span is None and not keep:
        return (rows[0].head or model.logits)(
            tokens, valid, wanted, **_continuous(rows, tokens), **context
        ), None
    past = None
    if rows[0].query_span is not None:
        repeated = [*rows, *([rows[0]] * (len(tokens) - len(rows)))]
        past = gather([_cached(row) for row in repeated], [row.begin for row in repeated])
    run_cached = cast(CachingDenoiser, model).forward_cached
    found: tuple[Tensor, Tensor | None] = cast(Any, run_cached)(
        tokens, valid, wanted, past, keep, **context
    )
    return found


def _layouts(rows: Sequence[ForwardRow], tokens: Tensor) -> tuple[Tensor, Tensor]:
    """Returns positions in the text [B, L] and who sees whom [B, L, L] of laid-out sequences.

    The order is that of `tokens`: rows, their unconditional twins, repeats of the first. Padding is
    seen by itself only.
    """
    given = [row.layout for row in [*rows, *(r for r in rows if r.unguided is not None)]]
    count, longest = tokens.shape
    given += given[:1] * (count - len(given))
    places = np.zeros((count, longest), dtype=np.int64)
    visible = np.tile(np.eye(longest, dtype=bool), (count, 1, 1))
    for i, layout in enumerate(given):
        assert layout is not None
        length = len(layout.position_ids)
        places[i, :length] = layout.position_ids
        visible[i, :length, :length] = layout.visible
    return torch.from_numpy(places).to(tokens.device), torch.from_numpy(visible).to(tokens.device)


def _cached(row: ForwardRow) -> Tensor:
    """Returns the cached keys and values [S, h, P, d] outside a row's query span."""
    assert row.kv_cache is not None and row.query_span is not None
    return row.kv_cache.outside(*row.query_span, len(row.tokens))


def _keep(states: Tensor, requests: Sequence[Request]) -> None:
    """Puts the states [S, B, h, L, d] of a pass into KV caches; equal sequences share a copy."""
    copies: dict[tuple[int, int], Tensor] = {}
    for sequence, row in requests:
        fresh = row.cache_until - row.begin
        if row.kv_cache is not None and fresh > 0:
            if (sequence, fresh) not in copies:
                copies[sequence, fresh] = states[:, sequence, :, :fresh].clone()
            row.kv_cache.take(row.tokens[: row.cache_until], row.begin, copies[sequence, fresh])


def _pad(
    sequences: Sequence[Ints], pad_id: int, device: torch.device
) -> tuple[Tensor, Tensor | None]:
    """Returns right-padded tokens [B, L] and which of them are valid [B, L].

    The latter is None if nothing is padded, so that sdpa can use its flash kernel.
    """
    lengths = [len(sequence) for sequence in sequences]
    longest = max(lengths)
    whole = np.full((len(sequences), longest), pad_id, dtype=np.int64)
    for i, sequence in enumerate(sequences):
        whole[i, : lengths[i]] = sequence
    tokens = torch.from_numpy(whole).to(device)
    if min(lengths) == longest:
        return tokens, None
    return tokens, (torch.arange(longest) < torch.tensor(lengths)[:, None]).to(device)


def _continuous(rows: Sequence[ForwardRow], tokens: Tensor) -> dict[str, Tensor]:
    """Returns the rows' float inputs [B, L, C], 0 at padding, and noise levels [B], if any."""
    given = [row.inputs for row in rows if row.inputs is not None]
    if not given:
        return {"time": _times(rows, len(tokens), tokens.device)} if rows[0].time else {}
    inputs = torch.zeros(*tokens.shape, given[0].shape[1])
    for i, part in enumerate(given):
        inputs[i, : len(part)] = torch.from_numpy(part)
    inputs = inputs.to(tokens.device)
    if rows[0].fed:
        inputs = torch.cat([_fed(rows, tokens), inputs], -1)
    return {
        "inputs": inputs,
        "time": torch.tensor([row.time for row in rows], device=tokens.device),
    }


def _fed(rows: Sequence[ForwardRow], tokens: Tensor) -> Tensor:
    """Returns the inputs [B, L, F] that the last step kept, 0 at positions not wanted."""
    fed = torch.zeros(*tokens.shape, rows[0].fed, device=tokens.device)
    for i, row in enumerate(rows):
        if (
            row.kept is not None
            and row.ids is not None
            and (found := row.kept.of(row.ids)) is not None
        ):
            fed[i, torch.from_numpy(row.places).to(tokens.device)] = found[0]
    return fed


def _times(rows: Sequence[ForwardRow], count: int, device: torch.device) -> Tensor:
    """Returns noise levels [B]: of rows, of their unconditional twins, and repeats of the first."""
    times = [row.time for row in rows] + [row.time for row in rows if row.unguided is not None]
    return torch.tensor(times + times[:1] * (count - len(times)), device=device)


def _context(rows: Sequence[ForwardRow], tokens: Tensor) -> dict[str, Tensor]:
    """Returns what `ReadsContext` says of each sequence, each [B], if the model is told.

    The order is that of `tokens`: rows, their unconditional twins, repeats of the first.
    """
    if rows[0].context is None:
        return {}
    told = [*rows, *(row for row in rows if row.unguided is not None)]
    told += told[:1] * (len(tokens) - len(told))
    return {
        "context": torch.tensor([row.context for row in told], device=tokens.device),
        "blocks_from": torch.tensor([row.blocks_from for row in told], device=tokens.device),
    }


def _twins(rows: Sequence[ForwardRow]) -> dict[int, int]:
    """Returns sequence -> index of its unconditional twin.

    Twins follow all conditional sequences.
    """
    guided = [i for i, row in enumerate(rows) if row.unguided is not None]
    return {sequence: len(rows) + order for order, sequence in enumerate(guided)}


def _read(
    logits: Tensor, slot: Tensor, requests: Sequence[Request], twin: dict[int, int]
) -> tuple[list[Output | SampleError], list[tuple[Kept, Ints, Tensor]]]:
    """Returns the output of each request, and the numbers to keep on the device.

    Requests with the same op and guidance are read in one call.
    """
    outputs: list[Output | SampleError] = [()] * len(requests)
    fresh: list[tuple[Kept, Ints, Tensor]] = []
    groups: dict[tuple[LogitsOp | KeepingOp, float | None], list[int]] = {}
    for number, (sequence, row) in enumerate(requests):
        groups.setdefault((row.op, row.guidance if sequence in twin else None), []).append(number)
    for (op, guidance), members in groups.items():
        own_requests = [requests[m] for m in members]
        own = logits[slot[_spots(own_requests)].to(logits.device)]
        if guidance is not None:
            plain = logits[slot[_spots(_of_twins(own_requests, twin))].to(logits.device)]
            # -inf minus -inf would be NaN: a token that both exclude stays excluded
            never = own.isneginf() & plain.isneginf()
            own = (plain + guidance * (own - plain)).masked_fill(never, float("-inf"))
        payload = torch.from_numpy(np.concatenate([row.payload for _, row in own_requests])).to(
            logits.device
        )
        bad = own.isnan().any(-1).cpu().numpy()
        some_bad = bool(bad.any())
        found = op(own, payload, *_before(own_requests, own))
        if any(len(array) != len(own) for array in found):
            lengths = ", ".join(str(len(array)) for array in found)
            raise ValueError(
                f"{type(op).__name__} returned {lengths} rows for {len(own)} positions"
            )
        after = found[-1] if own_requests[0][1].kept is not None else None
        arrays = [array.cpu().numpy() for array in (found if after is None else found[:-1])]
        begin = 0
        for m in members:
            row = requests[m][1]
            end = begin + len(row.wanted)
            if some_bad and bad[begin:end].any():
                outputs[m] = SampleError("the model returned NaN")
            else:
                outputs[m] = tuple(array[begin:end] for array in arrays)
                if after is not None and row.kept is not None and row.ids is not None:
                    fresh.append((row.kept, row.ids, after[begin:end].clone()))
            begin = end
    return outputs, fresh


def _before(requests: Sequence[Request], logits: Tensor) -> tuple[Any, ...]:
    """Returns the further arguments of a `KeepingOp`: the numbers kept by the last step [N, ...],
    and whether each position has any [N].
    """
    if requests[0][1].kept is None:
        return ()
    parts = [
        row.kept.of(row.ids) for _, row in requests if row.kept is not None and row.ids is not None
    ]
    some = next((part[0] for part in parts if part is not None), None)
    if some is None:
        return None, torch.zeros(len(logits), dtype=torch.bool, device=logits.device)
    none = [
        (some.new_zeros(len(row.wanted), *some.shape[1:]), some.new_zeros(len(row.wanted)).bool())
        for _, row in requests
    ]
    whole = [part or empty for part, empty in zip(parts, none, strict=True)]
    return torch.cat([values for values, _ in whole]), torch.cat([known for _, known in whole])


def _of_twins(requests: Sequence[Request], twin: dict[int, int]) -> list[Request]:
    """Returns the guided requests, pointing to their unconditional twins."""
    return [(twin[sequence], row) for sequence, row in requests if sequence in twin]


def _spots(requests: Sequence[Request]) -> tuple[Tensor, Tensor]:
    """Returns sequence and position of every wanted position of all requests, each [N]."""
    places = [row.places for _, row in requests]
    sequences = np.repeat([sequence for sequence, _ in requests], [len(part) for part in places])
    return torch.from_numpy(sequences), torch.from_numpy(np.concatenate(places))
