"""Tests what a sandbox really blocks, by small programs that attempt each forbidden action.

Each program passes if its attempts are blocked. For a limit that is enforced from outside, the
program is ended and the reason names the limit. Outside the sandbox this module creates only a
temporary file and a listening port.
"""

from __future__ import annotations

import contextlib
import glob
import os
import socket
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Protocol

from .limits import GIB, MIB, Limits


class Outcome(Protocol):
    """How a run ended."""

    @property
    def passed(self) -> bool:
        """Whether the program ran to its end."""

    @property
    def reason(self) -> str:
        """Why it did not pass."""


@dataclass(frozen=True)
class Attempt:
    """A program that attempts one forbidden action.

    Attributes:
        text: The program; ``{file}``, ``{port}``, ``{socket}``, ``{pid}``, ``{python}`` are
            replaced by targets in the harness.
        limits: Its limits.
        ended_by: A reason of the verdict that also shows that the protection works.
        leaves: Name of the process that would remain without the protection; "" if the attempt
            leaves none.
    """

    text: str
    limits: Limits
    ended_by: str = "passed"
    leaves: str = ""


SMALL = Limits(
    10.0, cpu_seconds=2, memory_bytes=256 * MIB, processes=16, file_bytes=MIB, disk_bytes=2 * MIB
)
REFUSED = """
try:
    {attempt}
except (OSError, MemoryError, OverflowError, RuntimeError):
    pass
else:
    raise AssertionError
"""


def _refused(*attempts: str, limits: Limits = SMALL) -> Attempt:
    """Returns a program that passes if each of these statements raises OSError or the like."""
    return Attempt("".join(REFUSED.replace("{attempt}", attempt) for attempt in attempts), limits)


def _fills_disk(attempt: str) -> Attempt:
    """Returns a program that tries to keep eight files of 512 KiB; ``number`` is their index."""
    return Attempt(FILLS_DISK.replace("{attempt}", attempt), SMALL, "disk limit")


FILLS_DISK = """
import mmap, os, time
kept = []
try:
    for number in range(8):
        {attempt}
except OSError:
    pass
else:
    time.sleep(60)
"""
WRITE = "file = open(f'file{number}', 'w+b'); file.write(bytes(1 << 19)); file.flush(); "
FORKS = """
import os, time
try:
    for _ in range({number}):
        if os.fork() == 0:
            {child}
            time.sleep(60)
except OSError:
    pass
else:
    {parent}
"""
SIGNALS = (
    "os.kill({pid}, 0)",
    "fcntl.fcntl(0, fcntl.F_SETOWN, {pid})",
    "fcntl.fcntl(0, 15, struct.pack('ii', 1, {pid}))",  # F_SETOWN_EX
    "fcntl.ioctl(socket.socketpair()[0], 0x8901, struct.pack('i', {pid}))",  # FIOSETOWN
    "signal.pidfd_send_signal(os.pidfd_open({pid}), 0)",
)
LEFTOVER = "dlm-left-over"
# A process that survives its parents, in its own session.
LEAVES = """
import ctypes, os, time
libc = ctypes.CDLL(None)
libc.prctl(1, 0, 0, 0, 0)
libc.prctl(15, b"dlm-left-over", 0, 0, 0)
try:
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            time.sleep(60)
        os._exit(0)
    os.kill(os.getppid(), 9)
except OSError:
    time.sleep(60)
"""
LOADER = """import glob, os
    found = glob.glob('/lib*/ld-*') + glob.glob('/lib*/*/ld-*') + ['/nowhere']
    os.execv(found[0], ['x'])"""
ATTEMPTS = {
    "wall clock": [Attempt("import time\ntime.sleep(60)", replace(SMALL, wall_seconds=0.1), "timed out")],
    "cpu": [Attempt("import resource\nassert resource.getrlimit(resource.RLIMIT_CPU) == (2, 2)", SMALL)],
    "memory": [_refused("bytearray(1 << 28)")],
    "total memory": [
        Attempt(
            FORKS.format(number=4, child="block = b'x' * (80 << 20)", parent="time.sleep(60)"), SMALL, "memory limit"
        )
    ],
    # The memory of a loaded package counts in each process.
    "processes": [
        Attempt(FORKS.format(number=40, child="pass", parent="assert False"), replace(SMALL, memory_bytes=GIB)),
        _refused(
            "import _thread, time\n    for _ in range(40): _thread.start_new_thread(time.sleep, "
            "(60,))",
            limits=replace(SMALL, memory_bytes=GIB),
        ),
    ],
    "leftovers": [Attempt(LEAVES, replace(SMALL, wall_seconds=0.2), "timed out", LEFTOVER)],
    "file size": [_refused("open('big', 'wb').write(bytes(2 << 20))")],
    "disk": [
        _fills_disk(WRITE),
        _fills_disk(WRITE + "os.remove(file.name); kept.append(file)"),
        _fills_disk(WRITE + "kept.append(mmap.mmap(file.fileno(), 1 << 12)); "
                            "os.remove(file.name); file.close()"),
        _fills_disk("os.mkdir(f'{number}', 0o300); os.chdir(f'{number}'); " + WRITE),
        _fills_disk("os.posix_fallocate(os.open(f'file{number}', os.O_CREAT | os.O_WRONLY), 0, 1 "
                    "<< 19)"),
        # Directories nested deeper than any path can reach; the program is ended like any other.
        Attempt(
            "import os\nfor _ in range(1200):\n    os.mkdir('d')\n    os.chdir('d')\nimport "
            "time\ntime.sleep(60)",
            replace(SMALL, wall_seconds=0.2, disk_bytes=64 * MIB),
            "timed out",
        ),
    ],
    "network": [
        _refused(
            "import socket; socket.create_connection(('127.0.0.1', {port}), 1)",
            "import socket; socket.socketpair(type=socket.SOCK_DGRAM)[0].sendto(b'x', {socket})",
            "import socket; socket.socketpair(type=socket.SOCK_SEQPACKET)[0].sendto(b'x', "
            "{socket})",
        )
    ],
    "files": [
        _refused(
            "open('{file}').read()",
            "import os; os.remove('{file}')",
            "import os; os.truncate('{file}', 0)",
            "import os; os.chmod('{file}', 0)",
            "import os; os.utime('{file}')",
            # This could truncate a readable file before Linux 6.2. The program tries it on a file
            # of its own, since it might succeed.
            "import os; open('own', 'w').close(); os.open('own', os.O_RDONLY | os.O_TRUNC)",
            "open('/etc/passwd').read()",
        )
    ],
    "other processes": [_refused(*("import fcntl, os, signal, socket, struct; " + signal for signal in SIGNALS))],
    # The Python that runs the program, and the library loader, which always exists.
    "other programs": [_refused("import os; os.execv('{python}', ['x'])", LOADER)],
    "environment": [
        Attempt("import os\nassert set(os.environ) == {'HOME', 'TMPDIR', 'LANG', "
                "'OMP_NUM_THREADS'}", SMALL)
    ],
    "no privileges": [_refused("import os; os.setuid(0), os.chroot('.')")],
}  # fmt: skip
NAMES = tuple(ATTEMPTS)
# If programs may import a package: it cannot be changed, and its neighbours cannot be imported.
PACKAGE_NAME = "read-only package"
PACKAGE_ATTEMPT = Attempt(
    "import {package}\n"
    + REFUSED.replace("{attempt}", "open({package}.__file__, 'a')")
    + "try:\n    import dlm_eval\nexcept (ImportError, OSError):\n    pass\nelse:\n    raise "
    "AssertionError",
    SMALL,
)


def held(run: Callable[[str, Limits], Outcome], package: str = "") -> tuple[str, ...]:
    """Returns the protections (of NAMES) that work for programs run by ``run``.

    Args:
        run: Runs a program.
        package: Package that programs may import beside the standard library, or "".

    Raises:
        RuntimeError: Not even a harmless program passes, or the package cannot be imported.
    """
    harmless = run(f"import {package or 'math'}\nassert 1 + 1 == 2", Limits())
    if not harmless.passed:
        raise RuntimeError(f"the sandbox for generated code does not work here: {harmless.reason}")
    attempts = {**ATTEMPTS, **({PACKAGE_NAME: [PACKAGE_ATTEMPT]} if package else {})}
    with _targets() as targets:
        targets["package"] = package
        return tuple(
            name
            for name, several in attempts.items()
            if all(_holds(run, attempt, targets) for attempt in several)
        )


def _holds(
    run: Callable[[str, Limits], Outcome], attempt: Attempt, targets: dict[str, str]
) -> bool:
    text = attempt.text
    for name, value in targets.items():
        text = text.replace("{" + name + "}", value)
    outcome = run(text, attempt.limits)
    if attempt.leaves and attempt.leaves in _process_names():
        return False
    return outcome.passed or outcome.reason == attempt.ended_by


def _process_names() -> set[str]:
    """Returns the names of all processes; empty if there is no proc file system."""
    found = set()
    for path in glob.glob("/proc/[0-9]*/comm"):
        with contextlib.suppress(OSError), open(path) as file:
            found.add(file.read().strip())
    return found


@contextlib.contextmanager
def _targets() -> Iterator[dict[str, str]]:
    """Yields targets in the harness that a program without a sandbox could reach."""
    with (
        tempfile.TemporaryDirectory() as directory,
        socket.create_server(("127.0.0.1", 0)) as listener,
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as mailbox,
    ):
        os.chmod(directory, 0o777)  # only a sandbox protects the file
        path = os.path.join(directory, "file")
        with open(path, "w") as file:
            file.write("reachable")
        os.chmod(path, 0o666)
        name = os.path.join(directory, "socket")
        if sys.platform == "linux":
            name = f"\0dlm-eval-{os.getpid()}"  # abstract: no file permissions protect it
        mailbox.bind(name)
        yield {
            "file": path, "port": str(listener.getsockname()[1]), "socket": repr(name), "pid": str(os.getpid()),
            "python": os.path.realpath(getattr(sys, "_base_executable", None) or sys.executable),
        }  # fmt: skip
