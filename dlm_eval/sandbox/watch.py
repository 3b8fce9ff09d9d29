"""One run of a program: a watcher outside, an init inside, the program as a child of init.

    server -> watcher -> init (pid 1 of its own pid namespace) -> program -> whatever it starts

The watcher has the clock and the token. It passes the tests on when the text has ended, reads the
report (program.py is the other side of that exchange), and ends all processes after the program.
When init dies, the kernel kills all processes in its namespace. Without namespaces the watcher
adopts and kills the orphans.
"""

from __future__ import annotations

import contextlib
import os
import resource
import select
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import NoReturn

from . import kernel, namespaces, program, usage
from .limits import Clock, Limits
from .program import TESTS_ENDED, TEXT_ENDED, TOKEN_BYTES, Boundary, Surroundings

TICK = 0.02  # seconds between looks at memory and disk
# Share of the CPU limit: the kernel enforces the limit by ticks, but reports exact times.
CPU_SHARE = 0.8
# init's exit status: the program's own, or one of these: init itself failed; CPU time used up; 128
# plus the number of the signal that ended the program.
BROKEN, CPU_SPENT, SIGNALLED = (119, 120, 128)


@dataclass(frozen=True)
class Outcome:
    """How one run ended: ``passed``, a ``reason`` in words, and the ``seconds`` it took.

    ``starved`` means that it was ended because the machine gave it too little time. The program may
    be right or wrong.
    """

    passed: bool
    reason: str
    seconds: float
    starved: bool = False


@dataclass(frozen=True)
class Job:
    """One program to run.

    Attributes:
        text: A whole Python program, or the candidate that the tests test.
        limits: Its limits.
        alone: Whether no thread or process may be alive when its text has ended.
        tests: Requests the tests; returns them and whether this is a control run, which must fail.
        boundary: Clean-up between the text and the tests.
        apart: Whether the tests run in a separate process.
    """

    text: str
    limits: Limits
    alone: bool
    tests: Callable[[], tuple[str, bool]]
    boundary: Boundary
    apart: bool

    def has_init(self, around: Surroundings) -> bool:
        """Returns whether pid 1 of the program's pid namespace is a separate process."""
        return around.namespaces and not self.apart


class Broken(Exception):
    """The program broke a limit or a rule."""


class Starved(Broken):
    """The machine gave the program too little time."""


def watch(job: Job, around: Surroundings, processes: int | None, server: int) -> Outcome:
    """Runs one program to its end or a limit; returns the outcome. Call it in a separate process.

    Args:
        job: The program.
        around: The sandbox; without namespaces its working directory must exist.
        processes: An open directory of the proc file system; None if there is none.
        server: The pid of the parent process.
    """
    with contextlib.suppress(AttributeError):
        kernel.die_with_parent(server)
        kernel.prctl(kernel.PR_SET_CHILD_SUBREAPER, 1)
    if around.namespaces:
        namespaces.enter_for_one_program(around.home, job.limits.disk_bytes)
    return _run(job, around, processes)


def _run(job: Job, around: Surroundings, processes: int | None) -> Outcome:
    report, writing = os.pipe()
    reading, orders = os.pipe()
    clock = Clock(time.monotonic(), job.limits.wall_seconds)
    watcher = os.getpid()
    child = os.fork()
    if child == 0:
        try:
            _below(job, around, writing, reading, watcher)
        finally:
            os._exit(BROKEN)
    init = child if job.has_init(around) else None
    os.close(writing)
    os.close(reading)
    exchange = Exchange(report, orders, lambda: _order(job, clock, init, processes))
    broken: Broken | None = None
    try:
        _follow(exchange, clock, child, job, around, processes)
    except Broken as error:
        broken = error
    except Exception as error:  # only the program can have caused this
        broken = Broken(f"failed: its watcher met {type(error).__name__}: {error}")
    status = _end(child, job, around, processes)
    seconds = time.monotonic() - clock.start
    if broken is None and status == 0 and exchange.passed:
        return Outcome(True, "passed", seconds)
    reason = str(broken) if broken else _reason(status, exchange)
    return Outcome(False, reason, seconds, starved=isinstance(broken, Starved))


def _below(job: Job, around: Surroundings, report: int, orders: int, watcher: int) -> NoReturn:
    """Runs the program or its tests; in a pid namespace, runs as init, the program's parent."""
    with contextlib.suppress(AttributeError):
        kernel.die_with_parent(watcher)
    program.move({report: program.REPORT, orders: program.ORDERS})
    if job.apart:
        program.run_apart(job.text, job.limits, around, watcher)
    init = os.getpid()
    if not job.has_init(around):
        program.run(job.text, job.limits, around, job.boundary, job.alone, watcher)
    child = os.fork()
    if child == 0:
        program.run(job.text, job.limits, around, job.boundary, job.alone, init)
    # The report stays open. Its end signals to the watcher that init has exited.
    os.close(program.ORDERS)
    while True:  # reap all other children
        pid, status, spent = os.wait4(-1, 0)
        if pid == child:
            os._exit(_told(status, spent, job.limits))


def _told(status: int, spent: resource.struct_rusage, limits: Limits) -> int:
    """Returns the end of the program as init's exit status, for `_reason`."""
    code = os.waitstatus_to_exitcode(status)
    if (
        code in (-signal.SIGKILL, -signal.SIGXCPU)
        and spent.ru_utime + spent.ru_stime > CPU_SHARE * limits.cpu_seconds
    ):
        return CPU_SPENT
    return SIGNALLED - code if code < 0 else min(code, BROKEN - 1)


def _order(job: Job, clock: Clock, init: int | None, processes: int | None) -> bytes:
    if job.alone and processes is not None:
        _check_alone(init, processes)
    asked = time.monotonic()
    tests, control = job.tests()
    clock.pause(time.monotonic() - asked)
    return program.order(tests, control)


def _check_alone(init: int | None, processes: int) -> None:
    """Waits for the program's other threads and processes to end; raises Broken if some remain."""
    deadline = time.monotonic() + program.THREAD_SECONDS
    while (
        len(
            usage.cpu_times(
                processes, [pid for pid in usage.descendants(processes, os.getpid()) if pid != init]
            )
        )
        > 1
    ):
        if time.monotonic() > deadline:
            raise Broken("failed: a thread or process is still alive when the tests begin")
        time.sleep(program.LOOK_SECONDS)


def _follow(
    exchange: Exchange,
    clock: Clock,
    child: int,
    job: Job,
    around: Surroundings,
    processes: int | None,
) -> None:
    """Waits for the end of the program; raises Broken if it breaks a limit."""
    poll = select.poll()
    poll.register(exchange.report, select.POLLIN)
    next_look = time.monotonic() + TICK
    while True:
        if exchange.has_more_to_say:
            poll.register(exchange.orders, select.POLLOUT)
        for end, _ in poll.poll(TICK * 1000):
            if end == exchange.orders:
                exchange.say()
                if not exchange.has_more_to_say:
                    poll.unregister(end)
            elif not exchange.listen():
                return
        now = time.monotonic()
        if now > next_look:
            next_look = now + TICK
            if os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT):
                exchange.listen_to_the_rest()
                return
            below = [] if processes is None else usage.descendants(processes, os.getpid())
            busy = [pid for pid in below if pid != child or not job.has_init(around)]
            clock.advance(now, {} if processes is None else usage.cpu_times(processes, busy))
            if clock.over:
                raise Broken("timed out")
            if clock.starved:
                raise Starved("starved: other processes took the CPU")
            if (
                processes is not None
                and usage.resident_bytes(processes, below) > job.limits.memory_bytes
            ):
                raise Broken("memory limit")
            if not around.namespaces:
                with usage.as_user(around.user):
                    if (
                        usage.disk_bytes(around.home, job.limits, processes, below)
                        > job.limits.disk_bytes
                    ):
                        raise Broken("disk limit")


def _end(child: int, job: Job, around: Surroundings, processes: int | None) -> int:
    """Kills all remaining processes of the program; returns its exit status, for `_reason`."""
    if not os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT):
        os.kill(child, signal.SIGKILL)
    # In a namespace this returns when all its processes are dead.
    _, status, spent = os.wait4(child, 0)
    if not around.namespaces:
        usage.end_all_below(processes)
    return (
        os.waitstatus_to_exitcode(status)
        if job.has_init(around)
        else _told(status, spent, job.limits)
    )


def _reason(status: int, exchange: Exchange) -> str:
    if status == CPU_SPENT:
        return "cpu limit"
    if status > SIGNALLED:
        return f"killed by signal {status - SIGNALLED}"
    return exchange.failure or f"ended early (exit code {status})"


# -- messages between watcher and program ----------------------------------------------------------
#
#   program: text ended -> watcher: the tests -> program: tests ended -> watcher, program: the token
#
# The watcher accepts no other message, and none twice or too early. It requests the tests and draws
# the token only when they are needed. Before that they are in no process of the sandbox.

REPORT_BYTES = 4096


class Exchange:
    """The exchange of messages with one program.

    Args:
        report: Descriptor to read the program's messages.
        orders: Descriptor to write messages to the program.
        tests: Returns the message with the tests; `listen` passes on its exceptions.
    """

    def __init__(self, report: int, orders: int, tests: Callable[[], bytes]) -> None:
        self.report, self.orders = report, orders
        self._tests = tests
        self._said, self._to_say = b"", memoryview(b"")
        self._token = b""
        self._awaited = TEXT_ENDED
        os.set_blocking(orders, False)  # the program may never read

    @property
    def passed(self) -> bool:
        """Whether the program sent all expected messages and nothing else."""
        return bool(self._token) and self._awaited == self._said == self._token

    @property
    def has_more_to_say(self) -> bool:
        return bool(self._to_say)

    @property
    def failure(self) -> str | None:
        """The error that the program reported, or an error for an unexpected message, or None."""
        if self._said[:1] == b"!":
            return "failed: " + "".join(
                chr(byte) if 32 <= byte < 127 else "?" for byte in self._said[1:]
            )
        strange = not self._awaited.startswith(self._said)
        return "failed: wrote to the report" if strange else None

    def listen(self) -> bool:
        """Reads from the program and replies; returns False if the program closed the report."""
        piece = os.read(self.report, REPORT_BYTES)
        self._said = (self._said + piece)[:REPORT_BYTES]
        if self._said == self._awaited == TEXT_ENDED:
            self._said, self._awaited = b"", TESTS_ENDED
            self._to_say = memoryview(self._tests())
            self.say()
        elif self._said == self._awaited == TESTS_ENDED and not self._to_say:
            self._token = self._awaited = os.urandom(TOKEN_BYTES)
            self._said, self._to_say = b"", memoryview(self._token)
            self.say()
        return bool(piece)

    def listen_to_the_rest(self) -> None:
        """Reads the last messages without blocking, as leftover processes may keep it open."""
        os.set_blocking(self.report, False)
        with contextlib.suppress(BlockingIOError):
            while len(self._said) < REPORT_BYTES and self.listen():
                pass

    def say(self) -> None:
        """Writes the pending message, as far as the program reads it."""
        try:
            while self._to_say:
                self._to_say = self._to_say[os.write(self.orders, self._to_say) :]
        except BlockingIOError:
            pass
        except BrokenPipeError:
            self._to_say = memoryview(b"")
