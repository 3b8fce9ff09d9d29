"""The server: a small Python process inside the sandbox that forks for every program.

link.py starts it with only the standard library. It restricts itself once, reads requests from one
pipe and writes replies to another. A fork takes a few milliseconds; starting Python takes tens.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import os
import select
import signal
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from functools import partial
from types import ModuleType
from typing import Any

from . import boundary, filters, kernel, limits, namespaces, usage, wire
from .program import Boundary, Surroundings, forget
from .watch import Job, watch

# Modules that benchmark programs import, loaded once here instead of in every program.
USUAL_IMPORTS = (
    "bisect", "collections", "copy", "dataclasses", "datetime", "decimal", "enum", "fractions", "functools", "hashlib",
    "heapq", "itertools", "json", "math", "operator", "random", "re", "statistics", "string", "typing",
)  # fmt: skip
# Submodules that their packages load late.
PARTS = {"numpy": ("numpy.random",)}
# For root without namespaces: unused user ids, one per server.
FIRST_SPARE_USER, SPARE_USERS = (61000, 4000)
ENDED = {"passed": False, "reason": "failed: its watcher was ended", "seconds": 0.0}


def main(requests: int, replies: int, kind: str, package: str, folders: list[str]) -> None:
    """Restricts this process, confirms it, and runs programs until the harness closes the pipe.

    Args:
        requests: File descriptor to read requests from.
        replies: File descriptor to write replies to.
        kind: The kind of sandbox (runner.KINDS).
        package: A package that programs may import beside the standard library, or ""
            (link.Packages).
        folders: The folders of the package; the first is its own.
    """
    usual = [importlib.import_module(name) for name in USUAL_IMPORTS]
    sys.stdout.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
    processes = usage.open_proc()
    try:
        if package:
            usual += _load(package, folders[0])
        around = LOCKS[kind](folders)
    except (OSError, KeyError, AttributeError, ImportError) as refusal:
        wire.send(replies, {"refused": f"{type(refusal).__name__}: {refusal}"})
        return
    with contextlib.suppress(OSError, AttributeError):
        kernel.prctl(kernel.PR_SET_DUMPABLE, 0)  # no program may look into this process
        # Processes of a killed watcher become children of this process.
        kernel.prctl(kernel.PR_SET_CHILD_SUBREAPER, 1)
        kernel.drop_bounding_set()  # once here instead of in every program
    filters.prepare(around.namespaces)
    between = Boundary(boundary.remember_hooks(), boundary.remember_modules(usual))
    forget()
    gc.collect()
    gc.freeze()  # a program's garbage collector then copies no pages of our objects
    wire.send(replies, {"refused": None, "python": sys.version})
    while (request := wire.receive(requests)) is not None:
        job = Job(
            request["text"], limits.Limits(**request["limits"]), request["alone"], partial(_ask, requests, replies), between,
            request["apart"],
        )  # fmt: skip
        outcome = _run_once(job, around, processes, requests)
        wire.send(replies, outcome)
        # The pipe may still contain a message from the harness to the watcher.
        if "error" in outcome or outcome is ENDED:
            return


def _ask(requests: int, replies: int) -> tuple[str, bool]:
    """Requests the tests from the harness. Runs in the watcher, which forks no program after it."""
    wire.send(replies, {"wanted": "tests"})
    answer = wire.receive(requests)
    if answer is None:
        raise EOFError("the harness hung up")
    return answer["tests"], answer["control"]


def _run_once(
    job: Job, around: Surroundings, processes: int | None, requests: int
) -> dict[str, Any]:
    server, latest = os.getpid(), limits.latest(job.limits.wall_seconds)
    with _home(around) as here:
        return _in_a_fork(
            lambda: asdict(watch(job, here, processes, server)), processes, latest, requests
        )


@contextlib.contextmanager
def _home(around: Surroundings) -> Iterator[Surroundings]:
    """Yields the sandbox; creates an empty working directory if no namespace provides one."""
    if around.namespaces:
        yield around
        return
    home = os.path.realpath(tempfile.mkdtemp(prefix=f"program-{os.getpid()}-"))
    try:
        if around.user is not None:
            os.chown(home, around.user, around.user)
        yield replace(around, home=home)
    finally:
        with usage.as_user(around.user):
            usage.remove(home)
        with contextlib.suppress(OSError):  # of a folder that this user may not write to
            os.rmdir(home)


def _in_a_fork(
    work: Callable[[], dict[str, Any]],
    processes: int | None = None,
    seconds: float = limits.GRACE_SECONDS,
    harness: int | None = None,
) -> dict[str, Any]:
    """Returns the result of ``work`` in a child process, or its error; ends all that it started.

    Args:
        work: The function to call.
        processes: An open directory of the proc file system; None if there is none.
        seconds: Time after which the child is ended, in case its own clock fails.
        harness: A pipe from the harness. If the harness closes it, the child is ended at once.
    """
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
    reply = wire.receive(reading) if _answers(reading, seconds, harness) else None
    os.close(reading)
    if reply is None:
        os.kill(child, signal.SIGKILL)
        reply = ENDED
    os.waitpid(child, 0)
    usage.end_all_below(processes)
    return reply


def _answers(reading: int, seconds: float, harness: int | None) -> bool:
    """Returns whether there is data to read before the time is up or the harness hangs up."""
    wait = select.poll()
    wait.register(reading, select.POLLIN)
    if harness is not None:
        wait.register(harness, 0)  # poll always reports hang-ups
    return any(end == reading for end, _ in wait.poll(seconds * 1000))


def _load(package: str, folder: str) -> list[ModuleType]:
    """Imports `package` once for all programs. Its parent folder is not in the programs' path."""
    sys.path.append(os.path.dirname(folder))
    try:
        return [importlib.import_module(name) for name in (package, *PARTS.get(package, ()))]
    finally:
        sys.path.pop()


def _lock_in_namespaces(packages: list[str]) -> Surroundings:
    home = namespaces.home(packages)
    user = namespaces.enter(home, packages)
    return Surroundings(namespaces=True, landlock=False, user=user, home=home, readable=())


def _lock_in_plain(packages: list[str]) -> Surroundings:
    spare = FIRST_SPARE_USER + os.getpid() % SPARE_USERS
    takes_it = os.geteuid() == 0 and bool(
        _in_a_fork(lambda: {"can": _can_import_as(spare)}).get("can")
    )
    user = spare if takes_it else None
    return Surroundings(
        False, landlock=True, user=user, home=namespaces.home(), readable=_readable(packages)
    )


LOCKS = {"namespaces": _lock_in_namespaces, "plain": _lock_in_plain}


def _can_import_as(user: int) -> bool:
    # Other users may be unable to read the folder of root's Python.
    os.setresuid(user, user, user)
    return os.access(os.path.join(namespaces.standard_library(), "os.py"), os.R_OK)


def _readable(packages: list[str]) -> tuple[str, ...]:
    return (*namespaces.python_roots(), *packages)
