"""`dlm-eval run --suite`: runs a suite, prints the table of each run, and at the end one table of
all entries beside the published figures.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from dlm_eval.errors import RunError, UserError
from dlm_eval.output import one_line

if TYPE_CHECKING:
    from dlm_eval.harness.run import Finished
    from dlm_eval.harness.saving import Reports
    from dlm_eval.harness.suite_run import SuitePlan, SuiteRun


def run_suite(
    values: Mapping[str, Any],
    reports: Reports,
    ask: Callable[[list[str]], bool] | None,
    show_config: bool,
) -> int:
    """Runs the suite of `values`; returns 0, or 1 if an entry or a sample failed.

    Raises:
        RunError: the runs are saved, but a metric, the leaderboard or a report is missing.
    """
    from dlm_eval.harness import suite_run
    from dlm_eval.harness.run_settings import output_directory
    from dlm_eval.reports.run.report import report, say
    from dlm_eval.reports.run.suite_report import lines, write_csv

    plan = suite_run.plan_suite(values, ask)
    if plan.settings.dry_run:
        return _dry_run(plan)
    missing: list[str] = []

    def done(one: SuiteRun, finished: Finished) -> None:
        path = str(one.settings.output_path)
        shown, lost = report(finished, path, show_config)
        missing.extend(lost)
        sent = (finished.results, one.settings.log_samples, output_directory(path))
        missing.extend(reports.send(*sent))
        say([*shown, ""])

    finished = suite_run.run_suite(plan, done, ask)
    say(lines(finished))
    try:
        if (file := write_csv(finished)) is not None:
            say([f"table: {one_line(str(file))}"])
    except UserError as error:
        missing.append(f"the suite's table ({error})")
    if missing:
        lost = "; ".join(dict.fromkeys(missing))
        raise RunError(f"missing: {lost}; everything else is saved")
    return 1 if finished.failed else 0


def _dry_run(plan: SuitePlan) -> int:
    """Prints what each run would do; returns 0, or 1 if an entry or requests would fail."""
    from dlm_eval.errors import DlmEvalError
    from dlm_eval.harness.dry_run import dry_run
    from dlm_eval.harness.suite_run import apart
    from dlm_eval.reports.run.plan import lines, total_lines

    refused, waiting, plans = False, list(plan.runs), []
    failed: dict[str, list[str]] = {}  # error -> entries, which often share one
    while waiting:
        one = waiting.pop(0)
        names = ", ".join(entry.entry for entry in one.entries)
        try:
            found = dry_run(one.settings)
        except DlmEvalError as error:
            if len(one.entries) > 1:
                waiting[:0] = apart(one)
                continue
            failed.setdefault(str(error), []).append(names)
            continue
        plans.append(found)
        refused |= any(task.refused for task in found.tasks)
        print(one_line(f"== {names}") + "\n" + "\n".join(lines(found)) + "\n")
    for reason, entries in failed.items():
        print(one_line(f"== {', '.join(entries)}: {reason}"))
    for name, reason in plan.skipped.items():
        print(one_line(f"== {name}: skipped: {reason}"))
    for line in total_lines(plans):
        print(line)
    sys.stdout.flush()
    return 1 if refused or failed else 0
