"""What the proc file system tells about the processes below one, read through an open directory of it."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Iterable

PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
PIECE_BYTES, MOST_BYTES = 1 << 16, 1 << 24


def open_proc() -> int | None:
    """Returns an open directory of the proc file system, which stays in reach when the root is exchanged."""
    try:
        processes = os.open("/proc", os.O_RDONLY | os.O_DIRECTORY)
        os.stat(f"{os.getpid()}/task/{os.getpid()}/children", dir_fd=processes)
    except OSError:
        return None
    return processes


def descendants(processes: int, pid: int) -> list[int]:
    """Returns the pids of all processes below ``pid``."""
    found, waiting = [], [pid]
    while waiting:
        parent = waiting.pop()
        for task in names(processes, f"{parent}/task"):
            children = [int(child) for child in read(processes, f"{parent}/task/{task}/children").split()]
            found += children
            waiting += children
    return found


def resident_bytes(processes: int, pids: Iterable[int]) -> int:
    """Returns the resident memory of these processes; pages that they share count each time."""
    pages = [read(processes, f"{living_task(processes, pid)}/statm").split() for pid in pids]
    return sum(int(fields[1]) for fields in pages if fields) * PAGE_BYTES


def living_task(processes: int, pid: int) -> str:
    """Returns the directory of the process, or that of a thread of it if the first thread has ended, which shows nothing."""
    if read(processes, f"{pid}/statm").startswith(b"0 "):
        for task in names(processes, f"{pid}/task"):
            if not read(processes, f"{pid}/task/{task}/statm").startswith(b"0 "):
                return f"{pid}/task/{task}"
    return str(pid)


def end_all_below(processes: int | None) -> None:
    """Kills and buries all processes below this one; without ``processes`` buries those that have ended."""
    while True:
        try:
            buried = os.waitpid(-1, os.WNOHANG)[0]
        except ChildProcessError:
            return
        if buried:
            continue
        if processes is None:
            return
        for pid in descendants(processes, os.getpid()):
            with contextlib.suppress(OSError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.001)


def names(processes: int, path: str) -> list[str]:
    """Returns the names in a directory, none if it has gone or is closed to us."""
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


def read(processes: int, path: str) -> bytes:
    """Returns the text of a file, b"" if it has gone or is closed to us; no more than about MOST_BYTES."""
    text = bytearray()
    with contextlib.suppress(OSError):
        file = os.open(path, os.O_RDONLY, dir_fd=processes)
        try:
            while len(text) < MOST_BYTES and (piece := os.read(file, PIECE_BYTES)):
                text += piece
        finally:
            os.close(file)
    return bytes(text)
