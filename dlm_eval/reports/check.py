"""The check of a run against a baseline: has a score become worse?

    baseline, run, rules -> same question? -> per task: errors, harm, non-inferiority, answers,
    rules -> findings -> exit code

docs/regression.md defines every finding.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from dlm_eval.errors import UserError, unknown_name_error
from dlm_eval.options import check_options, option, parse_options
from dlm_eval.printable import counted
from dlm_eval.reports.baseline import Baseline
from dlm_eval.reports.compare import (
    Moved,
    environment_moved,
    other_question,
    settings_moved,
    values_of,
)
from dlm_eval.reports.runs import Measure, Run, TaskRun
from dlm_eval.reports.samples_file import SAME_NATS, Document
from dlm_eval.reports.statistics import (
    Values,
    holm,
    is_binary,
    lower_bound,
    more_often,
    p_value,
    smallest_drop,
)
from dlm_eval.yaml_text import read_yaml

# Kinds of findings. The first two fail the check, the next two fail it under --strict.
BROKEN, REGRESSION, UNPROVEN, CHANGED, NOTE = "broken", "regression", "unproven", "changed", "note"
PASSED, FAILED_RUN, FAILED_CHECK = 0, 1, 3


@dataclass(frozen=True, kw_only=True)
class TaskRules:
    """Rules for one task."""

    floor: float | None = option(
        None, help="the score must be at least this (at most, if lower is better)"
    )
    max_drop: float | None = option(None, least=0, help="the score may be worse by this at most")
    margin: float | None = option(
        None, above=0, help="margin of this task, as a share of its scale"
    )
    max_forwards: float | None = option(None, above=0, help="forwards per document at most")
    min_forwards_ratio: float | None = option(
        None, above=0, help="forwards at least, over the baseline's"
    )
    max_forwards_ratio: float | None = option(
        None, above=0, help="forwards at most, over the baseline's"
    )


@dataclass(frozen=True, kw_only=True)
class Rules:
    """What makes a check fail."""

    alpha: float = option(0.01, above=0, below=0.5, help="level of the tests, over all tasks")
    margin: float = option(
        0.02, above=0, help="drop that must be excluded, as a share of the scale"
    )
    strict: bool = option(False, help="fail also if harm cannot be excluded or answers changed")
    tasks: Mapping[str, TaskRules] = field(default_factory=dict)


@dataclass(frozen=True)
class Finding:
    """One thing that a check has found.

    Attributes:
        kind: `broken`, `regression`, `unproven`, `changed` or `note`.
        task: the task; "" for the whole run.
        text: one sentence.
    """

    kind: str
    task: str
    text: str


@dataclass(frozen=True)
class TaskCheck:
    """One task of a check. Changes are positive if the run is better.

    Attributes:
        metric: "metric" or "metric,filter"; scale as in `Measure`.
        n: documents of the baseline, all of which count.
        old, new: the scores of baseline and run; a document without a score counts as the worst.
        change: mean change of a document.
        low: one-sided lower bound of `change` at level 1 - alpha.
        p: one-sided p-value of harm, after Holm's correction.
        smallest: the smallest drop that this set could have shown, see `smallest_drop`.
        margin: drop that must be excluded.
        better, worse, changed: documents whose score rose or fell, and whose answer changed.
        forwards: forwards of the run over the baseline's; None if unknown.
    """

    task: str
    metric: str
    scale: str
    n: int
    old: float
    new: float
    change: float
    low: float
    p: float
    smallest: float
    margin: float
    better: int
    worse: int
    changed: int
    forwards: float | None


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


def read_rules(path: Path | None, given: Mapping[str, Any], given_as: str = "rules") -> Rules:
    """Returns the rules of a YAML file. `given` overrides it.

    Args:
        path: the file; None for the defaults.
        given: options of the command line or of a call, without None.
        given_as: what errors say before the name of such an option.

    Raises:
        UserError: an unknown key, or a value that is not allowed.
    """
    found: Any = {}
    if path is not None:
        found = read_yaml(path, f"rules '{path}'") or {}
        if not isinstance(found, dict):
            raise UserError(f"rules '{path}' must be a mapping with alpha, margin, strict or tasks")
    tasks = found.pop("tasks", None) or {}
    if not isinstance(tasks, dict) or not all(isinstance(each, dict) for each in tasks.values()):
        raise UserError(f"rules '{path}': tasks must map names of tasks to their rules")
    in_file = {str(key): value for key, value in found.items()}
    for values, what in ((in_file, "rules"), (given, given_as)):
        check_options(parse_options(Rules, values, what), what)
    rules = parse_options(Rules, in_file | dict(given), "rules")
    parsed = {}
    for name, values in tasks.items():
        what = f"rules of task '{name}'"
        parsed[str(name)] = parse_options(TaskRules, {str(k): v for k, v in values.items()}, what)
        check_options(parsed[str(name)], what)
    return replace(rules, tasks=parsed)


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
    tasks, tested = [], []
    for name, before in old.tasks.items():
        if name not in run.tasks:  # no document was scored; it is among `missing`
            continue
        now = run.tasks[name]
        findings += [*_errors(before, now), *_untested(before, rules)]
        found = _judge(before, now, rules, len(old.tasks))
        if isinstance(found, Finding):
            findings.append(found)
        elif found is not None:
            tasks.append(found[0])
            tested.append(found[1])
    adjusted = holm([task.p for task in tasks])
    tasks = [replace(task, p=p) for task, p in zip(tasks, adjusted, strict=True)]
    suspicious = holm(tested)
    for task, rise in zip(tasks, suspicious, strict=True):
        findings += _findings(task, rise, run, baseline, rules)
    for name, own in rules.tasks.items():
        if name not in run.tasks:
            continue
        findings += _rule_findings(old.tasks[name], run.tasks[name], own)
    if extra := [name for name in run.tasks if name not in old.tasks]:
        findings.append(Finding(NOTE, "", f"not in the baseline: {', '.join(extra[:5])}"))
    return Report(run, old, rules, tuple(tasks), tuple(findings))


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


def _errors(before: TaskRun, now: TaskRun) -> list[Finding]:
    errors = now.errors()
    for measure in before.measures.values():
        fresh = now.measures.get(measure.name)
        if fresh is not None:
            lost = [key for key in measure.values if key not in fresh.values]
            errors = {**dict.fromkeys(lost, f"no finite {measure.name}"), **errors}
    if not errors:
        return []
    reason = next(iter(errors.values()))
    text = f"{counted(len(errors), 'document')} without answer or score; the first: {reason}"
    return [Finding(BROKEN, before.name, text)]


def _untested(before: TaskRun, rules: Rules) -> list[Finding]:
    """Returns that the headline metric has no test; harm is unproven if no rule limits it either."""
    row, own = before.headline, rules.tasks.get(before.name, TaskRules())
    name = f"{row.metric},{row.filter or 'none'}"
    if name in before.measures:
        return []
    limited = own.floor is not None or own.max_drop is not None
    text = (
        f"{name.removesuffix(',none')} is no mean over documents: only floor and max_drop check it"
    )
    return [Finding(NOTE if limited else UNPROVEN, before.name, text)]


def _judge(
    before: TaskRun, now: TaskRun, rules: Rules, tasks: int
) -> tuple[TaskCheck, float] | Finding | None:
    """Returns the statistics of one task, and the p-value of a rise; a finding if the run lacks the
    metric; None if no metric is a mean over documents.
    """
    measure = next(iter(before.measures.values()), None)
    if measure is None:
        return None
    fresh = now.measures.get(measure.name)
    if fresh is None or fresh.scale != measure.scale:
        return Finding(
            BROKEN, before.name, f"metric {measure.name} is not in the run, or not a mean"
        )
    keys = list(measure.values)
    worst = (min if measure.sign > 0 else max)(measure.values.values())
    filled = {**dict.fromkeys(keys, worst), **fresh.values}
    left, right = values_of(measure, keys), values_of(replace(fresh, values=filled), keys)
    binary = is_binary(left, right)
    change = changes(left, right, measure)
    own = rules.tasks.get(before.name, TaskRules())
    documents = _both(before, now, keys)
    checked = TaskCheck(
        task=before.name,
        metric=measure.name.removesuffix(",none"),
        scale=measure.scale,
        n=len(keys),
        old=_score(left, measure),
        new=_score(right, measure),
        change=float(change.mean()),
        low=lower_bound(change, binary, rules.alpha),
        p=p_value(change, binary, "less"),
        smallest=smallest_drop(change, binary, rules.alpha / tasks),
        margin=(own.margin or rules.margin) * _unit(left, measure),
        better=int((change > 0).sum()),
        worse=int((change < 0).sum()),
        changed=sum(not old.same_answer(new) for old, new in documents),
        forwards=_forwards_ratio(documents),
    )
    return checked, p_value(-change, binary, "less")


def changes(left: Values, right: Values, measure: Measure) -> Values:
    """Returns the change of each document, positive if better; rounding of nats is no change."""
    change: Values = (right - left) * measure.sign
    if measure.scale == "nats":
        change = np.where(np.abs(change) < SAME_NATS, 0.0, change)
    return change


def _both(before: TaskRun, now: TaskRun, keys: Sequence[str]) -> list[tuple[Document, Document]]:
    assert before.documents is not None and now.documents is not None
    return [(before.documents[key], now.documents[key]) for key in keys]


def _score(values: Values, measure: Measure) -> float:
    mean = float(values.mean())
    return mean if measure.scale == "mean" else math.exp(min(-mean, 700))


def _unit(values: Values, measure: Measure) -> float:
    """Returns the scale of a margin: 1 for fractions and nats, else the largest value."""
    largest = float(np.abs(values).max())
    return largest if measure.scale == "mean" and largest > 1 else 1.0


def _forwards_ratio(documents: Sequence[tuple[Document, Document]]) -> float | None:
    old, new = (
        math.fsum(math.nan if each.forwards is None else each.forwards for each in side)
        for side in zip(*documents, strict=True)
    )
    return new / old if old > 0 and not math.isnan(new) else None


def _findings(
    task: TaskCheck, rise: float, run: Run, baseline: Baseline, rules: Rules
) -> list[Finding]:
    before, now = baseline.run.tasks[task.task], run.tasks[task.task]
    unit = " nats" if task.scale == "nats" else ""
    found = []
    if task.p <= rules.alpha:
        text = (
            f"{task.metric} fell from {task.old:.4f} to {task.new:.4f} ({task.change:+.4f}{unit} a "
            f"document; {task.worse} worse, {task.better} better; p = {task.p:.2g})"
        )
        found.append(Finding(REGRESSION, task.task, text))
    elif task.changed + task.better + task.worse and task.low < -task.margin:
        text = (
            f"{task.metric}: a drop beyond {task.margin:.4g}{unit} cannot be excluded (change "
            f"{task.change:+.4f}, lower bound {task.low:+.4f})"
        )
        found.append(Finding(UNPROVEN, task.task, text))
    configured = [each.digests.get("configuration") for each in (before, now)]
    same = configured[0] is not None and configured[0] == configured[1]
    if same and not before.generates and task.scale == "nats" and rise <= rules.alpha:
        text = (
            f"log-likelihoods rose by {task.change:.4f} nats a document although model and "
            f"settings are the same (p = {rise:.2g})"
        )
        found.append(Finding(REGRESSION, task.task, text))
    return found + _answer_findings(task, before, now, run, baseline, rules)


def _named(moved: Sequence[Moved], absent: str) -> str:
    """Returns settings with both values, for a message; `absent` is in place of a missing one."""
    return ", ".join(f"{m.name} {m.first or absent} -> {m.second or absent}" for m in moved)


def _answer_findings(
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


def _rule_findings(before: TaskRun, now: TaskRun, rules: TaskRules) -> list[Finding]:
    """Returns the violated rules of a task. Scores are those of the files."""
    row = before.headline
    fresh = next((r for r in now.rows if (r.metric, r.filter) == (row.metric, row.filter)), None)
    if fresh is None:
        return [Finding(BROKEN, before.name, f"metric {row.metric} is not in the run")]
    sign = -1 if row.higher_is_better is False else 1
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
