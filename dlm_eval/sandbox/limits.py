"""How much one program may use, and how long it has run. Shared by the harness's and the sandbox's
side.

Its time is counted without the time for which others kept the CPU from it. The kernel tells for
each thread how long it computed and how long it waited in a run queue (the first two fields of
``/proc/PID/task/TID/schedstat``). Sleeping and waiting for something count as the program's own
time; waiting for a CPU does not, or the verdict would depend on how busy the machine is.

A program of several busy threads or processes waits for itself. As soon as its threads together
have computed and waited for longer than it runs, nothing more is left out: it may be timed out, but
it is never starved.
"""

from __future__ import annotations

import resource
from collections.abc import Mapping
from dataclasses import dataclass, field

MIB, GIB = 1 << 20, 1 << 30


@dataclass(frozen=True)
class Limits:
    """What one program may use before it is ended.

    The CPU limit decides about an endless loop, so that a verdict does not depend on how busy the
    machine is; the wall clock is there for programs that sleep.

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
            # 0 would still hand a crash to the host's handler of core dumps; 1 is the kernel's word
            # for nobody
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


# -- the clock -------------------------------------------------------------------------------------


CARRY_SECONDS = (
    1.0  # a wait is told when it is over: as much of it may be left out of a later period
)
PATIENCE = (
    6  # times the wall limit, with all waiting: then a program that has not used it up is starved
)
GRACE_SECONDS = 30.0  # for all else that a run needs

# (pid, tid): seconds computed, seconds waited for a CPU
Readings = Mapping[tuple[int, int], tuple[float, float]]


def latest(wall_seconds: float) -> float:
    """Returns the seconds after which a run has ended, or its watcher does not work."""
    return PATIENCE * wall_seconds + GRACE_SECONDS


@dataclass
class Clock:
    """The time of one program.

    Attributes:
        start: The present time in seconds, by a clock that never goes back.
        limit: Seconds of its own that the program has.
    """

    start: float
    limit: float
    _now: float = field(init=False)
    _busy: float = field(default=0.0, init=False)
    _left_out: float = field(default=0.0, init=False)
    _carry: float = field(default=0.0, init=False)
    _last: Readings = field(default_factory=dict, init=False)

    def __post_init__(self) -> None:
        self._now = self.start

    @property
    def over(self) -> bool:
        """The program has used up its own time."""
        return self._now - self.start - self._left_out > self.limit

    @property
    def starved(self) -> bool:
        """The program has not used up its time after as long as one can wait for it."""
        return not self.over and self._now - self.start > self.limit * PATIENCE

    def advance(self, now: float, readings: Readings) -> None:
        """Moves on to ``now``, with ``readings`` of all living threads of the program."""
        period = now - self._now
        computed, waited = self._since_last(readings)
        self._busy += computed + waited
        if self._busy > now - self.start + CARRY_SECONDS:
            waited = self._carry = 0.0
        self._carry += waited
        away = min(self._carry, max(0.0, period - computed))
        self._left_out += away
        self._carry = min(self._carry - away, CARRY_SECONDS)
        self._now, self._last = now, readings

    def pause(self, seconds: float) -> None:
        """Leaves out ``seconds`` for which the program had to wait for the harness."""
        self._left_out += seconds

    def _since_last(self, readings: Readings) -> tuple[float, float]:
        computed = waited = 0.0
        for thread, (computed_now, waited_now) in readings.items():
            computed_then, waited_then = self._last.get(thread, (0.0, 0.0))
            computed += max(0.0, computed_now - computed_then)
            waited += max(0.0, waited_now - waited_then)
        return computed, waited
