"""The verdict on a program out of two runs of it: the program itself, and a control, which must fail twice.

In the control the tests first end in a failure: a program that passes all the same answered for itself. Then they are run
again, and the program's functions run but give wrong answers (control.py): a program that passes all the same replaced,
skipped or disarmed the tests. Both runs are alike until the first tests in them are over.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from .limits import Limits

FORGED = "failed: passes whatever its tests say"


@dataclass(frozen=True)
class Program:
    """A text to be run, and what is run after it.

    Attributes:
        text: The candidate, or a whole program with its tests in it.
        tests: What tests the candidate, in the same global names; "" if the text is a whole program.
        limits: What one run may use.
        alone: Whether no thread or process of the text may be alive when the tests begin.
        control: The tests must fail.
    """

    text: str
    tests: str
    limits: Limits
    alone: bool
    control: bool = False


@dataclass(frozen=True)
class Run:
    """How one run ended, see `watch.Outcome`."""

    passed: bool
    reason: str
    seconds: float
    starved: bool = False


def judge(run: Callable[[Program], Run], program: Program) -> Run:
    """Returns how ``program`` ended; its time is that of the run itself. Starved if any run was starved."""
    outcome = run(program)
    if not outcome.passed:
        return outcome
    control = run(replace(program, control=True))
    if control.starved:
        return control
    if control.passed and not (program.tests and _ask_nothing(run, program)):
        return replace(outcome, passed=False, reason=FORGED)
    return outcome


def _ask_nothing(run: Callable[[Program], Run], program: Program) -> bool:
    """Returns whether the tests take wrong answers from no program at all: then the control says nothing."""
    return run(replace(program, text="", control=True)).passed
