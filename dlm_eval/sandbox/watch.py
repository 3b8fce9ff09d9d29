"""One program's run: a watcher outside, an init inside, the program below it.

    server -> watcher -> init (pid 1 of its own pid namespace) -> program -> whatever it starts

The watcher holds the clock and the token, reads the report, and ends everything when the program is over. When init
dies the kernel kills all that is left in its namespace; without namespaces the watcher adopts and kills the orphans.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import select
import signal
import time
from typing import NoReturn

from . import disk, kernel, namespaces, procfs, program
from .limits import Limits
from .program import Surroundings

TICK = 0.02  # seconds between looks at memory and disk
REPORT_BYTES = 4096
# init's exit status: the program's own, or one of these
BROKEN, CPU_SPENT, SIGNALLED = 119, 120, 128  # init itself failed; CPU time used up; plus the number of the signal


@dataclasses.dataclass(frozen=True)
class Outcome:
    """How one run ended: ``passed``, a ``reason`` in words, and the ``seconds`` it took."""

    passed: bool
    reason: str
    seconds: float


def watch(text: str, limits: Limits, around: Surroundings, processes: int | None, server: int) -> Outcome:
    """Runs one program to its end or its limits and returns how it went. Call it in a process of its own.

    Args:
        text: The whole Python program.
        limits: What it may use.
        around: The sandbox; without namespaces its working directory is there already.
        processes: An open directory of the proc file system, None where there is none.
        server: The pid of the process above.
    """
    with contextlib.suppress(AttributeError):
        kernel.die_with_parent(server)
        kernel.prctl(kernel.PR_SET_CHILD_SUBREAPER, 1)
    if around.namespaces:
        namespaces.enter_for_one_program(limits.disk_bytes)
    return _run(text, limits, around, processes)


def _run(text: str, limits: Limits, around: Surroundings, processes: int | None) -> Outcome:
    token = os.urandom(16)
    reading, writing = os.pipe()
    start = time.monotonic()
    watcher = os.getpid()
    init = os.fork()
    if init == 0:
        try:
            _init(text, limits, around, writing, token, watcher)
        finally:
            os._exit(BROKEN)
    os.close(writing)
    try:
        report, broken = _follow(init, reading, start + limits.wall_seconds, limits, around, processes)
    except Exception as error:  # only the program can have brought this about
        report, broken = b"", f"failed: its watcher met {type(error).__name__}: {error}"
    status = _end(init, around, processes)
    seconds = time.monotonic() - start
    if broken is None and status == 0 and report == token:
        return Outcome(True, "passed", seconds)
    return Outcome(False, broken or _reason(status, report, token), seconds)


def _init(text: str, limits: Limits, around: Surroundings, report: int, token: bytes, watcher: int) -> NoReturn:
    """Starts the program and waits for it, burying whatever else dies meanwhile."""
    with contextlib.suppress(AttributeError):
        kernel.die_with_parent(watcher)
    myself = os.getpid()
    child = os.fork()
    if child == 0:
        program.run(text, limits, around, report, token, myself)
    while True:
        pid, status, usage = os.wait4(-1, 0)
        if pid == child:
            break
    code = os.waitstatus_to_exitcode(status)
    if code in (-signal.SIGKILL, -signal.SIGXCPU) and usage.ru_utime + usage.ru_stime > limits.cpu_seconds - 0.1:
        os._exit(CPU_SPENT)
    os._exit(SIGNALLED - code if code < 0 else min(code, BROKEN - 1))


def _follow(
    init: int, reading: int, deadline: float, limits: Limits, around: Surroundings, processes: int | None
) -> tuple[bytes, str | None]:
    """Waits for the end of the program; returns its report and the limit that it broke, if any."""
    report = b""
    poll = select.poll()
    poll.register(reading, select.POLLIN)
    next_look = time.monotonic() + TICK
    while True:
        if poll.poll(TICK * 1000):
            piece = os.read(reading, REPORT_BYTES)
            if not piece:
                return report, None
            report = (report + piece)[:REPORT_BYTES]
        now = time.monotonic()
        if now > deadline:
            return report, "timed out"
        if now > next_look:
            next_look = now + TICK
            if os.waitid(os.P_PID, init, os.WEXITED | os.WNOHANG | os.WNOWAIT):
                return report, None
            if processes is not None and procfs.resident_bytes(processes, os.getpid()) > limits.memory_bytes:
                return report, "memory limit"
            if not around.namespaces:
                with disk.as_user(around.user):
                    if disk.used(around.home, limits, processes) > limits.disk_bytes:
                        return report, "disk limit"


def _end(init: int, around: Surroundings, processes: int | None) -> int:
    """Kills all that is left of the program and returns init's exit status."""
    if not os.waitid(os.P_PID, init, os.WEXITED | os.WNOHANG | os.WNOWAIT):
        os.kill(init, signal.SIGKILL)
    status = os.waitstatus_to_exitcode(os.waitpid(init, 0)[1])  # in a namespace: returns once all in it are dead
    if not around.namespaces:
        procfs.end_all_below(processes)
    return status


def _reason(status: int, report: bytes, token: bytes) -> str:
    if status == CPU_SPENT:
        return "cpu limit"
    if status > SIGNALLED:
        return f"killed by signal {status - SIGNALLED}"
    if report[:1] == b"!":
        return "failed: " + "".join(chr(byte) if 32 <= byte < 127 else "?" for byte in report[1:])
    if report.startswith(token):
        return "failed: wrote to the report"
    return f"ended early (exit code {status})"
