"""Messages between driver and worker, the same for local processes and Ray actors.

Driver to worker:

* a list of (number, job): answer these jobs.
* `GIVE_BACK`: return the jobs that you have not begun.
* `REPORT`: send your usage.

A worker reads them while it waits and after every forward pass.

Worker to driver:

* `Ready` or `LoadFailed`, once.
* `NeedWork` when it begins its last list.
* `Returned` in reply to `GIVE_BACK`.
* `Answered` for each job, and before that `Halfway` for long ones.
* `Alive` at most once a second.
* `Failed` when it ends because of an error.
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
GIVE_BACK = "give back"
REPORT = "report"


@dataclass(frozen=True)
class WorkerConfig:
    """The model that a worker loads and its batch size.

    Attributes:
        model: value of --model.
        options: model_args, the device included.
        batch_size: value of --batch_size.
        profile: measurements of earlier runs, and of workers that have ended.
        verbosity: log level.
        most_rows: value of --max_batch_size.
        texts: whether it is one of lm-eval's own models, which answers text jobs.
    """

    model: str
    options: Mapping[str, Any]
    batch_size: str | int = "auto"
    profile: DeviceProfile = DeviceProfile()
    verbosity: str = "WARNING"
    most_rows: int | None = None
    texts: bool = False


@dataclass(frozen=True)
class Usage:
    """What a worker has used so far.

    Attributes:
        cost: forwards, rows, tokens and seconds.
        peak_bytes: peak device memory.
        batch_tokens: its present token budget.
        name: name of the device.
        footprint: device memory per position, if measured.
        cache: whether the model's KV cache works ('usable', or 'unusable: why').
        batch_invariant: whether outputs are the same in any batch, if known.
    """

    cost: Cost
    peak_bytes: int
    batch_tokens: int
    name: str = ""
    footprint: Footprint | None = None
    cache: str = ""
    batch_invariant: bool | None = None

    def facts(self, label: str) -> dict[str, Any]:
        """Returns the usage as plain data, for the result file."""
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
    """The model is loaded. `warning` is logged once for all workers."""

    pid: int
    host: str
    warning: str = ""


@dataclass(frozen=True)
class LoadFailed:
    """The model cannot be loaded because of a setting."""

    reason: str


@dataclass(frozen=True)
class Failed:
    """The worker ends because its device or its model fails."""

    reason: str


@dataclass(frozen=True)
class NeedWork:
    """The worker has begun its last list of jobs."""


@dataclass(frozen=True)
class Returned:
    """The numbers of the jobs that the worker had not begun and gives back."""

    numbers: Sequence[int]


@dataclass(frozen=True)
class Answered:
    """The answer of a job."""

    number: int
    answer: Answer


@dataclass(frozen=True)
class Halfway:
    """A checkpoint of a job."""

    number: int
    checkpoint: Checkpoint


@dataclass(frozen=True)
class Alive:
    """A forward pass has ended. `report` is true if this answers `REPORT`."""

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


class Receive(Protocol):
    """Returns the driver's next message; None if there is none and `wait` is false."""

    def __call__(self, wait: bool = True) -> Any: ...


def receiver(inbox: queue.SimpleQueue[Any]) -> Receive:
    """Returns a function that takes messages from `inbox`, and raises an exception that is in it: a
    message could not be read.
    """

    def receive(wait: bool = True) -> Any:
        try:
            message = inbox.get(wait)
        except queue.Empty:
            return None
        if isinstance(message, Exception):
            raise message
        return message

    return receive


Events = queue.SimpleQueue[tuple[Any, Any]]
# (slot index, profile of its device, events) -> its link.
Starter = Callable[[int, DeviceProfile, Events], Link]


def usage(engine: Engine) -> Usage:
    """Returns the usage of `engine` in this process."""
    device = device_of(engine.model)
    if device.type == "cuda":  # all visible devices, since a model may span several
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
    """Returns the peak memory of this process in bytes."""
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
