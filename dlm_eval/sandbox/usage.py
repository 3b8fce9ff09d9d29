"""Measures a program's processes, memory, time and disk; removes its working directory.

Processes are read through an open directory of the proc file system. Disk use is measured if no
namespace limits it. The program may nest directories deeper than any path reaches, replace a
directory by a link during the measurement, make directories unreadable, and keep deleted files
open. Every step therefore uses descriptors and follows no link, only one directory is open at a
time, and deleted files that a process still holds are counted.
"""

from __future__ import annotations

import contextlib
import os
import signal
import stat
import time
from collections.abc import Iterable, Iterator, Sequence

from . import kernel
from .limits import CpuTimes, Limits

PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
PIECE_BYTES, MOST_BYTES = 1 << 16, 1 << 24


def open_proc() -> int | None:
    """Returns an open directory of proc, which stays usable after a change of the root."""
    try:
        processes = os.open("/proc", os.O_RDONLY | os.O_DIRECTORY)
        os.stat(f"{os.getpid()}/task/{os.getpid()}/children", dir_fd=processes)
    except OSError:
        return None
    return processes


def descendants(processes: int, pid: int) -> list[int]:
    """Returns the pids of all descendants of ``pid``."""
    found, waiting = [], [pid]
    while waiting:
        parent = waiting.pop()
        for task in _names(processes, f"{parent}/task"):
            children = [
                int(child) for child in _read(processes, f"{parent}/task/{task}/children").split()
            ]
            found += children
            waiting += children
    return found


def resident_bytes(processes: int, pids: Iterable[int]) -> int:
    """Returns the resident memory of these processes in bytes; shared pages count in each."""
    pages = [_read(processes, f"{_living_task(processes, pid)}/statm").split() for pid in pids]
    return sum(int(fields[1]) for fields in pages if fields) * PAGE_BYTES


def cpu_times(processes: int, pids: Iterable[int]) -> CpuTimes:
    """Returns the seconds that each living thread computed and waited for a CPU."""
    found = {}
    for pid in pids:
        for task in _names(processes, f"{pid}/task"):
            place = f"{pid}/task/{task}"
            if _is_dead(processes, place):
                continue
            fields = _read(processes, f"{place}/schedstat").split()
            computed, waited = (int(field) * 1e-9 for field in fields[:2]) if fields else (0.0, 0.0)
            found[pid, int(task)] = computed, waited
    return found


def _is_dead(processes: int, place: str) -> bool:
    state = _read(processes, f"{place}/stat").rpartition(b")")[2].split()[:1]
    return state in ([], [b"Z"], [b"X"])


def _living_task(processes: int, pid: int) -> str:
    """Returns the process's directory, or that of a thread if the first one has ended."""
    if _read(processes, f"{pid}/statm").startswith(b"0 "):
        for task in _names(processes, f"{pid}/task"):
            if not _read(processes, f"{pid}/task/{task}/statm").startswith(b"0 "):
                return f"{pid}/task/{task}"
    return str(pid)


def end_all_below(processes: int | None) -> None:
    """Kills and reaps all descendants of this process; without ``processes`` it only reaps."""
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


def _names(processes: int, path: str) -> list[str]:
    """Returns the names in a directory; none if it does not exist or we may not read it."""
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
    """Returns about MOST_BYTES of a file at most; b"" if it is gone or we may not read it."""
    text = bytearray()
    with contextlib.suppress(OSError):
        file = os.open(path, os.O_RDONLY, dir_fd=processes)
        try:
            while len(text) < MOST_BYTES and (piece := os.read(file, PIECE_BYTES)):
                text += piece
        finally:
            os.close(file)
    return bytes(text)


# -- disk ------------------------------------------------------------------------------------------


BLOCK_BYTES, FILE_COST = 512, 4096
DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
OWNER = 0o700
LOOKS = 3  # attempts to measure directories that move; then they exceed the limit
DELETED = b" (deleted)"


class Moved(Exception):
    """A directory was moved, or became unreadable, while it was listed."""


@contextlib.contextmanager
def as_user(user: int | None) -> Iterator[None]:
    """Accesses files as ``user`` (None: no change). Only the file system ids change, so ``user``
    may not signal this process.
    """
    if user is None:
        yield
        return
    mine = os.geteuid(), os.getegid()
    kernel.call("setfsgid", user)
    kernel.call("setfsuid", user)
    try:
        yield
    finally:
        kernel.call("setfsuid", mine[0])
        kernel.call("setfsgid", mine[1])


def disk_bytes(home: str, limits: Limits, processes: int | None, pids: Sequence[int] = ()) -> int:
    """Returns the bytes of all files of the program.

    If they exceed ``limits.disk_bytes``, the result is any number above it.

    Args:
        home: The working directory of the program.
        limits: Limits of the program.
        processes: An open directory of the proc file system; None if there is none.
        pids: The processes of the program.
    """
    for _ in range(LOOKS):
        with contextlib.suppress(Moved):
            total = 0
            for size in _sizes(home, limits, processes, pids):
                total += size
                if total > limits.disk_bytes:
                    break
            return total
    return limits.disk_bytes + 1


def remove(home: str) -> None:
    """Removes ``home`` with its contents. No process may run in it any more."""
    with contextlib.suppress(OSError, Moved):
        top = _open(home, None, os.lstat(home).st_mode)
        try:
            for directory, name, info in walk(top):
                with contextlib.suppress(OSError):
                    (os.rmdir if stat.S_ISDIR(info.st_mode) else os.unlink)(name, dir_fd=directory)
        finally:
            os.close(top)
        os.rmdir(home)


def walk(top: int) -> Iterator[tuple[int, str, os.stat_result]]:
    """Yields directory (a descriptor), name and status of everything below ``top``, depth first: a
    directory comes after its contents.

    Raises:
        Moved: A directory was moved.
    """
    above: list[
        tuple[os.stat_result, tuple[str, os.stat_result], list[tuple[str, os.stat_result]]]
    ] = []
    here = os.open(".", DIRECTORY, dir_fd=top)
    try:
        waiting = list(_entries(here))
        while waiting or above:
            if not waiting:
                place, (name, info), waiting = above.pop()
                here = _exchange(here, os.open("..", DIRECTORY, dir_fd=here))
                if not os.path.samestat(os.fstat(here), place):
                    raise Moved
                yield here, name, info
                continue
            name, info = waiting.pop()
            if stat.S_ISDIR(info.st_mode):
                with contextlib.suppress(FileNotFoundError):
                    below = _open(name, here, info.st_mode)
                    above.append((os.fstat(here), (name, info), waiting))
                    here = _exchange(here, below)
                    waiting = list(_entries(here))
            else:
                yield here, name, info
    finally:
        os.close(here)


def _exchange(old: int, new: int) -> int:
    os.close(old)
    return new


def _entries(directory: int) -> Iterator[tuple[str, os.stat_result]]:
    for name in os.listdir(directory):
        with contextlib.suppress(FileNotFoundError):
            yield name, os.stat(name, dir_fd=directory, follow_symlinks=False)


def _open(name: str, parent: int | None, mode: int) -> int:
    """Opens a directory. If its owner may not read or enter it, its mode is changed first."""
    try:
        if mode & OWNER != OWNER:
            handle = os.open(name, os.O_PATH | DIRECTORY, dir_fd=parent)
            try:
                os.chmod(f"/proc/self/fd/{handle}", OWNER)  # the name may be a link by now
            finally:
                os.close(handle)
        return os.open(name, DIRECTORY, dir_fd=parent)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise Moved from error


def _sizes(home: str, limits: Limits, processes: int | None, pids: Sequence[int]) -> Iterator[int]:
    counted: set[int] = set()
    top = _open(home, None, os.lstat(home).st_mode)
    try:
        for _, _, info in walk(top):
            if info.st_ino not in counted:
                yield FILE_COST + info.st_blocks * BLOCK_BYTES
            if info.st_nlink > 1:
                counted.add(info.st_ino)
    finally:
        os.close(top)
    if processes is not None:
        for pid in pids:
            yield from _nameless(processes, pid, os.fsencode(home), limits)


def _nameless(processes: int, pid: int, home: bytes, limits: Limits) -> Iterator[int]:
    """Yields the sizes of deleted files that process ``pid`` holds."""
    open_files: set[int] = set()
    task = _living_task(processes, pid)
    for number in _names(processes, f"{task}/fd"):
        with contextlib.suppress(OSError):
            info = os.stat(f"{task}/fd/{number}", dir_fd=processes)
            if stat.S_ISREG(info.st_mode) and info.st_nlink == 0 and info.st_ino not in open_files:
                open_files.add(info.st_ino)
                yield FILE_COST + info.st_blocks * BLOCK_BYTES
    mapped = _read(processes, f"{task}/maps")
    if len(mapped) >= MOST_BYTES:
        yield limits.disk_bytes + 1
    if DELETED in mapped:
        lines = [line.split(None, 5) for line in mapped.splitlines() if line.endswith(DELETED)]
        inodes = {int(fields[4]) for fields in lines if fields[5].startswith(home + b"/")}
        # A user cannot read their size, so count the largest possible one.
        yield len(inodes - open_files) * limits.file_bytes
