"""Checks on a loaded model that turn silently wrong numbers into errors, and tests of what it can
do.

`probe` checks ids, NaN, what positions see, and padding. `cache_test` compares logits with and
without a KV cache, because not every network that takes keys and values uses them.
`layout_test` compares a row with itself in another order. `rows_are_invariant` and
`depends_on_batch` compare a row alone with the same row in a batch.

Shape letters: L = positions, W = wanted positions, V = vocabulary.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, cast

import torch
from torch import Tensor

from dlm_eval.errors import RunError, UserError
from dlm_eval.models.denoiser import (
    CacheTested,
    CachingDenoiser,
    ConcreteScores,
    Denoiser,
    LayoutDenoiser,
    NoiseLevels,
    caching,
    can_pad,
    device_of,
    dtype_of,
    embedding_rows,
    offers,
)
from dlm_eval.models.kv_cache import KVCache, gather
from dlm_eval.reasons import reason

LENGTH = 8
FLUENT = (
    "Anna had a red kite. Then she left the kite at the park. She was sad and asked Ben for help."
)
# nats per token of a network that knows English, and of a clear difference
KNOWS, CLEARLY = (3.5, 2.0)
SUPPRESSED = 1e5  # logits beyond this mean "never"; they say nothing about the scale
# Relative changes of logits that rounding alone can make (expert batching moves float32 by 1e-7),
# and those that only a leak makes.
NOISE = {torch.float32: 1e-5, torch.float16: 1e-3, torch.bfloat16: 1e-3}
LEAK = {torch.float32: 1e-4, torch.float16: 5e-2, torch.bfloat16: 2e-1}
LENGTHS = (24, 17, 24, 9)  # positions of the rows whose batch is varied
SEED = 0

log = logging.getLogger(__name__)


def probe(model: Denoiser, own: bool = False) -> None:
    """Checks special ids, NaN, what positions see, and padding, in four short forward passes.

    Args:
        model: the denoiser.
        own: whether the model is the user's code, which a message then speaks of instead of a
            checkpoint's files.

    Raises:
        UserError: a check failed; the message says what to do.
    """
    check_special_ids(model, own)
    length = min(max(LENGTH, 2 * (model.block_length or 0)), model.max_length)
    tokens = example(model, length)
    logits = model.logits(tokens)
    if logits.shape != (1, length, model.vocab_size):
        raise UserError(
            f"{model.name}: logits has shape {list(logits.shape)} for one row of {length}; "
            f"it must be [1, {length}, {model.vocab_size}]"
        )
    logits = logits[0]
    if bool(logits.isnan().any()):
        raise UserError(
            f"{model.name}: the model returns NaN; "
            f"{'mend logits()' if own else 'set dtype=float32, or the weights are broken'}"
        )
    check_attention(model, tokens, logits, own)
    if can_pad(model):
        check_padding(model, tokens, logits, own)


def example(model: Denoiser, length: int) -> Tensor:
    """Returns a row [1, L] of ordinary ids, every third one masked but the first and last."""
    special = {model.mask_id, model.pad_id, model.bos_id, *model.eos_ids}
    ordinary = [i for i in range(min(model.vocab_size, 20 * length)) if i not in special]
    row = [ordinary[(7 * i + 3) % len(ordinary)] for i in range(length)]
    if model.process == "absorbing":
        row[1:-1:3] = [model.mask_id] * len(row[1:-1:3])
    return torch.tensor([row])


def check_special_ids(model: Denoiser, own: bool = False) -> None:
    """Raises UserError if a special id is outside the embedding, or a needed BOS is absent."""
    rows = embedding_rows(model)
    named = {"pad_id": model.pad_id, "bos_id": model.bos_id}
    if model.process == "absorbing":
        named["mask_id"] = model.mask_id
    for what, value in named.items():
        if value is not None and not 0 <= value < rows:
            raise UserError(
                f"{model.name}: {what} {value} is outside the embedding, which has rows 0 to "
                f"{rows - 1}; "
                + (f"mend the model's {what}" if own else f"set {what}= or mend the config")
            )
    if model.needs_bos and model.bos_id is None:
        raise UserError(
            f"{model.name}: the model reads each prediction one position to the left, so it needs "
            f"a bos token, and {'it has' if own else 'its files name'} none; "
            + (
                "give the model a bos_id"
                if own
                else "add bos_token_id to config.json (generic: or set bos_id=)"
            )
        )


def check_attention(model: Denoiser, tokens: Tensor, before: Tensor, own: bool = False) -> None:
    """Raises UserError if the last token changes other predictions than it must."""
    last = tokens.shape[1] - 1
    changed = tokens.clone()
    changed[0, last] = next(
        i for i in tokens[0].tolist() if i not in (int(tokens[0, last]), model.mask_id)
    )
    moves = difference(model.logits(changed)[0], before).amax(-1)
    block = model.block_length or 1
    first = {"full": 0, "block": last // block * block, "causal": last}[model.attention]
    dtype = precision_of(model)
    if first < last and float(moves[first:last].max()) <= NOISE[dtype]:
        raise UserError(
            f"{model.name}: the network is causal (the last token changes no prediction before "
            "it), so it cannot fill masks; "
            + (
                "let its logits() see the whole row"
                if own
                else "choose a class that obeys is_causal=False, or set attn_implementation=eager"
            )
        )
    if first > 0 and float(moves[:first].max()) > LEAK[dtype]:
        raise UserError(
            f"{model.name}: positions see beyond their block; the network is not "
            f"{model.attention}-causal as declared"
        )


def check_padding(model: Denoiser, tokens: Tensor, before: Tensor, own: bool = False) -> None:
    """Raises UserError if padding on either side changes the predictions of a row."""
    if tokens.shape[1] + 1 > model.max_length:
        tokens = tokens[:, :-1]
        before = model.logits(tokens)[0]
    pad, real = torch.full((1, 1), model.pad_id), torch.ones_like(tokens, dtype=torch.bool)
    for side, place in (("right", tokens.shape[1]), ("left", 0)):
        row = torch.cat([tokens[:, :place], pad, tokens[:, place:]], 1)
        valid = torch.cat([real[:, :place], ~real[:, :1], real[:, place:]], 1)
        leak = float(
            difference(model.logits(row, valid)[0][valid[0].to(before.device)], before).max()
        )
        if leak > LEAK[precision_of(model)]:
            raise UserError(
                f"{model.name}: padding on the {side} changes a row's predictions (by {leak:.1e} "
                "of their range); "
                + (
                    "hide positions whose `valid` is false, or declare padding = False"
                    if own
                    else "set attn_implementation=eager, or probe=false together with --batch_size "
                    "1"
                )
            )


def check_shift(model: Denoiser, shift: bool) -> None:
    """Raises UserError if fluent text says that predictions are to be read in the other place.

    Each token is masked alone. Its cross-entropy [nats] is read where `shift` says, and one
    position further. Only a clear case counts: a network of random weights, or without English,
    passes.
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
            f"{model.name}: with shift={str(shift).lower()} a masked word of plain English costs "
            f"{declared:.1f} nats, with "
            f"shift={str(not shift).lower()} {other:.1f}; set shift={str(not shift).lower()}, or "
            "probe=false"
        )


def difference(one: Tensor, other: Tensor) -> Tensor:
    """Returns |one - other| [L, V] in units of the largest logit; suppressed ids differ by 0."""
    counted = (other.abs() < SUPPRESSED) & (one.abs() < SUPPRESSED)
    scale = other[counted].abs().max().clamp(min=1e-6)
    return torch.where(counted, (one - other).abs() / scale, 0.0)


def precision_of(model: Denoiser) -> torch.dtype:
    """Returns the dtype whose rounding counts: that of the weights, or float32."""
    dtype = dtype_of(model)
    return dtype if dtype in NOISE else torch.float32


# -- the KV cache ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class CacheTest:
    """What the test of a KV cache found, and its cost.

    Attributes:
        usable: whether rows with a cache answer as whole rows do.
        reason: why not; '' if they do.
        forwards: forward passes of the test, of one row each.
        tokens: positions that ran.
        seconds: time of the model.
    """

    usable: bool
    reason: str = ""
    forwards: int = 0
    tokens: int = 0
    seconds: float = 0.0


NOT_TESTED = CacheTest(False, "this model has no forward_cached")


@torch.inference_mode()
def cache_test(model: CachingDenoiser) -> CacheTest:
    """Returns whether a row whose first half is cached predicts the second half as the whole row
    does.

    Raises:
        RunError: memory ran out, so that nothing is known; or the device is lost.
    """
    unit = model.exact_cache_block or 1
    half = -(-LENGTH // (2 * unit)) * unit  # whole blocks are cached
    if 2 * half > model.max_length:
        return CacheTest(False, f"max_length {model.max_length} is less than two blocks of {half}")
    ran: list[int] = []
    begun = time.perf_counter()
    reason = _unlike(model, "cache", 2 * half, lambda: _moved_by_cache(model, half, ran))
    return CacheTest(not reason, reason, len(ran), sum(ran), time.perf_counter() - begun)


def _unlike(model: Denoiser, what: str, length: int, moved_by: Callable[[], float]) -> str:
    """Returns why logits with a cache or layout are not those of plain rows, '' if they are.

    Args:
        what: 'cache' or 'layout', for the messages.
        length: positions of the rows of the test.
        moved_by: returns how far logits move.
    """
    try:
        moved = moved_by()
    except Exception as error:  # a network may fail in any way on arguments that it does not know
        if out_of_memory(error):
            raise RunError(
                f"{model.name}: out of memory while its {what} is tested with {length} positions, "
                "so there is no room for any batch"
            ) from None
        if device_lost(error):
            raise RunError(f"the device is lost: {error}") from error
        return f"the model failed: {reason(error)}"
    allowed = LEAK[precision_of(model)]
    if moved <= allowed:
        return ""
    return f"with a {what} its logits move by {moved:.1e} of their range, more than {allowed:.0e}"


def _moved_by_cache(model: CachingDenoiser, half: int, ran: list[int]) -> float:
    """Returns how far logits of the second half move as the cache is filled and read."""
    device = device_of(model)
    tokens = example(model, 2 * half)
    first = tokens[:, :half]
    tokens[:, :half] = first.masked_fill(first == model.mask_id, int(tokens[0, 0]))
    tokens = tokens.to(device)
    shift = model.logit_shift
    wanted = torch.zeros(1, 2 * half, dtype=torch.bool, device=device)
    wanted[:, half + shift :] = True
    ran.append(2 * half)
    plain = model.logits(tokens, None, wanted)
    if bool(plain.isnan().any()):
        raise ValueError("the model returned NaN")
    ran.append(2 * half)
    kept, states = model.forward_cached(tokens, None, wanted, None, True)
    assert states is not None
    cache = KVCache()
    cache.take(tokens[0, :half].cpu().numpy(), 0, states[:, 0, :, :half])
    ran.append(half)
    past = gather([cache.outside(half, 2 * half, 2 * half)], [half])
    read, _ = model.forward_cached(tokens[:, half:], None, wanted[:, half:], past, False)
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return max(float(difference(found, plain).max()) for found in (kept, read))


class _LaidOut(Denoiser, LayoutDenoiser, Protocol):
    pass


@torch.inference_mode()
def layout_test(model: _LaidOut) -> str:
    """Returns why rows may have no layout, '' if they may.

    A row is given backwards, with its places, and behind it tokens that nobody sees. Its logits have
    to be those of the plain row.

    Raises:
        RunError: memory ran out, so that nothing is known; or the device is lost.
    """
    return _unlike(model, "layout", 2 * LENGTH, lambda: _moved_by_layout(model))


def _moved_by_layout(model: _LaidOut) -> float:
    """Returns how far logits move if a row is given backwards, with unseen tokens behind it."""
    device, shift = device_of(model), int(model.needs_bos)
    tokens = example(model, LENGTH).to(device)
    read = torch.arange(1 + shift, LENGTH, device=device)
    plain = model.logits(tokens, None, read)[0]
    if bool(plain.isnan().any()):
        raise ValueError("the model returned NaN")
    backwards = torch.arange(LENGTH - 1, -1, -1, device=device)
    visible = torch.eye(2 * LENGTH, dtype=torch.bool, device=device)[None]
    visible[:, :LENGTH, :LENGTH] = True
    wanted = torch.zeros(1, 2 * LENGTH, dtype=torch.bool, device=device)
    # the column at which the token of each place is read; a shifted model reads one to the left
    wanted[:, LENGTH - 1 - (read - shift) + shift] = True
    found = model.logits_in_layout(
        torch.cat([tokens.flip(1), tokens.roll(1, 1)], 1),
        wanted,
        torch.cat([backwards, backwards // 2])[None],
        visible,
    )
    return float(difference(found.flip(0), plain).max())


def check_cache(model: Denoiser, declared: bool = False) -> None:
    """Warns if a block-causal model has to run whole rows.

    Args:
        model: the denoiser; one without weights is left alone.
        declared: whether `supports_kv_cache` is the word of a user's own code, which is tested.

    Raises:
        UserError: a user's model declares a KV cache that does not work.
        RunError: memory ran out.
    """
    if device_of(model).type == "meta":
        return
    able = caching(model)
    if able is not None and declared and cache_tested(model) == NOT_TESTED:
        found = cache_test(able)
        if not found.usable:
            raise UserError(
                f"{model.name}: `forward_cached` does not answer as `logits` does "
                f"({found.reason}); "
                "set supports_kv_cache = False"
            )
        object.__setattr__(model, "cache_test", found)  # a user's class may be frozen
    if warning := whole_rows(model):
        log.warning("%s", warning)


def whole_rows(model: Denoiser) -> str:
    """Returns the warning that a block-causal model has no cache; '' for any other model."""
    if model.attention != "block" or caching(model) is not None:
        return ""
    return f"{model.name}: finished blocks run again in every step, since the cache is {cache_state(model)}; the answers are the same"


def cache_state(model: Denoiser) -> str:
    """Returns 'usable' or 'unusable: why', for the result."""
    return "usable" if caching(model) is not None else f"unusable: {cache_tested(model).reason}"


def cache_tested(model: Denoiser) -> CacheTest:
    """Returns what the test of a model's cache found, `NOT_TESTED` if there was none."""
    return cast(CacheTested, model).cache_test if offers(model, CacheTested) else NOT_TESTED


# -- the batch -------------------------------------------------------------------------------------


@torch.inference_mode()
def rows_are_invariant(model: Denoiser) -> bool:
    """Returns whether a row's logits have the same bits alone and among rows of its own length.

    False for networks whose kernels depend on the batch size, such as those with a noise level per
    row or odd head sizes.
    """
    # odd: kernels for pairs of positions leave one over
    row = example(model, min(7, model.max_length))
    rows = torch.cat([row.roll(shift, 1) for shift in range(5)])
    levels = torch.linspace(0.1, 2.0, len(rows), dtype=torch.float64)
    heads: list[Callable[[Tensor, Tensor], Tensor]] = [lambda tokens, _: model.logits(tokens)]
    if offers(model, NoiseLevels):
        told = cast(NoiseLevels, model)
        heads.append(lambda tokens, level: told.logits_at(tokens, None, None, level))
    if offers(model, ConcreteScores):
        scored = cast(ConcreteScores, model)
        heads.append(lambda tokens, level: scored.score_logits(tokens, None, None, level))
    for head in heads:
        together = head(rows, levels)
        alone = (head(rows[i : i + 1], levels[i : i + 1])[0] for i in range(len(rows)))
        if not all(torch.equal(*both) for both in zip(alone, together, strict=True)):
            return False
    return True


def batch_invariant(
    model: Denoiser, device: torch.device, rows: int | None, equal_lengths: bool
) -> bool | None:
    """Returns whether outputs are the same in any batch; None if that is not known.

    On CUDA, kernels are chosen by a batch's shape. A probe can show that a row depends on its
    batch, and never that it does not.

    Args:
        model: the denoiser.
        device: where it runs.
        rows: rows in a batch at most, or None.
        equal_lengths: whether rows share a batch only with rows of their own length.
    """
    if rows == 1:
        return True
    if device.type == "cpu" and equal_lengths:
        # Without padding and on one thread each row's sums are formed in one order; several threads
        # share them out by the shape.
        return True if torch.get_num_threads() == 1 else None
    return False if depends_on_batch(model, device) else None


@torch.inference_mode()
def depends_on_batch(model: Denoiser, device: torch.device) -> bool:
    """Returns whether rows have other bits in a padded batch than alone (False: no run)."""
    generator = torch.Generator().manual_seed(SEED)
    lengths = [min(length, model.max_length) for length in LENGTHS]
    if not can_pad(model):
        lengths = [lengths[0]] * len(lengths)
    tokens = torch.randint(0, model.vocab_size, (len(lengths), max(lengths)), generator=generator)
    valid = torch.arange(max(lengths))[None] < torch.tensor(lengths)[:, None]
    tokens[:, 1::3] = model.mask_id if model.mask_id >= 0 else tokens[:, 1::3]
    tokens = torch.where(valid, tokens, model.pad_id).to(device)
    try:
        together = model.logits(tokens, valid.to(device) if can_pad(model) else None, None)
        alone = [
            model.logits(tokens[i : i + 1, :length], None, None)[0]
            for i, length in enumerate(lengths)
        ]
    except (RuntimeError, IndexError, ValueError):
        return False
    return any(not torch.equal(together[i, : lengths[i]], own) for i, own in enumerate(alone))


# -- errors of a device ----------------------------------------------------------------------------


def out_of_memory(error: Exception) -> bool:
    """Returns whether an exception says that memory ran out, on a GPU or a CPU."""
    return isinstance(error, (torch.OutOfMemoryError, MemoryError)) or "DefaultCPUAllocator" in str(
        error
    )


def device_lost(error: Exception) -> bool:
    """Returns whether an exception leaves a CUDA context that answers nothing any more."""
    if isinstance(error, torch.OutOfMemoryError):
        return False
    return isinstance(error, getattr(torch, "AcceleratorError", ())) or "CUDA error" in str(error)
