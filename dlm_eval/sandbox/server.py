"""The server inside: a small clean Python process that is locked in once and then forks for every program.

Started by link.py with nothing but the standard library, it reads requests from one pipe and answers on another. A fork
of it costs milliseconds, where starting Python anew costs tens of them.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import os
import sys
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

from . import boundary, kernel, namespaces, wire
from .limits import Limits
from .program import Surroundings
from .watch import Job, watch

# what benchmark programs import: loaded once here instead of in every program
USUAL_IMPORTS = (
    "bisect", "collections", "copy", "dataclasses", "datetime", "decimal", "enum", "fractions", "functools", "hashlib",
    "heapq", "itertools", "json", "math", "operator", "random", "re", "statistics", "string", "typing",
)  # fmt: skip
FIRST_SPARE_USER, SPARE_USERS = 61000, 4000  # for root without namespaces: a user id per server, used by nobody


def main(requests: int, replies: int, kind: str) -> None:
    """Locks this process in, says so, and judges programs until the harness hangs up.

    Args:
        requests: File descriptor to read requests from.
        replies: File descriptor to write replies to.
        kind: One of runner.KINDS, how to lock in.
    """
    undo = boundary.remember([importlib.import_module(name) for name in USUAL_IMPORTS])
    sys.stdout.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
    processes = _open_processes()
    try:
        around = LOCKS[kind]()
    except (OSError, KeyError, AttributeError) as refusal:
        wire.send(replies, {"refused": f"{type(refusal).__name__}: {refusal}"})
        return
    with contextlib.suppress(OSError, AttributeError):
        kernel.prctl(kernel.PR_SET_DUMPABLE, 0)  # no program may look into this process
        kernel.drop_bounding_set()  # once here instead of in every program
    gc.collect()
    gc.freeze()  # a program's collector has nothing of ours to look at, and so copies no page of it
    wire.send(replies, {"refused": None, "python": sys.version})

    def ask() -> tuple[str, bool]:
        wire.send(replies, {"wanted": "tests"})
        answer = wire.receive(requests)
        if answer is None:
            raise EOFError("the harness hung up")
        return answer["tests"], answer["elsewhere"]

    while (request := wire.receive(requests)) is not None:
        job = Job(request["text"], Limits(**request["limits"]), request["alone"], ask, undo)
        outcome = _in_a_fork(lambda job=job: asdict(watch(job, around, processes)))  # type: ignore[misc]
        wire.send(replies, outcome)
        if "error" in outcome:  # what the harness sends to the watcher may still lie in the pipe
            return


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


def _lock_in_namespaces() -> Surroundings:
    home = namespaces.home()
    user = namespaces.enter(home)
    return Surroundings(namespaces=True, landlock=False, user=user, home=home, readable=())


def _lock_in_bubblewrap() -> Surroundings:
    # bubblewrap has already done its part around this process
    return Surroundings(namespaces=False, landlock=True, user=None, home=namespaces.home(), readable=_readable())


def _lock_in_plain() -> Surroundings:
    spare = FIRST_SPARE_USER + os.getpid() % SPARE_USERS
    takes_it = os.geteuid() == 0 and bool(_in_a_fork(lambda: {"can": _can_import_as(spare)}).get("can"))
    user = spare if takes_it else None
    return Surroundings(namespaces=False, landlock=True, user=user, home=namespaces.home(), readable=_readable())


LOCKS = {"namespaces": _lock_in_namespaces, "bubblewrap": _lock_in_bubblewrap, "plain": _lock_in_plain}


def _can_import_as(user: int) -> bool:
    # root's own Python may lie where no one else can look
    os.setresuid(user, user, user)
    return os.access(os.path.join(namespaces.standard_library(), "os.py"), os.R_OK)


def _readable() -> tuple[str, ...]:
    return tuple(namespaces.python_roots())


def _open_processes() -> int | None:
    """Returns an open directory of the proc file system, which stays in reach when the root is exchanged."""
    try:
        processes = os.open("/proc", os.O_RDONLY | os.O_DIRECTORY)
        os.stat(f"{os.getpid()}/task/{os.getpid()}/children", dir_fd=processes)
    except OSError:
        return None
    return processes
