"""The check of a run against a baseline: has a score become worse?

    baseline, run, rules -> same question? -> per task: errors, harm, non-inferiority, answers,
    rules -> findings -> exit code

docs/reference/regression-findings.md defines every finding.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from dlm_eval.errors import UserError, unknown_name_error
from dlm_eval.reports.files.baseline import Baseline
from dlm_eval.reports.files.runs import Run
from dlm_eval.reports.regression.compare import other_question
from dlm_eval.reports.regression.findings import (
    BROKEN,
    CHANGED,
    NOTE,
    REGRESSION,
    UNPROVEN,
    Finding,
)
from dlm_eval.reports.regression.rules import Rules
from dlm_eval.reports.regression.statistics import holm
from dlm_eval.reports.regression.task_checks import TaskCheck, task_checks
from dlm_eval.reports.regression.verdicts import (
    answer_findings,
    error_findings,
    rule_findings,
    score_findings,
)

PASSED, FAILED_RUN, FAILED_CHECK = 0, 1, 3


@dataclass(frozen=True)
class Report:
    """The result of a check."""

    run: Run
    baseline: Run
    rules: Rules
    tasks: tuple[TaskCheck, ...]
    findings: tuple[Finding, ...]

    def failures(self) -> list[Finding]:
        """Returns the findings that make the check fail."""
        failing = (BROKEN, REGRESSION, *((UNPROVEN, CHANGED) if self.rules.strict else ()))
        return [finding for finding in self.findings if finding.kind in failing]

    @property
    def code(self) -> int:
        """Exit code: 0 passed, 1 broken run, 3 regression."""
        failures = self.failures()
        if any(finding.kind == BROKEN for finding in failures):
            return FAILED_RUN
        return FAILED_CHECK if failures else PASSED

    @property
    def verdict(self) -> str:
        """One word: passed, broken run or regression."""
        return {PASSED: "passed", FAILED_RUN: "broken run", FAILED_CHECK: "regression"}[self.code]


def check(run: Run, baseline: Baseline, rules: Rules | None = None) -> Report:
    """Returns the check of a run against a baseline.

    Raises:
        UserError: the run has another set of tasks or documents, other shots, another chat template
            or other prompts; or a rule is for an unknown task.
    """
    rules = rules or Rules()
    old = baseline.run
    for name in rules.tasks:
        if name not in old.tasks:
            raise unknown_name_error("rules: task", name, old.tasks)
    _check_questions(run, old)
    findings = [Finding(BROKEN, "", f"the run lacks {part}") for part in run.missing]
    tests: list[TaskCheck] = []
    for name, before in old.tasks.items():
        if name not in run.tasks:  # no document was scored; it is among `missing`
            continue
        findings += error_findings(before, run.tasks[name])
        for found in task_checks(before, run.tasks[name], rules, len(old.tasks)):
            if isinstance(found, Finding):
                findings.append(found)
            else:
                tests.append(found)
    tests = _adjusted(tests)
    findings += _verdicts(tests, run, baseline, rules)
    if extra := [name for name in run.tasks if name not in old.tasks]:
        findings.append(Finding(NOTE, "", f"not in the baseline: {', '.join(extra[:5])}"))
    return Report(run, old, rules, tuple(tests), tuple(findings))


def _adjusted(tests: list[TaskCheck]) -> list[TaskCheck]:
    """Returns the tests with p-values after Holm's correction."""
    harm, rise = holm([each.p for each in tests]), holm([each.rise for each in tests])
    return [replace(each, p=p, rise=r) for each, p, r in zip(tests, harm, rise, strict=True)]


def _verdicts(tests: list[TaskCheck], run: Run, baseline: Baseline, rules: Rules) -> list[Finding]:
    """Returns the findings of scores, answers and rules."""
    old, seen, found = baseline.run.tasks, set(), []
    for test in tests:
        before, now = old[test.task], run.tasks[test.task]
        found += score_findings(test, before, now, rules)
        if test.task not in seen:
            found += answer_findings(test, before, now, run, baseline, rules)
        seen.add(test.task)
    for name, own in rules.tasks.items():
        if name in run.tasks:
            found += rule_findings(old[name], run.tasks[name], own)
    return found


def _check_questions(run: Run, old: Run) -> None:
    """Checks that the run answers what the baseline has."""
    for name, before in old.tasks.items():
        now = run.tasks.get(name)
        if now is None:
            if f"scores of {name}" in run.missing:
                continue
            raise UserError(
                f"task '{name}' of the baseline is not in {run.source}, which has "
                f"{', '.join(run.tasks) or 'none'}"
            )
        if not now.documents:
            raise UserError(
                f"task '{name}' cannot be checked: {run.source} has no samples file for it (run it "
                "with --log_samples)"
            )
        if reason := other_question(old, run, name):
            raise UserError(f"task '{name}' cannot be checked: {reason}")
        assert before.documents is not None
        lost = [key for key in before.documents if key not in now.documents]
        added = [key for key in now.documents if key not in before.documents]
        if lost or added:
            first = before.documents[lost[0]] if lost else now.documents[added[0]]
            raise UserError(
                f"task '{name}' cannot be checked: another document set ({len(lost)} of "
                f"{len(before.documents)} documents are missing, {len(added)} are new; first: "
                f"document {first.doc_id}); run with the baseline's --limit and --samples, or save "
                "another baseline"
            )
