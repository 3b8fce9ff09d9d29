"""The verdict on a program out of several runs of it: the program itself, and two controls, which must fail.

A program that passes must not pass if its tests end in a failure: then it answered for itself. Nor must it pass if its
functions run but give wrong answers (control.py): then it replaced, skipped or disarmed the tests. All runs are alike
until the tests have arrived.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from .limits import Limits

CERTAIN_FAILURE = "\nraise AssertionError('end of program')\n"
FORGED = "failed: passes whatever its tests say"


@dataclass(frozen=True)
class Program:
    """A text to be run, and what is run after it.

    Attributes:
        text: The candidate, or a whole program with its tests in it.
        tests: What tests the candidate, in the same global names; "" if the text is a whole program.
        limits: What one run may use.
        alone: Whether no thread or process of the text may be alive when the tests begin.
        spoilt: The tests find wrong answers.
    """

    text: str
    tests: str
    limits: Limits
    alone: bool
    spoilt: bool = False


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
    for control in (
        replace(program, tests=program.tests + CERTAIN_FAILURE),
        *([replace(program, spoilt=True)] if program.tests else []),
    ):
        checked = run(control)
        if checked.starved:
            return checked
        if checked.passed and not (control.spoilt and _ask_nothing(run, program)):
            return replace(outcome, passed=False, reason=FORGED)
    return outcome


def _ask_nothing(run: Callable[[Program], Run], program: Program) -> bool:
    """Returns whether the tests take wrong answers from no program at all: then the control says nothing."""
    return run(replace(program, text="", spoilt=True)).passed
