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
import shutil
import signal
import tempfile
import time
from typing import NoReturn

from . import kernel, namespaces, program
from .limits import Limits
from .program import Surroundings

TICK = 0.02  # seconds between looks at memory and disk
REPORT_BYTES = 4096
PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
BLOCK_BYTES, FILE_COST = 512, 4096
# init's exit status: the program's own, or one of these
BROKEN, CPU_SPENT, SIGNALLED = 119, 120, 128  # init itself failed; CPU time used up; plus the number of the signal


@dataclasses.dataclass(frozen=True)
class Outcome:
    """How one run ended: ``passed``, a ``reason`` in words, and the ``seconds`` it took."""

    passed: bool
    reason: str
    seconds: float


def watch(text: str, limits: Limits, around: Surroundings, processes: int | None) -> Outcome:
    """Runs one program to its end or its limits and returns how it went. Call it in a process of its own.

    Args:
        text: The whole Python program.
        limits: What it may use.
        around: The sandbox; without namespaces a fresh working directory is made here.
        processes: An open directory of the proc file system, None where there is none.
    """
    with contextlib.suppress(AttributeError):
        kernel.die_with_parent()
        kernel.prctl(kernel.PR_SET_CHILD_SUBREAPER, 1)
    if around.namespaces:
        namespaces.enter_for_one_program(limits.disk_bytes)
        return _run(text, limits, around, processes)
    home = tempfile.mkdtemp(prefix="program-")
    try:
        if around.user is not None:
            os.chown(home, around.user, around.user)
        return _run(text, limits, dataclasses.replace(around, home=home), processes)
    finally:
        _remove(home)


def _run(text: str, limits: Limits, around: Surroundings, processes: int | None) -> Outcome:
    token = os.urandom(16)
    reading, writing = os.pipe()
    start = time.monotonic()
    init = os.fork()
    if init == 0:
        try:
            _init(text, limits, around, writing, token)
        finally:
            os._exit(BROKEN)
    os.close(writing)
    report, broken = _follow(init, reading, start + limits.wall_seconds, limits, around, processes)
    status = _end(init, around, processes)
    seconds = time.monotonic() - start
    if broken is None and status == 0 and report == token:
        return Outcome(True, "passed", seconds)
    return Outcome(False, broken or _reason(status, report, token), seconds)


def _init(text: str, limits: Limits, around: Surroundings, report: int, token: bytes) -> NoReturn:
    """Starts the program and waits for it, burying whatever else dies meanwhile."""
    with contextlib.suppress(AttributeError):
        kernel.die_with_parent()
    child = os.fork()
    if child == 0:
        program.run(text, limits, around, report, token)
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
            if processes is not None and resident_bytes(processes, os.getpid()) > limits.memory_bytes:
                return report, "memory limit"
            if not around.namespaces and _disk_bytes(around.home) > limits.disk_bytes:
                return report, "disk limit"


def _end(init: int, around: Surroundings, processes: int | None) -> int:
    """Kills all that is left of the program and returns init's exit status."""
    if not os.waitid(os.P_PID, init, os.WEXITED | os.WNOHANG | os.WNOWAIT):
        os.kill(init, signal.SIGKILL)
    status = os.waitstatus_to_exitcode(os.waitpid(init, 0)[1])  # in a namespace: returns once all in it are dead
    if not around.namespaces:
        _kill_orphans(around, processes)
    return status


def _kill_orphans(around: Surroundings, processes: int | None) -> None:
    if around.user is not None:  # a user id of its own: one call reaches everything
        killer = os.fork()
        if killer == 0:
            os.setresuid(around.user, around.user, around.user)
            with contextlib.suppress(OSError):
                os.kill(-1, signal.SIGKILL)
            os._exit(0)
    while processes is not None:  # else: whoever ends this server's namespace ends them
        for pid in descendants(processes, os.getpid()):
            with contextlib.suppress(OSError):
                os.kill(pid, signal.SIGKILL)
        try:
            if os.waitpid(-1, os.WNOHANG)[0] == 0:
                time.sleep(0.001)
        except ChildProcessError:
            return


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


def descendants(processes: int, pid: int) -> list[int]:
    """Returns the pids of all processes below ``pid``."""
    found, waiting = [], [pid]
    while waiting:
        parent = waiting.pop()
        for task in _list(processes, f"{parent}/task"):
            children = [int(child) for child in _read(processes, f"{parent}/task/{task}/children").split()]
            found += children
            waiting += children
    return found


def resident_bytes(processes: int, pid: int) -> int:
    """Returns the resident memory of all processes below ``pid``; pages that they share count each time."""
    pages = [_read(processes, f"{child}/statm").split() for child in descendants(processes, pid)]
    return sum(int(fields[1]) for fields in pages if fields) * PAGE_BYTES


def _list(processes: int, path: str) -> list[str]:
    try:
        directory = os.open(path, os.O_RDONLY | os.O_DIRECTORY, dir_fd=processes)
    except OSError:
        return []
    try:
        return os.listdir(directory)
    except OSError:
        return []
    finally:
        os.close(directory)


def _read(processes: int, path: str) -> bytes:
    with contextlib.suppress(OSError):
        file = os.open(path, os.O_RDONLY, dir_fd=processes)
        try:
            return os.read(file, 1 << 16)
        finally:
            os.close(file)
    return b""


def _disk_bytes(home: str) -> int:
    total = 0
    for directory, _, files in os.walk(home):
        for name in files:
            with contextlib.suppress(OSError):
                total += os.lstat(os.path.join(directory, name)).st_blocks * BLOCK_BYTES
        total += FILE_COST * (len(files) + 1)
    return total


def _remove(home: str) -> None:
    # directories that the program made unreadable; never through a link
    for directory, names, _ in os.walk(home):
        for name in names:
            path = os.path.join(directory, name)
            if not os.path.islink(path):
                os.chmod(path, 0o700)
    shutil.rmtree(home, ignore_errors=True)
