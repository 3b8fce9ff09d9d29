"""The sandbox for generated code.

runner.py shows how to use it. docs/reference/sandbox.md lists what it blocks.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable

from .limits import Limits
from .link import numpy_files
from .runner import DEFAULT_LIMITS, KINDS, Sandbox, Unavailable, Verdict

__all__ = [
    "KINDS",
    "UNSANDBOXED",
    "Limits",
    "Sandbox",
    "Unavailable",
    "Verdict",
    "protections",
    "run",
    "run_many",
    "use",
    "with_numpy",
]

UNSANDBOXED = "UNSANDBOXED"  # label in results and tables of programs that ran outside
_default = Sandbox()


def use(kind: str | None = None) -> None:
    """Starts a sandbox of this kind and makes all functions here use it.

    Args:
        kind: One of KINDS; None for the best available one.

    Raises:
        Unavailable: This machine cannot provide it.
    """
    global _default
    if kind != _default.wanted:
        _default.close()
        _default = Sandbox(kind)
        with_numpy.cache_clear()
    _default.start()


def run(program: str, limits: Limits = DEFAULT_LIMITS, tests: str = "") -> Verdict:
    """Returns the verdict on one program in the best available sandbox (`Sandbox.run`)."""
    return _default.run(program, limits, tests)


def run_many(
    programs: Iterable[str | tuple[str, str]],
    workers: int | None = None,
    limits: Limits = DEFAULT_LIMITS,
) -> list[Verdict]:
    """Returns the verdicts on ``programs``, in their order (`Sandbox.run_many`)."""
    return _default.run_many(programs, workers, limits)


@functools.cache
def with_numpy() -> Sandbox:
    """Returns the sandbox for programs whose tests import numpy.

    Raises:
        Unavailable: numpy is not installed as files.
    """
    try:
        return Sandbox(_default.wanted, numpy_files())
    except LookupError as error:
        raise Unavailable(str(error)) from error


def protections() -> tuple[str, ...]:
    """Returns the kind of sandbox and the protections that work here. Each has been tested."""
    return _default.protections()
