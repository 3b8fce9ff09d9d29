"""What a sandbox really holds off: small programs that try each forbidden thing.

Each program passes if it was held off (or, for a limit kept from outside, is ended with the limit's name as reason).
Nothing is done outside beyond a temporary file and a listening port of our own.
"""

from __future__ import annotations

import contextlib
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
        """The program ran to its end."""

    @property
    def reason(self) -> str:
        """Why it did not."""


@dataclass(frozen=True)
class Attempt:
    """A program that tries one forbidden thing.

    Attributes:
        text: The program; ``{file}``, ``{port}``, ``{pid}``, ``{python}`` stand for things of the harness.
        limits: What it may use.
        ended_by: The reason of the verdict that also shows that the protection holds.
    """

    text: str
    limits: Limits
    ended_by: str = "passed"


SMALL = Limits(10.0, cpu_seconds=2, memory_bytes=256 * MIB, processes=16, file_bytes=MIB, disk_bytes=2 * MIB)
REFUSED = """
try:
    {attempt}
except (OSError, MemoryError, OverflowError):
    pass
else:
    raise AssertionError
"""
ATTEMPTS = {
    "wall clock": Attempt("import time\ntime.sleep(60)", replace(SMALL, wall_seconds=0.1), "timed out"),
    "cpu": Attempt("import resource\nassert resource.getrlimit(resource.RLIMIT_CPU) == (2, 2)", SMALL),
    "memory": Attempt(REFUSED.replace("{attempt}", "bytearray(1 << 28)"), SMALL),
    "total memory": Attempt(
        "import os, time\n"
        "try:\n"
        "    for _ in range(4):\n"
        "        if os.fork() == 0:\n"
        "            block = b'x' * (80 << 20)\n"
        "            time.sleep(60)\n"
        "except OSError:\n"
        "    pass\n"
        "else:\n"
        "    time.sleep(60)",
        SMALL,
        "memory limit",
    ),
    "processes": Attempt(
        "import os, time\n"
        "try:\n"
        "    for _ in range(40):\n"
        "        if os.fork() == 0:\n"
        "            time.sleep(60)\n"
        "except OSError:\n"
        "    pass\n"
        "else:\n"
        "    raise AssertionError",
        replace(SMALL, memory_bytes=GIB),  # a package that is loaded counts in each of them
    ),
    "file size": Attempt(REFUSED.replace("{attempt}", "open('big', 'wb').write(bytes(2 << 20))"), SMALL),
    "disk": Attempt(
        "import time\n"
        "try:\n"
        "    for number in range(8):\n"
        "        open(f'file{number}', 'wb').write(bytes(1 << 19))\n"
        "except OSError:\n"
        "    pass\n"
        "else:\n"
        "    time.sleep(60)",
        SMALL,
        "disk limit",
    ),
    "network": Attempt(
        "import socket\n" + REFUSED.replace("{attempt}", "socket.create_connection(('127.0.0.1', {port}), 1)"), SMALL
    ),
    "files": Attempt(
        REFUSED.replace("{attempt}", "open('{file}').read()")
        + "import os\n" + REFUSED.replace("{attempt}", "os.remove('{file}')")
        + REFUSED.replace("{attempt}", "open('/etc/passwd').read()"),
        SMALL,
    ),
    "other processes": Attempt("import os\n" + REFUSED.replace("{attempt}", "os.kill({pid}, 0)"), SMALL),
    "other programs": Attempt("import os\n" + REFUSED.replace("{attempt}", "os.execv('{python}', ['x'])"), SMALL),
    "environment": Attempt(
        "import os\nassert set(os.environ) == {'HOME', 'TMPDIR', 'LANG', 'OMP_NUM_THREADS'}", SMALL
    ),
    "no privileges": Attempt("import os\n" + REFUSED.replace("{attempt}", "os.setuid(0), os.chroot('.')"), SMALL),
}  # fmt: skip
NAMES = tuple(ATTEMPTS)
# where programs may import a package: it cannot be changed, and nothing beside it is in reach
PACKAGE_NAME = "read-only package"
PACKAGE_ATTEMPT = Attempt(
    "import {package}\n"
    + REFUSED.replace("{attempt}", "open({package}.__file__, 'a')")
    + "try:\n    import dlm_eval\nexcept (ImportError, OSError):\n    pass\nelse:\n    raise AssertionError",
    SMALL,
)


def held(run: Callable[[str, Limits], Outcome], package: str = "") -> tuple[str, ...]:
    """Returns those of NAMES that hold for programs that ``run`` runs.

    Args:
        run: Runs a program.
        package: What programs may import beside the standard library, or "".

    Raises:
        RuntimeError: Not even a harmless program passes, or the package cannot be imported.
    """
    harmless = run(f"import {package or 'math'}\nassert 1 + 1 == 2", Limits())
    if not harmless.passed:
        raise RuntimeError(f"the sandbox for generated code does not work here: {harmless.reason}")
    attempts = {**ATTEMPTS, **({PACKAGE_NAME: PACKAGE_ATTEMPT} if package else {})}
    with _targets() as targets:
        targets["package"] = package
        return tuple(name for name, attempt in attempts.items() if _holds(run, attempt, targets))


def _holds(run: Callable[[str, Limits], Outcome], attempt: Attempt, targets: dict[str, str]) -> bool:
    text = attempt.text
    for name, value in targets.items():
        text = text.replace("{" + name + "}", value)
    outcome = run(text, attempt.limits)
    return outcome.passed or outcome.reason == attempt.ended_by


@contextlib.contextmanager
def _targets() -> Iterator[dict[str, str]]:
    """Yields things of ours that a program outside a sandbox could reach."""
    with tempfile.TemporaryDirectory() as directory, socket.create_server(("127.0.0.1", 0)) as listener:
        os.chmod(directory, 0o777)  # so that only a sandbox stands before the file
        path = os.path.join(directory, "file")
        with open(path, "w") as file:
            file.write("reachable")
        os.chmod(path, 0o666)
        yield {"file": path, "port": str(listener.getsockname()[1]), "pid": str(os.getpid()), "python": sys.executable}
