"""What the tests, answers, errors and rules of one task mean, as findings."""

from __future__ import annotations

import math
from collections.abc import Sequence

from dlm_eval.printable import counted
from dlm_eval.reports.files.baseline import Baseline
from dlm_eval.reports.files.runs import Run, TaskRun
from dlm_eval.reports.regression.compare import Moved, environment_moved, settings_moved
from dlm_eval.reports.regression.findings import (
    BROKEN,
    CHANGED,
    NOTE,
    REGRESSION,
    UNPROVEN,
    Finding,
)
from dlm_eval.reports.regression.rules import Rules, TaskRules
from dlm_eval.reports.regression.statistics import more_often
from dlm_eval.reports.regression.task_checks import PAIRED, REPORTED, TaskCheck


def error_findings(before: TaskRun, now: TaskRun) -> list[Finding]:
    """Returns the documents of a task without answer or score."""
    errors = now.errors()
    for measure in before.measures.values():
        fresh = now.measures.get(measure.name)
        if fresh is not None:
            lost = [key for key in measure.values if key not in fresh.values]
            errors = {**dict.fromkeys(lost, f"no finite {measure.name}"), **errors}
    if before.corpus_scores and now.corpus_scores:
        old, new = before.corpus_scores[0], now.corpus_scores[0]  # all have the same documents
        lost = [key for key in old.statistics if key not in new.statistics]
        errors = {**dict.fromkeys(lost, f"no {old.name}"), **errors}
    if not errors:
        return []
    reason = next(iter(errors.values()))
    text = f"{counted(len(errors), 'document')} without answer or score; the first: {reason}"
    return [Finding(BROKEN, before.name, text)]


def score_findings(task: TaskCheck, before: TaskRun, now: TaskRun, rules: Rules) -> list[Finding]:
    """Returns what the test of a task means for its score."""
    unit = " nats" if task.scale == "nats" else ""
    found = []
    if task.p <= rules.alpha:
        text = f"{task.metric} fell from {task.old:.4f} to {task.new:.4f} ({_evidence(task)})"
        found.append(Finding(REGRESSION, task.task, text))
    elif _may_be_worse(task, rules):
        text = (
            f"{task.metric}: a drop beyond {task.margin:.4g}{unit} cannot be excluded (change "
            f"{task.change:+.4f}, lower bound {task.low:+.4f})"
        )
        found.append(Finding(UNPROVEN, task.task, text))
    configured = [each.digests.get("configuration") for each in (before, now)]
    same = configured[0] is not None and configured[0] == configured[1]
    if same and not before.generates and task.scale == "nats" and task.rise <= rules.alpha:
        text = (
            f"log-likelihoods rose by {task.change:.4f} nats a document although model and "
            f"settings are the same (p = {task.rise:.2g})"
        )
        found.append(Finding(REGRESSION, task.task, text))
    return found


def _evidence(task: TaskCheck) -> str:
    if task.test != PAIRED:
        return f"{task.change:+.4f}; by {task.test}; p = {task.p:.2g}"
    unit = " nats" if task.scale == "nats" else ""
    return (
        f"{task.change:+.4f}{unit} a document; {task.worse} worse, {task.better} better; "
        f"p = {task.p:.2g}"
    )


def _may_be_worse(task: TaskCheck, rules: Rules) -> bool:
    """Returns whether a drop beyond the margin cannot be excluded.

    Errors of independent runs are wide, so a rule may stand in for the bound that they give.
    """
    if task.test == REPORTED and rules.of(task.task).limits_score:
        return False
    return bool(task.changed + task.better + task.worse) and task.low < -task.margin


def _named(moved: Sequence[Moved], absent: str) -> str:
    """Returns settings with both values, for a message; `absent` is in place of a missing one."""
    return ", ".join(f"{m.name} {m.first or absent} -> {m.second or absent}" for m in moved)


def answer_findings(
    task: TaskCheck, before: TaskRun, now: TaskRun, run: Run, baseline: Baseline, rules: Rules
) -> list[Finding]:
    """Returns what the changed answers of a task mean."""
    flipped = task.better + task.worse
    if not task.changed:
        if not flipped:
            return []
        text = (
            f"{counted(flipped, 'score')} changed although the answers are the same: other scoring"
        )
        return [Finding(CHANGED, task.task, text)]
    changed = f"{task.changed} of {task.n} answers changed"
    fingerprints = [each.digests.get("fingerprint") for each in (before, now)]
    if None in fingerprints or fingerprints[0] != fingerprints[1]:
        moved = settings_moved(baseline.run, run, [task.task])
        named = _named(moved[:3], "not set")
        more = f" and {len(moved) - 3} more" if len(moved) > 3 else ""
        return [Finding(NOTE, task.task, f"{changed}; settings moved: {named or 'unknown'}{more}")]
    if elsewhere := environment_moved(baseline.run, run):
        named = _named(elsewhere[:3], "not known")
        return [Finding(CHANGED, task.task, f"{changed}, {named}")]
    same = f"{changed} although model, settings, seeds and environment are the same"
    if run.batch_invariant == baseline.run.batch_invariant == "True":
        return [Finding(REGRESSION, task.task, f"{same}, and the run is batch invariant")]
    noise = baseline.noise.get(task.task)
    if noise is None:
        text = f"{same}; the noise floor is not known (baseline save --noise_floor)"
        return [Finding(CHANGED, task.task, text)]
    p = more_often(task.changed, task.n, noise.answers, noise.n)
    text = f"{same}; two runs of the baseline differ in {noise.answers} of {noise.n} (p = {p:.2g})"
    return [Finding(REGRESSION if p <= rules.alpha else NOTE, task.task, text)]


def rule_findings(before: TaskRun, now: TaskRun, rules: TaskRules) -> list[Finding]:
    """Returns the violated rules of a task. Scores are those of the files."""
    row = before.headline
    fresh = now.score(row)
    if fresh is None:
        return [Finding(BROKEN, before.name, f"metric {row.metric} is not in the run")]
    sign = row.sign
    texts = []
    if rules.floor is not None and not sign * fresh.value >= sign * rules.floor:
        texts.append(f"{row.metric} {fresh.value:.4f} does not reach the floor {rules.floor:g}")
    drop = sign * (row.value - fresh.value)
    if rules.max_drop is not None and not drop <= rules.max_drop + 1e-12:
        texts.append(f"{row.metric} fell by {drop:.4f}; max_drop is {rules.max_drop:g}")
    old, new = (_forwards(each) for each in (before, now))
    if rules.max_forwards is not None and not new <= rules.max_forwards:
        texts.append(f"{new:.1f} forwards a document; max_forwards is {rules.max_forwards:g}")
    if rules.min_forwards_ratio is not None and not new >= rules.min_forwards_ratio * old:
        texts.append(
            f"{new:.1f} forwards a document, the baseline {old:.1f}; min_forwards_ratio is "
            f"{rules.min_forwards_ratio:g}"
        )
    if rules.max_forwards_ratio is not None and not new <= rules.max_forwards_ratio * old:
        texts.append(
            f"{new:.1f} forwards a document, the baseline {old:.1f}; max_forwards_ratio is "
            f"{rules.max_forwards_ratio:g}"
        )
    return [Finding(REGRESSION, before.name, text) for text in texts]


def _forwards(task: TaskRun) -> float:
    """Returns forwards per document; nan, which violates every budget, if they are unknown."""
    documents = list((task.documents or {}).values())
    costs = [math.nan if each.forwards is None else each.forwards for each in documents]
    return math.fsum(costs) / len(costs) if costs else math.nan
