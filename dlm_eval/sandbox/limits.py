"""The limits and the clock of one program. The harness and the sandbox both import this module.

Time waiting for a CPU is excluded from the program's time; otherwise the verdict would depend on
the load of the machine. Sleeping and other waiting count. The kernel reports the computing time and
the run queue time of each thread (the first two fields of ``/proc/PID/task/TID/schedstat``).

Several busy threads or processes of one program wait for each other. If the computing and waiting
time of all its threads exceeds its running time, no further time is excluded. Such a program can
time out but is never starved.
"""

from __future__ import annotations

import resource
from collections.abc import Mapping
from dataclasses import dataclass, field

MIB, GIB = 1 << 20, 1 << 30


@dataclass(frozen=True)
class Limits:
    """The resources that one program may use.

    The CPU limit ends endless loops, so the verdict does not depend on the load of the machine. The
    wall clock limit ends programs that sleep.

    Attributes:
        wall_seconds: Time from start to end.
        cpu_seconds: Computing time of any one process (in whole seconds, since the kernel counts
            these).
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
        """Sets the kernel's limits for this process and all that it starts."""
        for name, value in (
            ("CPU", self.cpu_seconds),
            ("AS", self.memory_bytes),
            ("NPROC", self.processes),
            ("FSIZE", self.file_bytes),
            ("NOFILE", self.open_files),
            # With 0 the host's core dump handler would still get a crash; 1 disables it.
            ("CORE", 1),
            # The kernel counts this per user, over all processes of the user.
            ("SIGPENDING", self.processes),
            ("MSGQUEUE", 0),
            ("MEMLOCK", 0),
        ):
            if hasattr(resource, f"RLIMIT_{name}"):  # some are Linux's own
                _lower(getattr(resource, f"RLIMIT_{name}"), value)


def _lower(kind: int, value: int) -> None:
    # A lower limit that is already set stays.
    hard = resource.getrlimit(kind)[1]
    value = value if hard == resource.RLIM_INFINITY else min(value, hard)
    resource.setrlimit(kind, (value, value))


# -- the clock -------------------------------------------------------------------------------------


# the kernel reports a wait after its end; so much may be excluded from a later period
CARRY_SECONDS = 1.0
# times the wall limit, waiting included; a program that is not over by then is starved
PATIENCE = 6
GRACE_SECONDS = 30.0  # for everything else in a run

# (pid, tid): seconds computed, seconds waited for a CPU
CpuTimes = Mapping[tuple[int, int], tuple[float, float]]


def latest(wall_seconds: float) -> float:
    """Returns the seconds after which a run must have ended; otherwise its watcher hangs."""
    return PATIENCE * wall_seconds + GRACE_SECONDS


@dataclass
class Clock:
    """The time of one program.

    Attributes:
        start: Start in seconds of a monotonic clock.
        limit: Seconds of its own that the program may use.
    """

    start: float
    limit: float
    _now: float = field(init=False)
    _busy: float = field(default=0.0, init=False)
    _left_out: float = field(default=0.0, init=False)
    _carry: float = field(default=0.0, init=False)
    _last: CpuTimes = field(default_factory=dict, init=False)

    def __post_init__(self) -> None:
        self._now = self.start

    @property
    def over(self) -> bool:
        """Whether the program has used up its time."""
        return self._now - self.start - self._left_out > self.limit

    @property
    def starved(self) -> bool:
        """Whether the program has not used up its time although the maximum wait is over."""
        return not self.over and self._now - self.start > self.limit * PATIENCE

    def advance(self, now: float, cpu_times: CpuTimes) -> None:
        """Advances to ``now``; ``cpu_times`` are of all living threads of the program."""
        period = now - self._now
        computed, waited = self._since_last(cpu_times)
        self._busy += computed + waited
        if self._busy > now - self.start + CARRY_SECONDS:
            waited = self._carry = 0.0
        self._carry += waited
        away = min(self._carry, max(0.0, period - computed))
        self._left_out += away
        self._carry = min(self._carry - away, CARRY_SECONDS)
        self._now, self._last = now, cpu_times

    def pause(self, seconds: float) -> None:
        """Excludes ``seconds`` for which the program had to wait for the harness."""
        self._left_out += seconds

    def _since_last(self, cpu_times: CpuTimes) -> tuple[float, float]:
        computed = waited = 0.0
        for thread, (computed_now, waited_now) in cpu_times.items():
            computed_then, waited_then = self._last.get(thread, (0.0, 0.0))
            computed += max(0.0, computed_now - computed_then)
            waited += max(0.0, waited_now - waited_then)
        return computed, waited
