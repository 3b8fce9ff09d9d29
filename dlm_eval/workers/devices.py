"""`--devices`: the workers of a run, and the devices that are visible to each of them."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from dlm_eval.errors import UserError

ALLOWED = "auto, cpu, cpu:N, gpu:N, numbers of GPUs (0,1,2), or numbers joined by + for a model that needs several (0+1,2+3)"


@dataclass(frozen=True)
class Device:
    """The device of one worker.

    Attributes:
        label: its name in messages.
        options: model_args that place a model on it.
        environment: environment variables of the worker.
        gpus: number of GPUs.
    """

    label: str
    options: Mapping[str, Any]
    environment: Mapping[str, str] = field(default_factory=dict)
    gpus: int = 0

    @property
    def text_options(self) -> dict[str, Any]:
        """Arguments of lm-eval's `hf` that place a model on it."""
        several = {"parallelize": True} if self.gpus > 1 else {}
        return {"device": "cuda" if self.gpus else "cpu", **several}


def parse_devices(text: str, gpu_count: int | None = None) -> list[Device]:
    """Returns the devices that `text` names.

    Args:
        text: see `ALLOWED`.
        gpu_count: number of GPUs (default: those of this machine).

    Raises:
        UserError: the text is not allowed, or it names a GPU that does not exist.
    """
    word = text.strip().lower()
    count = _count() if gpu_count is None else gpu_count
    if word == "auto":
        return [_gpu([i]) for i in range(count)] or _cpus(1)
    if cpu := re.fullmatch(r"cpu(?::([1-9]\d*))?", word):
        return _cpus(int(cpu[1] or 1))
    if gpus := re.fullmatch(r"gpu:([1-9]\d*)", word):
        word = ",".join(str(i) for i in range(int(gpus[1])))
    if not re.fullmatch(r"(cuda:)?\d+([+,](cuda:)?\d+)*", word):
        raise UserError(f"--devices '{text}' is not allowed; it must be {ALLOWED}")
    groups = [
        [int(number) for number in group.split("+")]
        for group in word.replace("cuda:", "").split(",")
    ]
    numbers = [number for group in groups for number in group]
    if len(set(numbers)) < len(numbers):
        raise UserError(f"--devices '{text}' is not allowed; it names a GPU twice")
    if max(numbers) >= count:
        raise UserError(
            f"--devices '{text}' is not possible; this machine has {count} GPUs"
            + (f", 0 to {count - 1}" if count else "")
        )
    return [_gpu(group) for group in groups]


def worker_devices(
    devices: str | None, engine: str, ray_address: str | None = None
) -> list[Device]:
    """Returns the devices of worker processes, or [] if the run needs none.

    A run on one local device needs none. A model that spans several GPUs gets a process that sees
    only these.

    Raises:
        UserError: a device does not exist.
    """
    if engine == "ray":
        from dlm_eval.workers.ray_actors import gpus_of_cluster

        return parse_devices(devices or "auto", gpus_of_cluster(ray_address))
    found = parse_devices(devices) if devices else []
    return found if len(found) > 1 or any(device.gpus > 1 for device in found) else []


def single_device(devices: str | None) -> Mapping[str, Any]:
    """Returns the model options of the one device that `devices` names."""
    (device,) = parse_devices(devices) if devices else [Device("", {})]
    first = device.environment.get("CUDA_VISIBLE_DEVICES")
    return {"device": device.label} if first else device.options


def _cpus(count: int) -> list[Device]:
    """Returns CPU devices that share the cores evenly."""
    cores = (
        len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    )
    threads = os.environ.get("OMP_NUM_THREADS") or str(max(1, cores // count))
    environment = {"OMP_NUM_THREADS": threads, "CUDA_VISIBLE_DEVICES": ""}
    return [
        Device(f"cpu:{i}" if count > 1 else "cpu", {"device": "cpu"}, environment)
        for i in range(count)
    ]


def _gpu(numbers: list[int]) -> Device:
    """Returns the device of a worker to which only these GPUs are visible."""
    visible = [v for v in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if v]
    names = ",".join(visible[n] if n < len(visible) else str(n) for n in numbers)
    options = {"device": "cuda"} if len(numbers) == 1 else {"device": "cuda", "device_map": "auto"}
    return Device(
        "cuda:" + "+".join(map(str, numbers)),
        options,
        {"CUDA_VISIBLE_DEVICES": names},
        len(numbers),
    )


def _count() -> int:
    import torch

    return torch.cuda.device_count()
