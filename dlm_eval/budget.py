"""The size of batches: `--batch_size` as a budget of rows or tokens."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch

from dlm_eval.engine import Cost, Engine
from dlm_eval.engine.batching import Footprint
from dlm_eval.errors import UserError
from dlm_eval.models.denoiser import Denoiser, caching, device_of
from dlm_eval.models.probes import batch_invariant, cache_tested
from dlm_eval.variables import memory_tokens

CPU_TOKENS = 4096  # a CPU gains nothing from larger batches
BYTES_PER_TOKEN = 2**19  # upper estimate of the activations of one token in an 8B model
MOST_TOKENS = 2**16  # a GPU gains nothing from larger batches

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class DeviceProfile:
    """Measurements of a model on its devices, which the next run starts with.

    Attributes:
        batch_tokens: token budget that fitted, if memory was too small for the first one; else
            None.
        footprint: device memory per position, if measured.
        tokens: positions that these runs of the model ran.
        seconds: device seconds that they took.
    """

    batch_tokens: int | None = None
    footprint: Footprint | None = None
    tokens: int = 0
    seconds: float = 0.0

    @property
    def rate(self) -> float | None:
        """Positions per second of one device; None if nothing was run."""
        return self.tokens / self.seconds if self.tokens > 0 and self.seconds > 0 else None

    def and_then(self, later: DeviceProfile) -> DeviceProfile:
        """Returns the profile updated by a later one."""
        return DeviceProfile(
            later.batch_tokens or self.batch_tokens,
            later.footprint or self.footprint,
            self.tokens + later.tokens,
            self.seconds + later.seconds,
        )

    def plain(self) -> dict[str, Any]:
        """Returns the profile as plain data."""
        return asdict(self)

    @staticmethod
    def of(plain: Mapping[str, Any] | None) -> DeviceProfile:
        """Returns the profile from plain data; an empty one from None or from other data."""
        try:
            tokens, footprint = (plain or {}).get("batch_tokens"), (plain or {}).get("footprint")
            known = (
                Footprint(float(footprint["token"]), float(footprint["memory"]))
                if footprint
                else None
            )
            done, seconds = (plain or {}).get("tokens"), (plain or {}).get("seconds")
            return DeviceProfile(
                int(tokens) if tokens else None, known, int(done or 0), float(seconds or 0)
            )
        except (
            AttributeError,
            KeyError,
            TypeError,
            ValueError,
            OverflowError,
        ):  # another program wrote it
            return DeviceProfile()


def make_engine(
    model: Denoiser,
    batch_size: str | int = "auto",
    profile: DeviceProfile = DeviceProfile(),
    most_rows: int | None = None,
) -> Engine:
    """Returns the engine for `model`.

    Args:
        model: the denoiser.
        batch_size: number of rows in a batch, or 'auto' (or 'auto:N'): a budget of tokens from the
            device's free memory.
        profile: measurements of earlier runs. They limit the budget and are not measured again.
        most_rows: maximum number of rows in a batch under 'auto'.

    Raises:
        UserError: `batch_size` is neither a whole number of at least 1 nor 'auto'.
    """
    rows = parse_batch_size(batch_size)
    footprint = profile.footprint
    if rows is not None:
        tokens, logits = rows * model.max_length, 2**27
    elif (device := device_of(model)).type == "cuda":
        footprint = footprint or measured(model, device)
        tokens, logits = fitting(torch.cuda.mem_get_info(device)[0], footprint)
    else:
        tokens, logits = CPU_TOKENS, 2**26
    tokens = min(tokens, profile.batch_tokens or tokens)
    engine = Engine(
        model, rows or most_rows, tokens, logits, footprint=footprint, memory_tokens=memory_tokens()
    )
    tested = cache_tested(model)  # a probe at loading
    engine.cost += Cost(
        tested.forwards, tested.forwards, tested.tokens, tested.tokens, tested.seconds
    )
    engine.batch_invariant = batch_invariant(
        model, device_of(model), engine.batch_rows, engine.equal_lengths
    )
    return engine


def parse_batch_size(batch_size: str | int) -> int | None:
    """Returns the rows in a batch; None for 'auto'.

    Raises:
        UserError: it is neither a whole number of at least 1 nor 'auto'.
    """
    text = str(batch_size).strip()
    if re.fullmatch(r"auto(:\d+)?", text):
        return None
    if re.fullmatch(r"\d+(\.0)?", text) and int(float(text)) >= 1:
        return int(float(text))
    raise UserError(
        f"--batch_size '{batch_size}' is not allowed; it must be 'auto' or a whole number of at "
        "least 1"
    )


def fitting(free: int, footprint: Footprint) -> tuple[int, int]:
    """Returns the tokens that fill half of `free` bytes, and the float32 logits that fill 1/8."""
    return min(MOST_TOKENS, max(2048, int(free * 0.5 / footprint.token))), max(
        2**24, free // 8 // 4
    )


def measured(model: Denoiser, device: torch.device) -> Footprint:
    """Returns the measured memory per position on a CUDA device."""
    return Footprint(_bytes_per_token(model, device), _bytes_per_memory(model, device))


@torch.inference_mode()
def _bytes_per_token(model: Denoiser, device: torch.device) -> float:
    """Returns the device memory per token of a batch.

    It is measured as the difference of two small batches, so that constant costs cancel.
    """
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
    """Returns the device memory per cached position.

    Its keys and values count twice: in the program's KV cache and in the batch's copy.
    """
    knowing = caching(model)
    if knowing is None:
        return 0.0
    tokens = torch.full((1, 8), model.pad_id, dtype=torch.long, device=device)
    _, states = knowing.forward_cached(
        tokens, None, torch.ones_like(tokens, dtype=torch.bool), None, True
    )
    assert states is not None
    return 2 * states.nbytes / tokens.shape[1]
