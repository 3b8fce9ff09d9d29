"""The server inside: a small clean Python process that is locked in once and then forks for every
program.

Started by link.py with nothing but the standard library, it reads requests from one pipe and
answers on another. A fork of it costs milliseconds, where starting Python anew costs tens of them.
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

# what benchmark programs import: loaded once here instead of in every program
USUAL_IMPORTS = (
    "bisect", "collections", "copy", "dataclasses", "datetime", "decimal", "enum", "fractions", "functools", "hashlib",
    "heapq", "itertools", "json", "math", "operator", "random", "re", "statistics", "string", "typing",
)  # fmt: skip
# and parts of packages that load late
PARTS = {"numpy": ("numpy.random",)}
# for root without namespaces: a user id per server, used by nobody
FIRST_SPARE_USER, SPARE_USERS = (61000, 4000)
ENDED = {"passed": False, "reason": "failed: its watcher was ended", "seconds": 0.0}


def main(requests: int, replies: int, kind: str, package: str, folders: list[str]) -> None:
    """Locks this process in, says so, and judges programs until the harness hangs up.

    Args:
        requests: File descriptor to read requests from.
        replies: File descriptor to write replies to.
        kind: One of runner.KINDS, how to lock in.
        package: A package that programs may import beside the standard library, or "" (see
            link.Packages).
        folders: What it is made of; the first is its own.
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
        # what is left by a watcher that was killed comes here
        kernel.prctl(kernel.PR_SET_CHILD_SUBREAPER, 1)
        kernel.drop_bounding_set()  # once here instead of in every program
    filters.prepare(around.namespaces)
    between = Boundary(boundary.remember_hooks(), boundary.remember_modules(usual))
    forget()
    gc.collect()
    gc.freeze()  # a program's collector has nothing of ours to look at, and so copies no page of it
    wire.send(replies, {"refused": None, "python": sys.version})
    while (request := wire.receive(requests)) is not None:
        job = Job(
            request["text"], limits.Limits(**request["limits"]), request["alone"], partial(_ask, requests, replies), between,
            request["apart"],
        )  # fmt: skip
        outcome = _run_once(job, around, processes, requests)
        wire.send(replies, outcome)
        # what the harness sent to the watcher may still lie in the pipe
        if "error" in outcome or outcome is ENDED:
            return


def _ask(requests: int, replies: int) -> tuple[str, bool]:
    """Asks the harness for the tests, in the watcher: no program is forked from it then."""
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
    """Yields the sandbox with an empty working directory, where no namespace makes one."""
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


def _in_a_fork(
    work: Callable[[], dict[str, Any]],
    processes: int | None = None,
    seconds: float = limits.GRACE_SECONDS,
    harness: int | None = None,
) -> dict[str, Any]:
    """Returns what ``work`` returned in a child process, or the error that it met there; nothing
    that it started is left.

    Args:
        work: What to do.
        processes: An open directory of the proc file system, None where there is none.
        seconds: After which the child is ended. It has a clock of its own; this one counts if that
            fails.
        harness: A pipe from the harness: if that has gone, the child is ended at once.
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
    """Returns whether there is something to read before the time is up and the harness gone."""
    wait = select.poll()
    wait.register(reading, select.POLLIN)
    if harness is not None:
        wait.register(harness, 0)  # hang-ups are told unasked
    return any(end == reading for end, _ in wait.poll(seconds * 1000))


def _load(package: str, folder: str) -> list[ModuleType]:
    """Imports `package` once, for all programs; the folder around it never joins their path."""
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
    # root's own Python may lie where no one else can look
    os.setresuid(user, user, user)
    return os.access(os.path.join(namespaces.standard_library(), "os.py"), os.R_OK)


def _readable(packages: list[str]) -> tuple[str, ...]:
    return (*namespaces.python_roots(), *packages)
