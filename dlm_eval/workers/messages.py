"""What driver and worker say to each other. The same for local processes and Ray actors.

Driver to worker: a list of (number, job), `END` (nothing more for now: finish what is under way), `REPORT` (say what you have done).
Worker to driver: `Ready` or `LoadFailed` once; then `NeedWork` as it begins a list, `Answered` per job, `Halfway` of long ones, `Alive` at most once a second; `Failed` when it gives up.
"""

from __future__ import annotations

import queue
import resource
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Protocol

import torch

from dlm_eval.budget import DeviceProfile
from dlm_eval.engine import Cost, Engine
from dlm_eval.engine.batching import Footprint
from dlm_eval.jobs import Answer, Checkpoint, Job
from dlm_eval.models.denoiser import device_of
from dlm_eval.models.probes import cache_state

Chunk = Sequence[tuple[int, Job]]
END = "end"
REPORT = "report"


@dataclass(frozen=True)
class WorkerConfig:
    """What a worker loads, and how it batches.

    Attributes:
        model: as in --model.
        options: its model_args, the device among them.
        batch_size: as in --batch_size.
        profile: by earlier runs, and by workers that ended.
        verbosity: of the log.
        most_rows: as in --max_batch_size.
    """

    model: str
    options: Mapping[str, Any]
    batch_size: str | int = "auto"
    profile: DeviceProfile = DeviceProfile()
    verbosity: str = "WARNING"
    most_rows: int | None = None


@dataclass(frozen=True)
class Usage:
    """What a worker has done so far, the device memory that it took at most (bytes), its token budget now, what a position takes of the memory, and
    whether its model can remember keys and values ('usable' or 'unusable: why')."""

    cost: Cost
    peak_bytes: int
    batch_tokens: int
    name: str = ""
    footprint: Footprint | None = None
    cache: str = ""
    batch_invariant: bool | None = None

    def facts(self, label: str) -> dict[str, Any]:
        """Returns it as plain data, for the record of a run."""
        return {
            "device": label,
            "name": self.name,
            "peak_bytes": self.peak_bytes,
            "batch_tokens": self.batch_tokens,
            "cache": self.cache,
            "batch_invariant": self.batch_invariant,
            **asdict(self.cost),
        }


@dataclass(frozen=True)
class Ready:
    """The model is loaded, by this process of this host; what there is to warn of, once for all workers."""

    pid: int
    host: str
    warning: str = ""


@dataclass(frozen=True)
class LoadFailed:
    """The model cannot be loaded: the user's mistake."""

    reason: str


@dataclass(frozen=True)
class Failed:
    """The worker ends: its device or its model is unusable."""

    reason: str


@dataclass(frozen=True)
class NeedWork:
    """The worker has begun the last list that it has."""


@dataclass(frozen=True)
class Answered:
    """A job is done."""

    number: int
    answer: Answer


@dataclass(frozen=True)
class Halfway:
    """How far a job has come."""

    number: int
    checkpoint: Checkpoint


@dataclass(frozen=True)
class Alive:
    """A forward pass has ended; `report` if the driver asked."""

    usage: Usage
    report: bool = False


@dataclass(frozen=True)
class Exited:
    """The worker has ended; `how` completes "the worker ..." in a message."""

    how: str


class Link(Protocol):
    """One worker, as the driver sees it.

    Its messages arrive as (link, message) in the driver's queue of events. `Exited` is the last.
    """

    label: str

    def send(self, message: Any) -> None:
        """Sends a message, without waiting."""
        ...

    def kill(self) -> None:
        """Ends the worker at once."""
        ...


Events = queue.SimpleQueue[tuple[Any, Any]]
Starter = Callable[[int, DeviceProfile, Events], Link]  # (slot, what is known of the device, events) -> its link


def usage(engine: Engine) -> Usage:
    """Returns what `engine` did in this process."""
    device = device_of(engine.model)
    if device.type == "cuda":  # all that the process sees: a model may span several
        peak = sum(torch.cuda.max_memory_allocated(i) for i in range(torch.cuda.device_count()))
        name = torch.cuda.get_device_name(device)
    else:
        peak, name = peak_memory(), device.type
    return Usage(
        engine.cost,
        peak,
        engine.batch_tokens,
        name,
        engine.footprint,
        cache_state(engine.model),
        engine.batch_invariant,
    )


def peak_memory() -> int:
    """Returns the bytes of memory that this process has held at most."""
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
