"""The tests of one task of a check: has its score become worse?

A mean over documents is tested document by document. A headline that is no mean is tested by a
bootstrap over documents that computes it anew for both runs (`corpus.py`), or, if that cannot be
done, by the standard errors that the two runs report.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from dlm_eval.reports.files.measures import Measure
from dlm_eval.reports.files.row import Row
from dlm_eval.reports.files.runs import TaskRun
from dlm_eval.reports.files.samples_file import SAME_NATS, Document
from dlm_eval.reports.regression.compare import cost_ratio, values_of
from dlm_eval.reports.regression.findings import BROKEN, NOTE, UNPROVEN, Finding
from dlm_eval.reports.regression.rules import Rules
from dlm_eval.reports.regression.statistics import (
    Change,
    Values,
    fewest_documents,
    is_binary,
    lower_bound,
    p_value,
    planned_drop,
    reported_change,
    resampled_change,
    smallest_drop,
)

PAIRED, BOOTSTRAP, REPORTED = "documents", "a bootstrap over documents", "reported standard errors"


@dataclass(frozen=True, kw_only=True)
class TaskCheck:
    """One test of a task. Changes are positive if the run is better.

    Attributes:
        metric: "metric" or "metric,filter".
        scale: as in `Measure`; "" for a score that is no mean.
        test: what it is tested by: `PAIRED`, `BOOTSTRAP` or `REPORTED`.
        n: documents of the baseline, all of which count.
        old, new: the scores of baseline and run; of a mean, a document without a score counts as the
            worst.
        change: mean change of a document; of a score that is no mean, its change.
        low: one-sided lower bound of `change` at level 1 - alpha.
        p: one-sided p-value of harm, after Holm's correction.
        rise: one-sided p-value of a rise, after Holm's correction.
        smallest: the smallest drop that this set could have shown, see `smallest_drop`.
        margin: drop that must be excluded.
        better, worse: documents whose score rose or fell; 0 for a score that is no mean.
        changed: documents whose answer changed.
        forwards: forwards of the run over the baseline's; None if unknown.
    """

    task: str
    metric: str
    scale: str
    test: str
    n: int
    old: float
    new: float
    change: float
    low: float
    p: float
    rise: float
    smallest: float
    margin: float
    better: int = 0
    worse: int = 0
    changed: int
    forwards: float | None


def task_checks(
    before: TaskRun, now: TaskRun, rules: Rules, tasks: int
) -> Iterator[TaskCheck | Finding]:
    """Yields the tests of a task of a baseline with `tasks` tasks, and what prevents them."""
    level = rules.alpha / tasks
    measure = next(iter(before.measures.values()), None)
    if measure is not None:
        yield _of_mean(before, now, measure, rules, level)
    if before.headline.measure not in before.measures:
        yield from _of_headline(before, now, rules, level)


def _of_mean(
    before: TaskRun, now: TaskRun, measure: Measure, rules: Rules, level: float
) -> TaskCheck | Finding:
    """Returns the test of a mean over documents; a finding if the run lacks the metric."""
    fresh = now.measures.get(measure.name)
    if fresh is None or fresh.scale != measure.scale:
        text = f"metric {measure.name} is not in the run, or not a mean"
        return Finding(BROKEN, before.name, text)
    keys = list(measure.values)
    worst = (min if measure.sign > 0 else max)(measure.values.values())
    filled = {**dict.fromkeys(keys, worst), **fresh.values}
    left, right = values_of(measure, keys), values_of(replace(fresh, values=filled), keys)
    binary = is_binary(left, right)
    change = changes(left, right, measure)
    documents = _both(before, now, keys)
    return TaskCheck(
        task=before.name,
        metric=measure.name.removesuffix(",none"),
        scale=measure.scale,
        test=PAIRED,
        n=len(keys),
        old=_score(left, measure),
        new=_score(right, measure),
        change=float(change.mean()),
        low=lower_bound(change, binary, rules.alpha),
        p=p_value(change, binary, "less"),
        rise=p_value(-change, binary, "less"),
        smallest=smallest_drop(change, binary, level),
        margin=rules.margin_of(before.name) * _unit(left, measure),
        better=int((change > 0).sum()),
        worse=int((change < 0).sum()),
        changed=_changed(documents),
        forwards=cost_ratio(documents, "forwards"),
    )


def changes(left: Values, right: Values, measure: Measure) -> Values:
    """Returns the change of each document, positive if better; rounding of nats is no change."""
    change: Values = (right - left) * measure.sign
    if measure.scale == "nats":
        change = np.where(np.abs(change) < SAME_NATS, 0.0, change)
    return change


def _both(before: TaskRun, now: TaskRun, keys: Sequence[str]) -> list[tuple[Document, Document]]:
    assert before.documents is not None and now.documents is not None
    return [(before.documents[key], now.documents[key]) for key in keys]


def _changed(documents: Sequence[tuple[Document, Document]]) -> int:
    return sum(not old.same_answer(new) for old, new in documents)


def _score(values: Values, measure: Measure) -> float:
    mean = float(values.mean())
    return mean if measure.scale == "mean" else math.exp(min(-mean, 700))


def _unit(values: Values, measure: Measure) -> float:
    """Returns the scale of a margin: 1 for fractions and nats, else the largest value."""
    largest = float(np.abs(values).max())
    return largest if measure.scale == "mean" and largest > 1 else 1.0


# -- scores that are no means ----------------------------------------------------------------------


def _of_headline(
    before: TaskRun, now: TaskRun, rules: Rules, level: float
) -> Iterator[TaskCheck | Finding]:
    """Yields the test of a headline that is no mean, and what it is tested by."""
    row, fresh = before.headline, now.score(before.headline)
    name = f"{row.measure_shown} is no mean over documents"
    if fresh is None:
        yield Finding(BROKEN, before.name, f"metric {row.measure_shown} is not in the run")
        return
    found = _resampled(before, now, rules, level) or _reported(before, now, fresh, rules, level)
    if found is not None:
        yield found
        yield Finding(NOTE, before.name, f"{name}: tested by {found.test}")
        return
    # Harm is unproven if no rule limits it either.
    kind = NOTE if rules.of(before.name).limits_score else UNPROVEN
    text = f"{name}, and a run reports no standard error: only floor and max_drop check it"
    yield Finding(kind, before.name, text)


def _resampled(before: TaskRun, now: TaskRun, rules: Rules, level: float) -> TaskCheck | None:
    """Returns the test by resampled documents; None if the runs do not hold what the score needs."""
    scores = {score.function: score for score in now.corpus_scores}
    old = next((score for score in before.corpus_scores if score.function in scores), None)
    if old is None:
        return None
    new = scores[old.function]
    keys = [key for key in old.statistics if key in new.statistics]
    if not keys:
        return None
    left, right, sign = old.array(keys), new.array(keys), before.headline.sign

    def change(counts: Values) -> Values:
        moved: Values = sign * (new.scores(counts, right) - old.scores(counts, left))
        return moved

    moved = int((left != right).any(axis=1).sum())
    found = resampled_change(change, len(keys), moved, rules.alpha)
    smallest = (
        math.inf if len(keys) < fewest_documents(level) else planned_drop(found.stderr, level)
    )
    return replace(
        _made(before, now, found, BOOTSTRAP, old.top, rules),
        n=len(keys),
        old=float(old.scores(np.ones((1, len(keys))), left)[0]),
        new=float(new.scores(np.ones((1, len(keys))), right)[0]),
        smallest=smallest if moved else math.nan,
    )


def _reported(
    before: TaskRun, now: TaskRun, fresh: Row, rules: Rules, level: float
) -> TaskCheck | None:
    """Returns the test by the standard errors of the result files; None if one has none."""
    row = before.headline
    value = row.sign * (fresh.value - row.value)
    found = reported_change(value, (row.stderr, fresh.stderr), rules.alpha)
    if found is None:
        return None
    made = _made(before, now, found, REPORTED, max(abs(row.value), 1.0), rules)
    return replace(made, new=fresh.value, smallest=planned_drop(found.stderr, level))


def _made(
    before: TaskRun, now: TaskRun, change: Change, test: str, top: float, rules: Rules
) -> TaskCheck:
    documents = _both(before, now, list(before.documents or ()))
    return TaskCheck(
        task=before.name,
        metric=before.headline.measure_shown,
        scale="",
        test=test,
        n=len(documents),
        old=before.headline.value,
        new=before.headline.value,
        change=change.value,
        low=change.low,
        p=change.harm,
        rise=change.rise,
        smallest=math.nan,
        margin=rules.margin_of(before.name) * top,
        changed=_changed(documents),
        forwards=cost_ratio(documents, "forwards"),
    )
