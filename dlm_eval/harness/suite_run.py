"""Runs a suite: its entries as runs with equal settings, on one loaded model.

suite and the user's settings -> runs -> model -> one run after the other -> outcomes by entry
"""

from __future__ import annotations

import dataclasses
import json
import logging
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Any

from dlm_eval.errors import DlmEvalError, UserError
from dlm_eval.harness.checks import Ask, check_settings
from dlm_eval.harness.decode_layers import entry_layer, replaced_by, user_layer
from dlm_eval.harness.frontier import Point, points_of, warnings_of
from dlm_eval.harness.metric_errors import error_of
from dlm_eval.harness.model_kind import Loaded
from dlm_eval.harness.open_model import kind_of, open_model
from dlm_eval.harness.results import metrics_of
from dlm_eval.harness.run import Finished, run
from dlm_eval.harness.run_settings import RunSettings, output_directory, run_settings
from dlm_eval.harness.suites import CONDITIONS, Entry, Suite, check_tasks, load_suite
from dlm_eval.models import find_checkpoint, known_families

log = logging.getLogger(__name__)
# Settings of `run` that replace those of all entries; `gen_kwargs` is how lm-eval names `decode`.
OVERRIDES = (*CONDITIONS, "gen_kwargs")
REFUSED = {
    "shard": "a shard is one run, and a suite is several; use --devices, or run an entry's "
    "task without --suite, with its settings as options (`dlm-eval show SUITE` lists them)",
    "samples": "it names documents of tasks, which several entries may share; use --limit, or run "
    "the task without --suite",
}
UNSAFE = "runs generated code (in a sandbox); add --confirm_run_unsafe_code to allow it"


@dataclass(frozen=True)
class SuiteRun:
    """Entries with equal settings, which are one run.

    Attributes:
        entries: in the suite's order; two may have the same task with different metrics.
        settings: of the run.
    """

    entries: tuple[Entry, ...]
    settings: RunSettings


@dataclass(frozen=True)
class SuitePlan:
    """What a suite is run with.

    Attributes:
        suite: with the chosen entries only.
        model: value of --model.
        overridden: the user's settings that replace those of all entries.
        runs: what is to be run.
        skipped: entry -> why it is not run.
        settings: those by which the model is opened: the user's, without any entry's.
    """

    suite: Suite
    model: str
    overridden: Mapping[str, Any]
    runs: tuple[SuiteRun, ...]
    skipped: Mapping[str, str]
    settings: RunSettings

    @property
    def replaces(self) -> bool:
        """Whether the user replaced settings, other than the number of documents."""
        return bool(set(self.overridden) - {"limit"})


@dataclass(frozen=True)
class Outcome:
    """What became of an entry.

    Attributes:
        entry: the entry.
        metric, filter: the headline that was measured; "" if there is none.
        value: the metric as in the result file; None if there is none.
        stderr: its standard error; None if unknown.
        count: number of scored documents.
        total: number of documents of the task; None if unknown.
        published: the figure of the source for this checkpoint; None if it prints none.
        reason: why there is no value; "" if there is one.
        skipped: whether the entry was left out on purpose.
        replaced: whether the user replaced settings of it, other than the number of documents.
        finds_length: whether the decoder was not told the length of the text.
        approximation: approximate caches that were used, with commas; "" if none.
    """

    entry: Entry
    metric: str = ""
    filter: str = ""
    value: float | None = None
    stderr: float | None = None
    count: int | None = None
    total: int | None = None
    published: float | None = None
    reason: str = ""
    skipped: bool = False
    replaced: bool = False
    finds_length: bool = False
    approximation: str = ""

    @property
    def deviation(self) -> float | None:
        """Measured minus published, in standard errors of the difference.

        The published figure has the error that the same task has with all its documents, and both
        errors enter as if the documents were drawn twice. On the same documents the true error is
        smaller. None if `incomparable` says why.
        """
        if self.incomparable:
            return None
        assert self.value is not None and self.published is not None
        assert self.stderr and self.count and self.total
        spread = self.stderr * math.sqrt(1 + self.count / self.total)
        return (self.value - self.published / self.entry.scale) / spread

    @property
    def incomparable(self) -> str:
        """Why there is no deviation; "" if there is one."""
        if self.value is None:
            return self.reason or "the metric is not a number"
        if self.published is None:
            return "published for other models" if self.entry.published else "no published figure"
        if self.replaced:
            return "overridden"
        if self.entry.protocol not in ("same", "near"):
            return f"{self.entry.protocol} protocol"
        if not self.stderr:
            return "no standard error" if self.stderr is None else "standard error 0"
        return "" if self.count and self.total else "number of documents unknown"


@dataclass(frozen=True)
class SuiteFinished:
    """A finished suite.

    Attributes:
        plan: what was asked.
        outcomes: one for each entry, in the suite's order.
        finished: the runs.
        errors: number of failed samples of all runs.
        missing: parts of the results that could not be computed or saved, with reasons.
        points: a judge's perplexity and the entropy of the samples of each run that has them.
    """

    plan: SuitePlan
    outcomes: tuple[Outcome, ...]
    finished: tuple[Finished, ...]
    errors: int
    missing: tuple[str, ...] = ()
    points: tuple[Point, ...] = ()

    @property
    def failed(self) -> bool:
        """Whether an entry or a sample failed."""
        return self.errors > 0 or any(o.reason and not o.skipped for o in self.outcomes)

    def plain(self) -> dict[str, Any]:
        """Returns the suite with its figures and all results, for `evaluate`."""
        return {
            "suite": self.plan.suite.suite,
            "digest": self.plan.suite.digest,
            "overridden": dict(self.plan.overridden),
            "entries": {o.entry.entry: _plain(o) for o in self.outcomes},
            "runs": [finished.results for finished in self.finished],
            "warnings": warnings_of(self.points),
        }


def _plain(outcome: Outcome) -> dict[str, Any]:
    own = {f.name: getattr(outcome, f.name) for f in dataclasses.fields(outcome)}
    entry: Entry = own.pop("entry")
    facts = {"task": entry.task, "scale": entry.scale, "protocol": entry.protocol}
    return {**facts, **own, "deviation": outcome.deviation, "incomparable": outcome.incomparable}


# -- plan ------------------------------------------------------------------------------------------


def plan_suite(values: Mapping[str, Any], ask: Ask | None = None) -> SuitePlan:
    """Returns what a suite is run with.

    Args:
        values: the user's settings by name, as for `run_settings`, with `suite`; `tasks` are names
            or globs of entries.
        ask: asks the user whether entries may run generated code; None if he cannot be asked.

    Raises:
        UserError: a setting, the suite or the name of an entry or task is not allowed.
    """
    given = {key: value for key, value in values.items() if value is not None}
    name = given.pop("suite")
    if not isinstance(name, (str, Suite)):
        raise UserError(f"--suite '{name}' is not allowed; it must be a name or a YAML file")
    suite = name if isinstance(name, Suite) else load_suite(name)
    for key, reason in REFUSED.items():
        if given.get(key):
            raise UserError(f"--{key} is not possible with --suite: {reason}")
    if str(given.get("output_path", "")).endswith(".json"):
        raise UserError(
            f"--output_path '{given['output_path']}' is not allowed; a suite needs a folder"
        )
    chosen = run_settings({**given, "model": "tiny", "tasks": given.get("tasks") or ["*"]}).tasks
    suite = suite.only([str(entry) for entry in chosen])
    given.pop("tasks", None)
    if "model" not in given:
        if not suite.models:
            raise UserError(f"--model is missing; suite '{suite.suite}' names no models")
        given["model"] = suite.models[0]
    check_tasks(suite.entries, given.get("include_path"))
    skipped = _unsafe(suite.entries, given, ask)
    if len(skipped) == len(suite.entries):
        raise UserError(f"--suite {suite.suite}: every chosen entry {UNSAFE}")
    if any(entry.code for entry in suite.entries) and not skipped:
        given["confirm_run_unsafe_code"] = True
    overridden = {key: given.pop(key) for key in OVERRIDES if key in given}
    # fewshot_as_multiturn needs a template, which the entries may have
    base = {"model": given["model"], "tasks": ["*"], "apply_chat_template": True}
    user = run_settings({**base, **overridden})
    asked = {key: getattr(user, key) for key in overridden}
    left = [entry for entry in suite.entries if entry.entry not in skipped]
    runs = _runs(left, given, asked)
    shared = {key: value for key, value in asked.items() if key != "fewshot_as_multiturn"}
    settings = run_settings({**given, **shared, "tasks": runs[0].settings.tasks})
    return SuitePlan(suite, given["model"], asked, runs, skipped, settings)


def _unsafe(entries: Sequence[Entry], given: Mapping[str, Any], ask: Ask | None) -> dict[str, str]:
    """Returns the entries that run generated code without permission, with the reason."""
    code = [entry.entry for entry in entries if entry.code]
    if not code or given.get("confirm_run_unsafe_code") or given.get("predict_only"):
        return {}
    if ask is not None and not given.get("dry_run") and ask(code):
        return {}
    return dict.fromkeys(code, UNSAFE)


def _runs(
    entries: Sequence[Entry], given: Mapping[str, Any], overridden: Mapping[str, Any]
) -> tuple[SuiteRun, ...]:
    """Returns the entries in runs with equal settings, in the order of their first entries."""
    groups: dict[str, list[Entry]] = {}
    conditions: dict[str, dict[str, Any]] = {}
    named = {key: given[key] for key in ("model", "model_args") if key in given}
    arguments = run_settings({**named, "tasks": ["*"]}).model_args
    for entry in entries:
        own = effective(entry, given["model"], overridden)
        mine = kind_of(given["model"]).entry_arguments(arguments, entry.entry)
        if mine != arguments:
            own["model_args"] = dict(mine)
        key = json.dumps(own, sort_keys=True, default=str)
        groups.setdefault(key, []).append(entry)
        conditions[key] = own
    return tuple(
        SuiteRun(
            tuple(group),
            run_settings(
                {**given, **conditions[key], "tasks": list(dict.fromkeys(e.task for e in group))}
            ),
        )
        for key, group in groups.items()
    )


def effective(entry: Entry, model: str, overridden: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the run settings of an entry: its own, overridden by the user's.

    The user's decode settings (--gen_kwargs and --decode) are merged with the entry's, unless they
    name another preset. The kind of model says what the entry's mean to it. Without a chat template
    there are no turns.
    """
    own = kind_of(model).entry_conditions(entry.conditions.given())
    if not overridden.get("apply_chat_template", True):
        own.pop("fewshot_as_multiturn", None)
    merged = {**own, **overridden}
    generic, decode, metadata = (
        overridden.get(key) or {} for key in ("gen_kwargs", "decode", "metadata")
    )
    if own.get("decode") and (generic or decode):
        merged["decode"] = entry_layer(own["decode"], user_layer(generic, decode), model)
    if own.get("gen_kwargs") and generic:
        merged["gen_kwargs"] = replaced_by(own["gen_kwargs"], generic)
    if own.get("metadata") and metadata:
        merged["metadata"] = {**own["metadata"], **metadata}
    return merged


# -- run -------------------------------------------------------------------------------------------

Done = Callable[[SuiteRun, Finished], None]


def run_suite(
    plan: SuitePlan, done: Done = lambda run, finished: None, ask: Ask | None = None
) -> SuiteFinished:
    """Runs a suite. An entry that fails is an outcome with its reason; the others are run.

    Args:
        plan: from `plan_suite`.
        done: called after each run.
        ask: as for `run`.

    Raises:
        UserError: the model or a setting of all runs is not allowed.
    """
    check_settings(plan.settings)
    outcomes: dict[str, Outcome] = {
        name: Outcome(entry, reason=plan.skipped[name], skipped=True)
        for entry in plan.suite.entries
        if (name := entry.entry) in plan.skipped
    }
    finished: list[Finished] = []
    points: list[Point] = []
    home = output_directory(plan.settings.output_path) if plan.settings.output_path else None
    opened: Mapping[str, Any] | None = None
    with ExitStack() as stack:
        waiting = list(plan.runs)
        while waiting:
            one = waiting.pop(0)
            if one.settings.model_args != opened:  # recorded answers: each entry has its file
                stack.close()
                opened = one.settings.model_args
                settings = replace(plan.settings, model_args=opened)
                loaded = stack.enter_context(open_model(settings, home))
                checkpoint = checkpoint_of(plan.model, loaded)
            try:
                found = run(one.settings, ask, loaded, suite=mark(plan, one, checkpoint))
            except DlmEvalError as error:
                if len(one.entries) > 1:  # which of them fails is not known
                    waiting[:0] = apart(one)
                    continue
                entry = one.entries[0]
                log.warning("entry '%s' failed: %s", entry.entry, error)
                outcomes[entry.entry] = Outcome(
                    entry, published=entry.published.get(checkpoint), reason=str(error)
                )
                continue
            finished.append(found)
            points += points_of(one.settings.decode, found.results)
            for entry in one.entries:
                if one.settings.predict_only:
                    outcome = Outcome(entry, reason="answers only", skipped=True)
                else:
                    outcome = outcome_of(entry, found.results, checkpoint)
                outcomes[entry.entry] = replace(outcome, replaced=plan.replaces)
            done(one, found)
    return SuiteFinished(
        plan,
        tuple(outcomes[entry.entry] for entry in plan.suite.entries),
        tuple(finished),
        sum(each.errors for each in finished),
        tuple(dict.fromkeys(part for each in finished for part in each.missing)),
        tuple(points),
    )


def apart(whole: SuiteRun) -> list[SuiteRun]:
    """Returns a run as one run per entry."""
    return [
        SuiteRun((entry,), replace(whole.settings, tasks=(entry.task,))) for entry in whole.entries
    ]


def checkpoint_of(model: str, loaded: Loaded) -> str:
    """Returns the name under which a suite lists the figures of a model: its checkpoint's."""
    known = loaded.facts.get("checkpoint")
    if known:
        return str(known)
    return model if model in known_families() else find_checkpoint(model).name


def mark(plan: SuitePlan, one: SuiteRun, checkpoint: str) -> dict[str, Any]:
    """Returns what the result file of a run says about the suite."""
    return {
        "name": plan.suite.suite,
        "digest": plan.suite.digest,
        "entries": {
            entry.entry: {
                "task": entry.task,
                "metric": entry.metric,
                "filter": entry.filter,
                "scale": entry.scale,
                "published": entry.published.get(checkpoint),
                "protocol": entry.protocol,
            }
            for entry in one.entries
        },
        "overridden": dict(plan.overridden),
    }


def outcome_of(entry: Entry, results: Mapping[str, Any], checkpoint: str) -> Outcome:
    """Returns the figure of an entry in the results of its run."""
    published = entry.published.get(checkpoint)
    scores = results["results"].get(entry.task)
    known = metrics_of(scores or {})
    if not known:
        why = "the results have no score for it" if scores is not None else "it has no average"
        return Outcome(entry, published=published, reason=_why(entry, results) or why)
    chosen = [
        key for key in known if entry.metric in (None, key[0]) and entry.filter in (None, key[1])
    ]
    if not chosen:
        wanted = ",".join(filter(None, (entry.metric, entry.filter)))
        have = ", ".join(",".join(key) for key in known)
        reason = f"the results have no {wanted}; they have {have}"
        return Outcome(entry, published=published, reason=reason)
    metric, pipeline = chosen[0]
    stderr = (scores or {}).get(f"{metric}_stderr,{pipeline}")
    if not isinstance(stderr, (int, float)):  # lm-eval has none of a perplexity
        stderr = error_of(results, "perplexity_stderr", entry.task, metric)
    count, total = _documents(entry.task, results)
    tasks = results.get("dlm_eval", {}).get("tasks", {})
    leaves = list(_members(entry.task, results.get("group_subtasks", {})))
    approximations = [str(tasks.get(leaf, {}).get("approximation") or "") for leaf in leaves]
    found = bool(leaves) and all(tasks.get(leaf, {}).get("finds_length") for leaf in leaves)
    return Outcome(
        entry, metric, pipeline, _number(known[chosen[0]]), _number(stderr), count, total, published,
        finds_length=found, approximation=", ".join(dict.fromkeys(filter(None, approximations))),
    )  # fmt: skip


def _why(entry: Entry, results: Mapping[str, Any]) -> str:
    """Returns the first reason of a task whose samples all failed; "" if there is none."""
    rows = (results.get("samples") or {}).get(entry.task) or ()
    return next((str(row["error"]) for row in rows if "error" in row), "")


def _documents(task: str, results: Mapping[str, Any]) -> tuple[int | None, int | None]:
    """Returns the numbers of scored and of all documents of a task, or of a group's tasks."""
    names = list(_members(task, results.get("group_subtasks", {})))
    counts = results.get("n-samples", {})
    if not names or any(name not in counts for name in names):
        return None, None
    scored, whole = (sum(counts[name][key] for name in names) for key in ("effective", "original"))
    return scored, whole


def _members(name: str, groups: Mapping[str, Sequence[str]]) -> Iterator[str]:
    below = groups.get(name) or ()
    if not below:
        yield name
    for child in below:
        yield from _members(child, groups)


def _number(value: Any) -> float | None:
    """Returns a metric as a number; None if it is none, or larger than a float can be."""
    try:
        return float(value) if isinstance(value, (int, float)) and value == value else None
    except OverflowError:
        return None
