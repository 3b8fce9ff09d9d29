"""The server inside: a small clean Python process that is locked in once and then forks for every program.

Started by link.py with nothing but the standard library, it reads requests from one pipe and answers on another. A fork
of it costs milliseconds, where starting Python anew costs tens of them.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import sys
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

from . import kernel, namespaces, wire
from .limits import Limits
from .program import Surroundings
from .watch import watch

# what benchmark programs import: loaded once here instead of in every program
USUAL_IMPORTS = (
    "bisect", "collections", "copy", "dataclasses", "datetime", "decimal", "enum", "fractions", "functools", "hashlib",
    "heapq", "itertools", "json", "math", "operator", "random", "re", "statistics", "string", "typing",
)  # fmt: skip
# and parts of packages that load late
PARTS = {"numpy": ("numpy.random",)}
# a program that passes must not pass when its tests end in a failure: else it forged its report
CERTAIN_FAILURE = "\nraise AssertionError('end of program')\n"
FIRST_SPARE_USER, SPARE_USERS = 61000, 4000  # for root without namespaces: a user id per server, used by nobody


def main(requests: int, replies: int, kind: str, package: str, folders: list[str]) -> None:
    """Locks this process in, says so, and judges programs until the harness hangs up.

    Args:
        requests: File descriptor to read requests from.
        replies: File descriptor to write replies to.
        kind: One of runner.KINDS, how to lock in.
        package: A package that programs may import beside the standard library, or "" (see packages.py).
        folders: What it is made of; the first is its own.
    """
    for name in USUAL_IMPORTS:
        importlib.import_module(name)
    sys.stdout.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
    processes = _open_processes()
    try:
        if package:
            _load(package, folders[0])
        around = LOCKS[kind](folders)
    except (OSError, KeyError, AttributeError, ImportError) as refusal:
        wire.send(replies, {"refused": f"{type(refusal).__name__}: {refusal}"})
        return
    with contextlib.suppress(OSError, AttributeError):
        kernel.prctl(kernel.PR_SET_DUMPABLE, 0)  # no program may look into this process
    wire.send(replies, {"refused": None})
    while (request := wire.receive(requests)) is not None:
        wire.send(replies, _judge(request["text"], Limits(**request["limits"]), around, processes))


def _judge(text: str, limits: Limits, around: Surroundings, processes: int | None) -> dict[str, Any]:
    outcome = _in_a_fork(lambda: asdict(watch(text, limits, around, processes)))
    if outcome.get("passed"):
        control = _in_a_fork(lambda: asdict(watch(text + CERTAIN_FAILURE, limits, around, processes)))
        if control.get("passed", True):
            return outcome | {"passed": False, "reason": "failed: passes whatever its tests say"}
    return outcome


def _in_a_fork(work: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """Returns what ``work`` returned in a child process, or the error that it met there."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            wire.send(writing, work())
        except BaseException as error:
            wire.send(writing, {"error": f"{type(error).__name__}: {error}"})
        finally:
            os._exit(0)
    os.close(writing)
    reply = wire.receive(reading)
    os.close(reading)
    os.waitpid(child, 0)
    return {"error": "the watcher was killed"} if reply is None else reply


def _load(package: str, folder: str) -> None:
    """Imports `package` once here, so that programs find it loaded; the folder around it never joins their path."""
    sys.path.append(os.path.dirname(folder))
    try:
        for name in (package, *PARTS.get(package, ())):
            importlib.import_module(name)
    finally:
        sys.path.pop()


def _lock_in_namespaces(packages: list[str]) -> Surroundings:
    user = namespaces.enter(packages)
    return Surroundings(namespaces=True, landlock=False, user=user, home=namespaces.HOME, readable=())


def _lock_in_bubblewrap(packages: list[str]) -> Surroundings:
    # bubblewrap has already done its part around this process
    return Surroundings(False, landlock=True, user=None, home=namespaces.HOME, readable=_readable(packages))


def _lock_in_plain(packages: list[str]) -> Surroundings:
    spare = FIRST_SPARE_USER + os.getpid() % SPARE_USERS
    takes_it = os.geteuid() == 0 and bool(_in_a_fork(lambda: {"can": _can_import_as(spare)}).get("can"))
    user = spare if takes_it else None
    return Surroundings(False, landlock=True, user=user, home=namespaces.HOME, readable=_readable(packages))


LOCKS = {"namespaces": _lock_in_namespaces, "bubblewrap": _lock_in_bubblewrap, "plain": _lock_in_plain}


def _can_import_as(user: int) -> bool:
    # root's own Python may lie where no one else can look
    os.setresuid(user, user, user)
    return os.access(os.path.join(namespaces.standard_library(), "os.py"), os.R_OK)


def _readable(packages: list[str]) -> tuple[str, ...]:
    return (*namespaces.python_roots(), *packages)


def _open_processes() -> int | None:
    """Returns an open directory of the proc file system, which stays in reach when the root is exchanged."""
    try:
        processes = os.open("/proc", os.O_RDONLY | os.O_DIRECTORY)
        os.stat(f"{os.getpid()}/task/{os.getpid()}/children", dir_fd=processes)
    except OSError:
        return None
    return processes
