"""How much one program may use. Shared by the harness's side and the sandbox's side."""

from __future__ import annotations

import resource
from dataclasses import dataclass

MIB, GIB = 1 << 20, 1 << 30


@dataclass(frozen=True)
class Limits:
    """What one program may use before it is ended.

    The CPU limit decides about an endless loop, so that a verdict does not depend on how busy the machine is; the wall
    clock is there for programs that sleep.

    Attributes:
        wall_seconds: Time from start to end.
        cpu_seconds: Computing time of any one process (whole seconds, as the kernel counts them).
        memory_bytes: Address space of any one process, and resident memory of all of them together.
        processes: Processes and threads at one time.
        file_bytes: Size of any one file.
        disk_bytes: Size of everything in the working directory.
        open_files: Open files of any one process.
    """

    wall_seconds: float = 10.0
    cpu_seconds: int = 3
    memory_bytes: int = GIB
    processes: int = 32
    file_bytes: int = 32 * MIB
    disk_bytes: int = 64 * MIB
    open_files: int = 64

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if not value > 0:
                raise ValueError(f"sandbox limit {name}={value} must be above 0")

    def apply(self) -> None:
        """Sets the limits that the kernel keeps for this process and all that it starts."""
        for name, value in (
            ("CPU", self.cpu_seconds),
            ("AS", self.memory_bytes),
            ("NPROC", self.processes),
            ("FSIZE", self.file_bytes),
            ("NOFILE", self.open_files),
            # 0 would still hand a crash to the host's handler of core dumps; 1 is the kernel's word for nobody
            ("CORE", 1),
            # what the kernel counts per user, for all his processes together
            ("SIGPENDING", self.processes),
            ("MSGQUEUE", 0),
            ("MEMLOCK", 0),
        ):
            if hasattr(resource, f"RLIMIT_{name}"):  # some are Linux's own
                _lower(getattr(resource, f"RLIMIT_{name}"), value)


def _lower(kind: int, value: int) -> None:
    # a limit that the surroundings already set lower stays as it is
    hard = resource.getrlimit(kind)[1]
    value = value if hard == resource.RLIM_INFINITY else min(value, hard)
    resource.setrlimit(kind, (value, value))
