"""One server process, seen from the harness: start, requests and end.

By default programs can import only the standard library, so scores do not depend on what else is
installed. Another package is added only if a program's tests need it (dlm_eval/metrics). The
harness finds the package's folders; programs can only read them.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import select
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from typing import Any

from . import namespaces, wire
from .judge import Program, Run
from .limits import latest


@dataclass(frozen=True)
class Packages:
    """The package of one server beside the standard library.

    Attributes:
        name: name of the package; "" for none.
        folders: its folder, and those of the libraries that its files need.
    """

    name: str = ""
    folders: tuple[str, ...] = ()


def numpy_files() -> Packages:
    """Returns the numpy that the harness itself uses.

    Raises:
        LookupError: It is not installed as files.
    """
    found = importlib.util.find_spec("numpy")
    if found is None or found.origin is None:
        raise LookupError("numpy is not installed")
    folder = os.path.dirname(os.path.realpath(found.origin))
    libraries = folder + ".libs"  # where wheels keep the libraries that their files link
    return Packages("numpy", (folder, libraries) if os.path.isdir(libraries) else (folder,))


START_SECONDS, GRACE_SECONDS, STOP_SECONDS = 20.0, 10.0, 5.0
HERE = os.path.dirname(os.path.abspath(__file__))
# The server must not import the rest of dlm_eval or its dependencies, so this directory becomes a
# package by itself. The working directory is removed from the path first, so that no file there is
# imported as a module.
BOOT = """
import sys
sys.path[:] = [place for place in sys.path if place]
import types
package = types.ModuleType("sandbox"); package.__path__ = [sys.argv[1]]; sys.modules["sandbox"] = package
from sandbox.server import main
main(int(sys.argv[2]), int(sys.argv[3]), sys.argv[4], sys.argv[5], sys.argv[6:])
"""
# The server's environment beside PASSED_ON. The hash seed is fixed, so that verdicts are
# reproducible.
ENVIRONMENT = {"PYTHONHASHSEED": "0", "LANG": "C.UTF-8", "OMP_NUM_THREADS": "1"}
# Without these the same executable may start another Python, or none.
PASSED_ON = (namespaces.LIBRARY_PATH, "PYTHONHOME")


class ServerGone(Exception):
    """The server did not start, ended, hung, or could not run a program."""


class Server:
    """One running server of a kind (runner.KINDS). Its programs may import `packages` too.

    Raises:
        ServerGone: It cannot be started; the message gives the reason.
    """

    def __init__(self, kind: str, packages: Packages = Packages()) -> None:  # noqa: B008 (a frozen value)
        inward, self._requests = os.pipe()
        self._replies, outward = os.pipe()
        python = os.path.realpath(getattr(sys, "_base_executable", None) or sys.executable)
        command = [python, "-s", "-S", "-B", "-c", BOOT, HERE, str(inward), str(outward), kind]
        command += [packages.name, *packages.folders]
        nothing = subprocess.DEVNULL
        try:
            self._process = subprocess.Popen(
                command,
                env=ENVIRONMENT | {name: os.environ[name] for name in PASSED_ON if name in os.environ},
                cwd="/", stdin=nothing, stdout=nothing, stderr=nothing,
                pass_fds=(inward, outward), start_new_session=True,
            )  # fmt: skip
        except OSError as error:
            os.close(self._requests)
            os.close(self._replies)
            raise ServerGone(str(error)) from error
        finally:
            os.close(inward)
            os.close(outward)
        self._await_start()

    def _await_start(self) -> None:
        try:
            started = self._receive(START_SECONDS)
        except ServerGone:
            self.stop()
            raise
        refused = started["refused"]
        if not refused and started["python"] != sys.version:
            refused = f"another Python would judge: {started['python']}, not {sys.version}"
        if refused:
            self.stop()
            raise ServerGone(refused)

    @property
    def alive(self) -> bool:
        return self._process.poll() is None

    def run(self, program: Program) -> Run:
        """Returns how one run of ``program`` ended."""
        deadline = time.monotonic() + latest(program.limits.wall_seconds) + GRACE_SECONDS
        how = {"alone": program.alone, "apart": program.apart}
        self._send({"text": program.text, "limits": asdict(program.limits), **how})
        reply = self._receive(deadline - time.monotonic())
        if "wanted" in reply:  # the text has ended
            self._send({"tests": program.tests, "control": program.control})
            reply = self._receive(deadline - time.monotonic())
        if "error" in reply:
            raise ServerGone(reply["error"])
        return Run(**reply)

    def _send(self, message: dict[str, Any]) -> None:
        try:
            wire.send(self._requests, message)
        except OSError as error:
            raise ServerGone("the server ended") from error

    def _receive(self, seconds: float) -> dict[str, Any]:
        ready = select.poll()
        ready.register(self._replies, select.POLLIN)
        reply = wire.receive(self._replies) if ready.poll(max(0.0, seconds) * 1000) else None
        if reply is None:
            raise ServerGone("the server ended or hung")
        return reply

    def stop(self) -> None:
        """Ends the server and everything that it runs."""
        with contextlib.suppress(OSError):
            os.close(self._requests)  # the server then ends its program and itself
        try:
            self._process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        with contextlib.suppress(OSError):
            os.close(self._replies)
