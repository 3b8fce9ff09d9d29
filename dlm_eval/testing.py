"""Regression tests of models and code, for pytest.

from dlm_eval.testing import assert_no_regression

def test_model_is_as_good_as_before():
    results = evaluate("mymodel", ["gsm8k"], ...)
    assert_no_regression(results, "baselines/mymodel.jsonl.gz")
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dlm_eval.reports.regression.check import Report


def assert_no_regression(
    run: str | Path | Mapping[str, Any],
    baseline: str | Path,
    *,
    alpha: float | None = None,
    margin: float | None = None,
    strict: bool | None = None,
    rules: str | Path | None = None,
) -> Report:
    """Returns the check of a run against a baseline if it passes.

    Args:
        run: a result file, a folder (its newest run is taken), or results that `evaluate` returned.
        baseline: a file of `dlm-eval baseline save`.
        alpha, margin, strict: as in `dlm-eval check`; None for those of `rules`, else the defaults.
        rules: a YAML file of rules.

    Raises:
        AssertionError: a regression, or a broken run; the message is the report.
        UserError: the run cannot be checked against the baseline.
    """
    from dlm_eval.reports.files.baseline import read_baseline
    from dlm_eval.reports.files.runs import read_run, run_of
    from dlm_eval.reports.regression.check import check
    from dlm_eval.reports.regression.formats import text
    from dlm_eval.reports.regression.rules import read_rules

    given = {"alpha": alpha, "margin": margin, "strict": strict}
    parsed = read_rules(
        None if rules is None else Path(rules), {k: v for k, v in given.items() if v is not None}
    )
    found = run_of(run) if isinstance(run, Mapping) else read_run(Path(run))
    report = check(found, read_baseline(Path(baseline)), parsed)
    if report.code:
        raise AssertionError("\n" + "\n".join(text(report)))
    return report
