"""The sandbox as the harness uses it: programs in, verdicts out, several at once.

    sandbox = Sandbox()
    sandbox.run("assert 1 + 1 == 2")          # Verdict(passed=True, reason="passed", ...)
    sandbox.run("def f(x): return x + 1", tests="assert f(1) == 2")  # they come later
    sandbox.run_many(programs, workers=4)     # in the order of the programs

Two kinds of sandbox are tried, the better one first: ``namespaces`` (made with plain system calls)
and ``plain`` (resource limits, a system call filter and Landlock). docs/reference/sandbox.md lists what each
one blocks. `Sandbox.protections` tests which protections work on this machine.
"""

from __future__ import annotations

import atexit
import contextlib
import logging
import os
import threading
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

from . import probe
from .judge import Program, Run, judge
from .limits import Limits
from .link import Packages, Server, ServerGone

KINDS = ("namespaces", "plain")
DEFAULT_LIMITS = Limits()

log = logging.getLogger("dlm_eval")


@dataclass(frozen=True)
class Verdict:
    """The verdict on one program.

    Attributes:
        passed: Whether the whole text and its tests ran to their end, within all limits.
        reason: "passed", "failed: <exception>", "timed out", "cpu limit", "memory limit", "disk
            limit", ... The program may choose the text of a failure.
        seconds: Wall-clock time of the run.
        protections: The protections that work here (`Sandbox.protections`).
        ran: Whether the program was run. If not, the sandbox failed, not the program.
    """

    passed: bool
    reason: str
    seconds: float
    protections: tuple[str, ...] = ()
    ran: bool = True


class Unavailable(RuntimeError):
    """No sandbox is available on this machine."""


class Sandbox:
    """A pool of servers of one kind.

    Args:
        kind: One of KINDS; None takes the first that the kernel allows.
        packages: Packages that programs may import beside the standard library.

    Attributes:
        wanted: The requested kind, or None.
        kind: The kind in use; None before the first program.
        refused: Kinds that were tried before and are not available, with reasons.
    """

    def __init__(self, kind: str | None = None, packages: Packages = Packages()) -> None:  # noqa: B008 (frozen)
        if kind not in (None, *KINDS):
            raise ValueError(f"sandbox kind '{kind}' is not known; allowed: {', '.join(KINDS)}")
        self.wanted = kind
        self._packages = packages
        self.kind: str | None = None
        self.refused: dict[str, str] = {}
        self._idle: list[Server] = []
        self._owner = os.getpid()
        self._lock = threading.RLock()
        self._turns = Turns()
        self._protections: tuple[str, ...] | None = None
        atexit.register(self.close)

    def run(self, program: str, limits: Limits = DEFAULT_LIMITS, tests: str = "") -> Verdict:
        """Returns the verdict on one program (Python source text).

        Args:
            program: The program to judge; it contains its tests if there are no ``tests``.
            limits: Limits of one run.
            tests: Code that runs after ``program`` with the same global names. It reaches the
                process only when ``program`` has run to its end, so the program cannot see it.

        Raises:
            Unavailable: No sandbox is available on this machine.
        """
        protections = self.protections()
        return replace(self._verdict(program, limits, tests), protections=protections)

    def run_many(
        self,
        programs: Iterable[str | tuple[str, str]],
        workers: int | None = None,
        limits: Limits = DEFAULT_LIMITS,
    ) -> list[Verdict]:
        """Returns the verdicts on ``programs``, in their order.

        Args:
            programs: each a text, or a text and its tests (`run`).
            workers: number of programs run at once; None for one per CPU.
            limits: Limits of one run.
        """
        pairs = [(program, "") if isinstance(program, str) else program for program in programs]
        with ThreadPoolExecutor(workers or available_cpus()) as pool:
            return list(pool.map(lambda pair: self.run(pair[0], limits, pair[1]), pairs))

    def start(self) -> None:
        """Starts a server, which determines the kind.

        Raises:
            Unavailable: No sandbox is available on this machine.
        """
        try:
            self._give_back(self._take(fresh=False))
        except ServerGone as error:
            raise Unavailable(f"no sandbox for generated code can be had here: {error}") from error

    def protections(self) -> tuple[str, ...]:
        """Returns the kind of sandbox, then the names of the protections that work.

        Each was tested once by a program that attempts the forbidden action. The other names of
        probe.NAMES do not work here.
        """
        with self._lock:
            if self._protections is None:
                held = probe.held(self._verdict, self._packages.name)
                named = (self._packages.name,) if self._packages.name else ()
                self._protections = (str(self.kind), *named, *held)
                self._log_protections()
            return self._protections

    def close(self) -> None:
        """Ends all idle servers."""
        with self._lock:
            servers, self._idle = self._idle, []
        if self._owner == os.getpid():  # after a fork they belong to the parent
            for server in servers:
                server.stop()

    def _verdict(self, text: str, limits: Limits, tests: str = "") -> Verdict:
        program = Program(text, tests, limits, alone=bool(tests))
        try:
            with self._turns.shared():
                outcome = self._outcome(program)
            if outcome.starved:  # repeat it with no other program of ours running
                with self._turns.alone():
                    outcome = self._outcome(program)
        except ServerGone as error:
            return Verdict(False, f"sandbox error: {error}", 0.0, ran=False)
        return Verdict(outcome.passed, outcome.reason, outcome.seconds, ran=not outcome.starved)

    def _outcome(self, program: Program) -> Run:
        """Returns how the program ended.

        Raises:
            ServerGone: The sandbox could not run it.
        """
        reason = ""
        # A server may have been killed from outside, so repeat once with a new one.
        for fresh in (False, True):
            server = None
            try:
                server = self._take(fresh)
                outcome = judge(server.run, program)
            except ServerGone as error:
                reason = str(error)
                if server is not None:
                    server.stop()
            else:
                self._give_back(server)
                return outcome
        raise ServerGone(reason)

    def _take(self, fresh: bool) -> Server:
        with self._lock:
            if self._owner != os.getpid():
                self._idle, self._owner = [], os.getpid()
            self._bury_the_dead()
            if self._idle and not fresh:
                return self._idle.pop()
            if self.kind is None:
                return self._first_server()
        return Server(self.kind, self._packages)

    def _bury_the_dead(self) -> None:
        for server in [server for server in self._idle if not server.alive]:
            server.stop()
            self._idle.remove(server)

    def _first_server(self) -> Server:
        for kind in KINDS if self.wanted is None else (self.wanted,):
            try:
                server = Server(kind, self._packages)
            except ServerGone as error:
                self.refused[kind] = str(error)
                continue
            self.kind = kind
            if self.refused:
                log.warning(
                    "sandbox for generated code: kind '%s', the lesser one (%s)",
                    kind,
                    self._refusals(),
                )
            return server
        raise Unavailable("no sandbox for generated code can be had here: " + self._refusals())

    def _give_back(self, server: Server) -> None:
        with self._lock:
            self._idle.append(server)

    def _refusals(self) -> str:
        return (
            "; ".join(f"{kind}: {why}" for kind, why in self.refused.items())
            or "no better kind was refused"
        )

    def _log_protections(self) -> None:
        held = self._protections or ()
        wanted = (*probe.NAMES, *([probe.PACKAGE_NAME] if self._packages.name else []))
        missing = [name for name in wanted if name not in held]
        log.info("sandbox for generated code: %s", ", ".join(held))
        if missing:
            log.warning(
                "sandbox for generated code does NOT hold: %s (%s)",
                ", ".join(missing),
                self._refusals(),
            )


def available_cpus() -> int:
    """Returns the number of CPUs that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class Turns:
    """A lock with shared and exclusive turns: many threads at once, or one thread `alone`.

    A thread that waits for an exclusive turn precedes all later ones, so it waits only for the
    present turns to end.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._sharing = 0
        self._taken = False  # by a thread that is alone or waits for the others

    @contextlib.contextmanager
    def shared(self) -> Iterator[None]:
        with self._changed:
            self._changed.wait_for(lambda: not self._taken)
            self._sharing += 1
        try:
            yield
        finally:
            with self._changed:
                self._sharing -= 1
                self._changed.notify_all()

    @contextlib.contextmanager
    def alone(self) -> Iterator[None]:
        with self._changed:
            self._changed.wait_for(lambda: not self._taken)
            self._taken = True
            self._changed.wait_for(lambda: not self._sharing)
        try:
            yield
        finally:
            with self._changed:
                self._taken = False
                self._changed.notify_all()
