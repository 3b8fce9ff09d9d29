"""`dlm-eval check`: has a run become worse than its baseline?"""

from __future__ import annotations

import argparse
import secrets
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dlm_eval.cli.options import add_run, path_of

if TYPE_CHECKING:
    from dlm_eval.reports.regression.check import Report

DESCRIPTION = """
Checks a run against a baseline on the same documents (docs/guides/regression.md).

exit codes: 0 passed; 1 the run is broken (errors, missing scores); 2 a mistake, or another set of
documents or prompts; 3 regression
"""


def add_parser(subparsers: Any) -> None:
    """Adds `check`."""
    parser = subparsers.add_parser(
        "check", help="has a run become worse than its baseline? (exit code 3)",
        description=DESCRIPTION, formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )  # fmt: skip
    add_run(parser)
    parser.add_argument(
        "--baseline", type=path_of("--baseline"), required=True, metavar="FILE",
        help="file of `dlm-eval baseline save`",
    )  # fmt: skip
    parser.add_argument(
        "--alpha", type=float, metavar="P", help="level of the tests of harm over all tasks (0.01)"
    )
    parser.add_argument(
        "--margin", type=float, metavar="SHARE",
        help="drop that must be excluded, as a share of the metric's scale (0.02)",
    )  # fmt: skip
    parser.add_argument(
        "--strict", action="store_true", default=None,
        help="fail also if a drop beyond the margin cannot be excluded, or if answers changed",
    )  # fmt: skip
    parser.add_argument(
        "--rules", type=path_of("--rules"), metavar="FILE.yaml",
        help="alpha, margin, strict, and floors, drops and cost budgets per task",
    )  # fmt: skip
    parser.add_argument(
        "--markdown", type=path_of("--markdown"), metavar="FILE",
        help="append a summary: a job summary, or the body of a pull-request comment",
    )  # fmt: skip
    parser.add_argument(
        "--junit", type=path_of("--junit"), metavar="FILE.xml", help="write JUnit XML"
    )
    parser.add_argument(
        "--github", action="store_true", help="print annotations for GitHub workflows too"
    )
    parser.set_defaults(main=main)


def main(args: argparse.Namespace) -> int:
    """Prints the check and writes its files; returns 0, 1 (broken run) or 3 (regression).

    Raises:
        UserError: see `check` and `read_rules`; or a file cannot be written.
    """
    from dlm_eval.errors import UserError
    from dlm_eval.reports.files.write import write_files
    from dlm_eval.reports.regression.formats import (
        github_annotations,
        github_mistake,
        junit,
        markdown,
        markdown_mistake,
        text,
    )

    try:
        report = _report(args)
    except UserError as error:  # it is to be read where a result would be
        if args.markdown is not None:
            _append(args.markdown, markdown_mistake(str(error)))
        if args.github:
            print(github_mistake(str(error)))
        raise
    if args.junit is not None:
        write_files({args.junit: junit(report)})
    if args.markdown is not None:
        _append(args.markdown, markdown(report))
    lines = list(text(report))
    if args.github:  # GitHub would obey commands in names and reasons
        token = secrets.token_hex(16)
        lines = [f"::stop-commands::{token}", *lines, f"::{token}::", *github_annotations(report)]
    print("\n".join(lines))
    return report.code


def _report(args: argparse.Namespace) -> Report:
    from dlm_eval.reports.files.baseline import read_baseline
    from dlm_eval.reports.files.runs import read_run
    from dlm_eval.reports.regression.check import check
    from dlm_eval.reports.regression.rules import read_rules

    given = {name: getattr(args, name) for name in ("alpha", "margin", "strict")}
    rules = read_rules(args.rules, {k: v for k, v in given.items() if v is not None}, "--")
    baseline = read_baseline(args.baseline)
    return check(read_run(args.run), baseline, rules)


def _append(path: Path, added: str) -> None:
    """Appends to a file: $GITHUB_STEP_SUMMARY can hold the summaries of several steps."""
    from dlm_eval.errors import UserError
    from dlm_eval.printable import valid_unicode

    try:
        with path.open("a", encoding="utf-8") as file:
            file.write(valid_unicode(added))
    except (OSError, ValueError) as error:  # ValueError: a path with a NUL
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"--markdown '{path}' cannot be written: {reason}") from error
