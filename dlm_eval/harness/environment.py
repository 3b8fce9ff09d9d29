"""Where a result was made: machine, devices, versions, state of the code, memory at its peak."""

from __future__ import annotations

import contextlib
import os
import platform
import subprocess
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

import dlm_eval
from dlm_eval.pool.messages import peak_memory

LIBRARIES = ("torch", "transformers", "lm_eval", "datasets", "numpy")


def environment(device: str, devices: Sequence[Mapping[str, Any]] = ()) -> dict[str, Any]:
    """Returns what a result says about its making.

    Args:
        device: of the model, where there is no pool (a baseline of lm-eval).
        devices: what the pool says of each of its devices.
    """
    gpus = sorted({str(facts["name"]) for facts in devices if "cuda" in str(facts["device"])})
    peak = None
    if not devices and "cuda" in device and torch.cuda.is_available():
        gpus, peak = [torch.cuda.get_device_name()], torch.cuda.max_memory_allocated()
    return {
        "dlm_eval": dlm_eval.__version__,
        "git": _git(),
        "python": platform.python_version(),
        **{library: _version(library) for library in LIBRARIES},
        "device": ", ".join(str(facts["device"]) for facts in devices) or device,
        "device_name": ", ".join(gpus) or _processor(),
        "devices": [dict(facts) for facts in devices],
        "peak_device_bytes": max((facts["peak_bytes"] for facts in devices), default=peak),
        "batch_invariant": _invariant([facts["batch_invariant"] for facts in devices]),
        "threads": torch.get_num_threads(),
        "system": platform.system(),
        "machine": {
            "processor": _processor(),
            "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
            "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
            "peak_bytes": peak_memory(),
        },
    }


def _invariant(devices: Sequence[bool | None]) -> bool | str:
    """Returns whether answers are the same in any batch on every device, or 'unknown'."""
    if False in devices:
        return False
    return True if devices and None not in devices else "unknown"


def _version(library: str) -> str | None:
    try:
        return version(library)
    except PackageNotFoundError:
        return None


def _processor() -> str:
    """Returns the processor's model name where the system tells it."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def _git() -> str | None:
    """Returns commit and whether it was changed, where dlm_eval runs from its repository."""
    root = Path(__file__).parents[2]
    if not (root / ".git").exists():
        return None
    try:
        run = subprocess.run(
            ["git", "describe", "--always", "--dirty"], cwd=root, capture_output=True, text=True, timeout=5
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return run.stdout.strip() or None
