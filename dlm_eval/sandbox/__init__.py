"""The sandbox for generated code: runner.py shows its use, docs/sandbox.md what it holds off."""

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

UNSANDBOXED = "UNSANDBOXED"  # what results and tables say of programs that ran outside
_default = Sandbox()


def use(kind: str | None = None) -> None:
    """Makes all functions here take this kind of sandbox and no other, and starts it.

    Args:
        kind: One of KINDS; None for the best that can be had.

    Raises:
        Unavailable: It cannot be had here.
    """
    global _default
    if kind != _default.wanted:
        _default.close()
        _default = Sandbox(kind)
        with_numpy.cache_clear()
    _default.start()


def run(program: str, limits: Limits = DEFAULT_LIMITS, tests: str = "") -> Verdict:
    """Returns the verdict on one program in the best sandbox here, see `Sandbox.run`."""
    return _default.run(program, limits, tests)


def run_many(
    programs: Iterable[str | tuple[str, str]],
    workers: int | None = None,
    limits: Limits = DEFAULT_LIMITS,
) -> list[Verdict]:
    """Returns the verdicts on ``programs`` in their order, see `Sandbox.run_many`."""
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
    """Returns the kind of sandbox and the protections that hold here, each tried."""
    return _default.protections()
