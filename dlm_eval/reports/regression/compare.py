"""The comparison of two runs: what moved between their settings, and what that did to the scores.

    Run A, Run B -> comparable? -> settings that moved -> per task: paired difference on the same
    documents, flips, equal answers, cost, collapse

Without samples files a difference is unpaired, and the result says so.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from dlm_eval.errors import UserError
from dlm_eval.printable import counted
from dlm_eval.reports.files.baseline import Noise
from dlm_eval.reports.files.measures import Measure
from dlm_eval.reports.files.runs import Run, TaskRun
from dlm_eval.reports.files.samples_file import Document
from dlm_eval.reports.files.settings import OF_THE_CODE
from dlm_eval.reports.regression import collapse
from dlm_eval.reports.regression.statistics import Paired, Values, holm, paired, unpaired

# Settings of the run, and of a task's YAML, that make another prompt.
TEMPLATE = (
    "apply_chat_template",
    "chat_template_sha",
    "system_instruction",
    "fewshot_as_multiturn",
)
PROMPT = (
    "yaml.doc_to_text", "yaml.description", "yaml.target_delimiter", "yaml.fewshot_delimiter",
    "yaml.gen_prefix",
)  # fmt: skip
COSTS = ("forwards", "computed", "tokens", "seconds")


@dataclass(frozen=True)
class Moved:
    """A setting with another value in the second run; None if a run does not have it.

    Attributes:
        name: name of the setting.
        tasks: tasks that it concerns; empty for a setting of the whole run.
        first, second: the values.
    """

    name: str
    tasks: tuple[str, ...]
    first: str | None
    second: str | None


@dataclass(frozen=True)
class TaskComparison:
    """The difference of two runs on one task, second minus first.

    Attributes:
        task: name of the task.
        metric: "metric" or "metric,filter" of its headline.
        scale: "mean" or "nats", see `Measure`; "" if the difference is unpaired.
        sign: 1 if higher differences are better, -1 if lower ones are.
        first, second: the scores in the result files.
        difference, low, high, p: difference of the scores on the common documents (in nats for a
            perplexity) with its 95 % interval and two-sided p-value; nan if unknown.
        adjusted: p-value after Holm's correction for the number of tasks; nan for a group.
        pairs: the paired statistics; None if the difference is unpaired.
        better, worse: keys of documents whose score changed.
        equal: share of common documents with the same texts, or the same choice; None without samples files.
        margin: paired difference of margins in nats; None for generated text.
        margin_stderr: its Monte Carlo standard error, as if the runs were independent; None if
            unknown.
        cost: forwards, computed, tokens, seconds -> second over first, on the common documents.
        flags: for each run, flag of `collapse` -> documents.
        notes: what restricts the comparison.
    """

    task: str
    metric: str
    scale: str
    sign: int
    first: float
    second: float
    difference: float
    low: float
    high: float
    p: float
    adjusted: float = math.nan
    pairs: Paired | None = None
    better: tuple[str, ...] = ()
    worse: tuple[str, ...] = ()
    equal: float | None = None
    margin: Paired | None = None
    margin_stderr: float | None = None
    cost: Mapping[str, float] | None = None
    flags: tuple[Mapping[str, int], Mapping[str, int]] = ({}, {})
    notes: tuple[str, ...] = ()

    @property
    def n(self) -> int | None:
        """Number of common documents; None if the difference is unpaired."""
        return self.pairs.n if self.pairs else None


@dataclass(frozen=True)
class Comparison:
    """All that differs between two runs.

    Attributes:
        first, second: the runs.
        moved: settings with another value.
        environment: versions and devices with another value.
        tasks: tasks that both runs have, then groups, which are not part of Holm's correction.
        alone: notes on tasks that only one run has.
    """

    first: Run
    second: Run
    moved: tuple[Moved, ...]
    environment: tuple[Moved, ...]
    tasks: tuple[TaskComparison, ...]
    alone: tuple[str, ...]


def compare(first: Run, second: Run, other_prompts: bool = False) -> Comparison:
    """Returns the comparison of two runs.

    Args:
        other_prompts: whether runs with other shots, chat templates or prompts are compared.

    Raises:
        UserError: no task is in both, or a task cannot be compared; the message says why.
    """
    common = [name for name in first.tasks if name in second.tasks]
    if not common:
        raise UserError(
            f"no task is in both runs: {_some(first.tasks)} in {first.source}, "
            f"{_some(second.tasks)} in {second.source}"
        )
    if not other_prompts:
        for name in common:
            if reason := other_question(first, second, name):
                raise UserError(
                    f"task '{name}' cannot be compared: {reason} (--other_prompts compares anyway)"
                )
    tasks = [_compare_task(first.tasks[name], second.tasks[name]) for name in common]
    known = [task.p for task in tasks if not math.isnan(task.p)]
    adjusted = iter(holm(known))
    tasks = [
        task if math.isnan(task.p) else replace(task, adjusted=next(adjusted)) for task in tasks
    ]
    shared = [name for name in first.groups if name in second.groups]
    tasks += [_compare_task(first.groups[name], second.groups[name]) for name in shared]
    alone = [
        f"only in {run.source}: {_some(names)}"
        for run, other in ((first, second), (second, first))
        if (names := [name for name in run.tasks if name not in other.tasks])
    ]
    return Comparison(
        first,
        second,
        tuple(settings_moved(first, second, common)),
        tuple(_moved(first.environment, second.environment, ())),
        tuple(tasks),
        tuple(alone),
    )


def settings_moved(first: Run, second: Run, tasks: Iterable[str]) -> list[Moved]:
    """Returns the settings that differ; one entry for several tasks with the same difference."""
    found = _moved(first.settings, second.settings, ())
    by_value: dict[tuple[str, str | None, str | None], list[str]] = {}
    hidden: dict[tuple[str, str | None, str | None], list[str]] = {}
    for name in tasks:
        one, two = first.tasks[name], second.tasks[name]
        here = _moved(one.settings, two.settings, (name,))
        for moved in here:
            by_value.setdefault((moved.name, moved.first, moved.second), []).append(name)
        for digest, prefix in (("configuration", ""), ("scoring", "yaml.")):
            left, right = one.digests.get(digest), two.digests.get(digest)
            shown = any(each.name.startswith(prefix) for each in [*here, *found])
            if left and right and left != right and not shown:
                hidden.setdefault((f"{digest} (digest: code or data)", None, None), []).append(name)
    for (name, left, right), concerned in [*by_value.items(), *hidden.items()]:
        found.append(Moved(name, tuple(concerned), left, right))
    return found


def _moved(
    first: Mapping[str, str], second: Mapping[str, str], tasks: tuple[str, ...]
) -> list[Moved]:
    names = [*first, *(name for name in second if name not in first)]
    return [
        Moved(name, tasks, first.get(name), second.get(name))
        for name in names
        if first.get(name) != second.get(name)
    ]


def other_question(first: Run, second: Run, name: str) -> str:
    """Returns why a task of two runs is another question; "" if it is the same one."""
    one, two = first.tasks[name], second.tasks[name]
    shots = [task.settings.get("num_fewshot", "0") for task in (one, two)]
    if shots[0] != shots[1]:
        return f"other shots ({shots[0]} and {shots[1]})"
    for setting in TEMPLATE:
        values = [run.settings.get(setting) or "none" for run in (first, second)]
        values = ["none" if value in ("False", "none") else value for value in values]
        if values[0] != values[1]:
            return f"other chat template or system prompt ({setting}: {values[0]}, {values[1]})"
    if one.documents is None or two.documents is None:
        moved = [s for s in PROMPT if one.settings.get(s) != two.settings.get(s)]
        return f"other prompts ({', '.join(moved)})" if moved else ""
    common = [key for key in one.documents if key in two.documents]
    if not common:
        return (
            f"other documents (none of {len(one.documents)} is among the "
            f"{len(two.documents)} of the other run)"
        )
    changed = prompts_changed(one.documents, two.documents)
    if changed:
        number = one.documents[changed[0]].doc_id
        return (
            f"other prompts ({len(changed)} of {len(common)} documents; first: document {number})"
        )
    return ""


def prompts_changed(first: Mapping[str, Document], second: Mapping[str, Document]) -> list[str]:
    """Returns the keys of common documents that were asked with another prompt."""
    return [
        key
        for key, document in first.items()
        if key in second
        and document.prompt
        and second[key].prompt
        and document.prompt != second[key].prompt
    ]


def _compare_task(first: TaskRun, second: TaskRun) -> TaskComparison:
    row = first.headline
    name, other = row.measure, second.score(row)
    if other is None:
        raise UserError(
            f"task '{first.name}' cannot be compared: its metric '{name}' is not in the second run "
            f"({', '.join(r.metric for r in second.rows)})"
        )
    one, two = first.measures.get(name), second.measures.get(name)
    if one is None or two is None or one.scale != two.scale:
        return _unpaired(first, second, name, other.value, other.stderr)
    assert first.documents is not None and second.documents is not None
    keys = [key for key in one.values if key in two.values]
    if not keys:
        return _unpaired(first, second, name, other.value, other.stderr)
    left, right = values_of(one, keys), values_of(two, keys)
    pairs = paired(left, right)
    change = (right - left) * one.sign
    documents = [(first.documents[key], second.documents[key]) for key in keys]
    margin, margin_stderr = _margins(documents)
    return TaskComparison(
        task=first.name,
        metric=row.measure_shown,
        scale=one.scale,
        sign=one.sign,
        first=row.value,
        second=other.value,
        difference=pairs.difference,
        low=pairs.low,
        high=pairs.high,
        p=pairs.p,
        pairs=pairs,
        better=tuple(key for key, by in zip(keys, change, strict=True) if by > 0),
        worse=tuple(key for key, by in zip(keys, change, strict=True) if by < 0),
        equal=sum(a.answer == b.answer for a, b in documents) / len(documents),
        margin=margin,
        margin_stderr=margin_stderr,
        cost={name: by for name in COSTS if (by := cost_ratio(documents, name)) is not None},
        flags=(collapse.counts(first), collapse.counts(second)),
        notes=tuple(_restrictions(first, second, len(keys))),
    )


def values_of(measure: Measure, keys: Sequence[str]) -> Values:
    """Returns the values of documents as an array [n]."""
    return np.array([measure.values[key] for key in keys], dtype=np.float64)


def _unpaired(
    first: TaskRun, second: TaskRun, name: str, value: float, stderr: float | None
) -> TaskComparison:
    row = first.headline
    difference = value - row.value
    low, high, p = unpaired(difference, (row.stderr, stderr))
    without = first.documents is None or second.documents is None
    why = "no samples file" if without else f"{name} is no mean over documents"
    return TaskComparison(
        task=first.name,
        metric=row.measure_shown,
        scale="",
        sign=row.sign,
        first=row.value,
        second=value,
        difference=difference,
        low=low,
        high=high,
        p=p,
        flags=(collapse.counts(first), collapse.counts(second)),
        notes=(f"unpaired ({why}): the documents' own spread is not removed",),
    )


def _restrictions(first: TaskRun, second: TaskRun, n: int) -> list[str]:
    notes = []
    if max(len(first.documents or ()), len(second.documents or ())) > n:
        notes.append(
            f"{n} common scored documents of {len(first.documents or ())} and "
            f"{len(second.documents or ())}"
        )
    told = ["not told" if task.headline.finds_length else "told" for task in (first, second)]
    if told[0] != told[1]:
        notes.append(
            f"the decoder was {told[0]} the length of the text in the first run, and {told[1]} in the second"
        )
    for task, which in ((first, "first"), (second, "second")):
        if errors := len(task.errors()):
            notes.append(f"{counted(errors, 'error')} in the {which} run")
    return notes


def _margins(documents: Sequence[tuple[Document, Document]]) -> tuple[Paired | None, float | None]:
    """Returns the paired difference of margins, and its Monte Carlo standard error."""
    known = [(a, b) for a, b in documents if a.margin is not None and b.margin is not None]
    if not known:
        return None, None
    pairs = paired(np.array([a.margin for a, _ in known]), np.array([b.margin for _, b in known]))
    errors = [document.margin_stderr for both in known for document in both]
    if any(error is None for error in errors):
        return pairs, None
    return pairs, math.sqrt(sum(error**2 for error in errors if error)) / len(known)


def cost_ratio(documents: Sequence[tuple[Document, Document]], name: str) -> float | None:
    """Returns a cost of the second run over that of the first; None if it is unknown."""
    first, second = (
        math.fsum(math.nan if (cost := each.cost(name)) is None else cost for each in side)
        for side in zip(*documents, strict=True)
    )
    return second / first if first > 0 and not math.isnan(second) else None


def noise_floor(first: Run, second: Run) -> dict[str, Noise]:
    """Returns task -> noise of two runs of one configuration.

    Raises:
        UserError: the runs have other configurations, or no samples files.
    """
    found = {}
    for task in compare(first, second).tasks:
        if task.task not in first.tasks:  # a group
            continue
        one, two = (run.tasks[task.task] for run in (first, second))
        if one.digests.get("configuration") != two.digests.get("configuration"):
            raise UserError(
                f"--noise_floor needs two runs of one configuration; task '{task.task}' has "
                "another one"
            )
        if task.pairs is None or one.documents is None or two.documents is None:
            raise UserError(f"--noise_floor needs samples files; task '{task.task}' has none")
        common = [key for key in one.documents if key in two.documents]
        changed = sum(not one.documents[key].same_answer(two.documents[key]) for key in common)
        flips = len(task.better) + len(task.worse)
        found[task.task] = Noise(len(common), task.difference, flips, changed)
    return found


def environment_moved(first: Run, second: Run) -> list[Moved]:
    """Returns versions and devices that differ, without the version of this package's code."""
    moved = _moved(first.environment, second.environment, ())
    return [each for each in moved if each.name not in OF_THE_CODE]


def _some(names: Iterable[str], most: int = 5) -> str:
    listed = [f"'{name}'" for name in names]
    more = f" and {len(listed) - most} more" if len(listed) > most else ""
    return (", ".join(listed[:most]) or "none") + more
