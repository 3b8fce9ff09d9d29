"""`--dry_run`: what a run would do. Nothing is loaded but config and tokenizer, nothing is run, and
nothing is written.

The requests are built by the code of a run, with a model without weights, and counted in place of
being answered. The run ends before the first filter.
"""

from __future__ import annotations

import dataclasses
import os
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, cast

from lm_eval.api.instance import Instance
from lm_eval.api.model import LM

from dlm_eval import models
from dlm_eval.answers import look_up
from dlm_eval.budget import DeviceProfile
from dlm_eval.decoding.filling import most_forwards
from dlm_eval.engine.batching import Footprint
from dlm_eval.errors import DlmEvalError, RunError, SampleError, UserError
from dlm_eval.harness.baseline import BLANK, Baseline, TextLM
from dlm_eval.harness.checks import Ask, check_settings
from dlm_eval.harness.lm import TOGETHER, DiffusionLM, prepared_jobs, texts_of
from dlm_eval.harness.open_model import Loaded, is_ours
from dlm_eval.harness.recorded import NAME as RECORDED
from dlm_eval.harness.recorded import RecordedLM, RecordedOptions
from dlm_eval.harness.results import Record, is_in_shard, records_of
from dlm_eval.harness.run import run
from dlm_eval.harness.run_settings import RunSettings
from dlm_eval.jobs import Answer, FillJob, Job, QuestionJob, ScoreJob, Scores
from dlm_eval.journal import Journal, StoredJournal
from dlm_eval.likelihood.program import most_rows
from dlm_eval.models.denoiser import Denoiser, embedding_rows, read_ahead
from dlm_eval.models.transformer import TransformersDenoiser
from dlm_eval.redaction import redact, redact_values
from dlm_eval.rng import digest
from dlm_eval.workers import JournalOnly
from dlm_eval.workers.devices import parse_devices, worker_devices

Counted = ScoreJob | QuestionJob | FillJob
Counts = Literal["jobs", "texts", "recorded", "requests"]
ANY_NUMBER = 10**6  # GPUs of a machine that the run may be sent to


@dataclass
class TaskPlan:
    """What a run would do for one task.

    Numbers of forwards and positions are maxima: an early exit makes them smaller.

    Attributes:
        name: the task.
        kind: 'likelihood' or 'generation'; '' for lm-eval's own models.
        documents: number of documents.
        requests: questions put to the model, repeats included.
        known: those whose answers are in the journal, or in the file of recorded answers.
        to_ask: requests that the run would put to one of lm-eval's models; equal ones count once.
        refused: those that would be stored as errors before they reach the model.
        reasons: why, with their numbers.
        truncated: those whose context would be cut from the left.
        tokens: tokens to score, or to write at most.
        forwards: rows of all requests: those of known answers as they were, at most those of others.
        unbounded: requests whose decoder has no known maximum; `forwards` leaves them out.
        forwards_left: rows that the run would still run; equal requests run once.
        positions_left: positions of these rows.
        longest: positions of the longest canvas.
        most_open: open positions of the canvas that has most.
    """

    name: str
    kind: str = ""
    documents: int = 0
    requests: int = 0
    known: int = 0
    to_ask: int = 0
    refused: int = 0
    reasons: Counter[str] = field(default_factory=Counter)
    truncated: int = 0
    tokens: int = 0
    forwards: int = 0
    unbounded: int = 0
    forwards_left: int = 0
    positions_left: int = 0
    longest: int = 0
    most_open: int = 0

    def refuse(self, reason: str) -> None:
        """Counts a request that would be stored as an error."""
        self.refused += 1
        self.reasons[reason] += 1

    def plain(self) -> dict[str, Any]:
        """Returns the plan as plain data."""
        return {**vars(self), "reasons": dict(self.reasons)}


@dataclass(frozen=True)
class Rate:
    """Positions per second of one device, measured in earlier runs.

    Attributes:
        per_second: positions per second.
        seconds: device seconds of the measurement.
        devices: names of the devices.
        same_devices: whether these runs had the same --devices.
    """

    per_second: float
    seconds: float
    devices: tuple[str, ...]
    same_devices: bool


@dataclass(frozen=True)
class Memory:
    """Device memory of the model and of one row, in bytes. None if it is not known.

    Attributes:
        weights: the weights.
        dtype: their number format.
        row_logits: float32 logits of one row of the longest request.
        row_activations: activations of such a row, as measured in an earlier run.
        row_cache: its KV cache, likewise.
    """

    weights: int | None
    dtype: str
    row_logits: int
    row_activations: int | None
    row_cache: int | None


@dataclass(frozen=True)
class Plan:
    """What a run would do.

    Attributes:
        model: the model's name.
        counted: what was counted: 'jobs' of our denoisers; 'texts' of one of lm-eval's models (no
            tokens, forwards and memory); 'recorded' answers; 'requests' of a model that was not
            made (documents and requests only).
        tasks: per task.
        devices: number of devices.
        journal: the journal that was read; None if there is none.
        memory: memory of the model and of one row; None for lm-eval's own models.
        rate: speed in earlier runs, or None.
        hours: time of the forwards that are left on all devices; None if there is no rate.
        notes: what a run on this machine would refuse or warn of.
    """

    model: str
    counted: Counts
    tasks: tuple[TaskPlan, ...]
    devices: int
    journal: str | None = None
    memory: Memory | None = None
    rate: Rate | None = None
    hours: float | None = None
    notes: tuple[str, ...] = ()

    @property
    def total(self) -> TaskPlan:
        """The sum of all tasks."""
        whole = TaskPlan("all")
        for task in self.tasks:
            for name in ("documents", "requests", "known", "to_ask", "refused", "truncated", "tokens", "forwards", "unbounded",
                         "forwards_left", "positions_left"):  # fmt: skip
                setattr(whole, name, getattr(whole, name) + getattr(task, name))
            whole.reasons += task.reasons
            whole.longest = max(whole.longest, task.longest)
            whole.most_open = max(whole.most_open, task.most_open)
        return whole

    def plain(self) -> dict[str, Any]:
        """Returns the plan as plain data."""
        found: dict[str, Any] = redact_values(
            {
                **vars(self),
                "tasks": {task.name: task.plain() for task in self.tasks},
                "total": self.total.plain(),
                "memory": self.memory and vars(self.memory),
                "rate": self.rate and {**vars(self.rate), "devices": list(self.rate.devices)},
                "notes": list(self.notes),
            }
        )
        return found


class _Counted(DlmEvalError):
    """Ends the run before filters and metrics."""


def dry_run(settings: RunSettings, ask: Ask | None = None) -> Plan:
    """Returns what a run would do.

    Raises:
        UserError: a run would refuse a setting, a task or its data.
    """
    settings = dataclasses.replace(settings, dry_run=True)
    check_settings(settings)
    notes: list[str] = []
    if settings.output_path is not None:
        _check_output(settings.output_path)
    with closing(_Stored(settings, notes)) as stored:
        if settings.model == RECORDED:
            return _of_recorded(settings, ask, notes)
        plan = _of_jobs if is_ours(settings.model) else _of_texts
        return plan(settings, ask, stored.journal, notes)


def _of_jobs(
    settings: RunSettings, ask: Ask | None, journal: StoredJournal | None, notes: list[str]
) -> Plan:
    """Returns the plan of a run of our denoisers."""
    arguments = dict(settings.model_args)
    if settings.device is not None:
        arguments["device"] = settings.device
    model = models.load_without_weights(settings.model, **arguments)
    facts = redact(model.describe())
    name = str(facts.get("checkpoint") or facts.get("pretrained") or settings.model)
    counting = _Counting(name, facts, model=model, pool=JournalOnly(), journal=journal)
    _count(settings, ask, counting, lambda _: None)
    tasks = tuple(counting.plans.values())
    devices = _devices(settings, notes)
    profile, rate = _profile(settings, arguments, journal, digest(facts))
    left = sum(task.positions_left for task in tasks)
    return Plan(
        name,
        "jobs",
        tasks,
        devices,
        str(journal.path) if journal is not None else None,
        _memory(model, facts, tasks, profile.footprint),
        rate,
        left / rate.per_second / devices / 3600 if rate is not None else None,
        tuple(notes),
    )


def _of_texts(
    settings: RunSettings, ask: Ask | None, journal: StoredJournal | None, notes: list[str]
) -> Plan:
    """Returns the plan of a run of one of lm-eval's own models.

    One of transformers, and one on a server, is made without weights. Any other can only be loaded
    whole, so its requests are built, but not looked up.
    """
    baseline = Baseline.of(settings, settings.device)
    if not (baseline.is_transformers or baseline.is_remote):
        return _of_requests(settings, ask, notes)
    try:
        lm = baseline.load_without_weights()
    except UserError as error:
        if not baseline.is_remote:
            raise
        # The machine of the run may have the API's key and tokenizer.
        notes.append(f"a run on this machine would be refused: {error}")
        return _of_requests(settings, ask, notes)
    counting = _CountingTexts(
        baseline.checkpoint, baseline.facts, lm=lm, pool=JournalOnly(), journal=journal,
        baseline=baseline,
    )  # fmt: skip
    _count(settings, ask, counting, lambda _: None)
    devices = 1 if baseline.is_remote else _devices(settings, notes)
    stored = str(journal.path) if journal is not None else None
    return Plan(
        baseline.checkpoint, "texts", tuple(counting.plans.values()), devices, stored,
        notes=tuple(notes),
    )  # fmt: skip


def _of_recorded(settings: RunSettings, ask: Ask | None, notes: list[str]) -> Plan:
    """Returns the plan of a run of recorded answers, which are read and found as in the run."""
    options = RecordedOptions.of(settings.model_args)
    lm = RecordedLM(options, settings.chosen)
    plans: dict[str, TaskPlan] = {}
    _count(settings, ask, _Asked(options.called, {}, lm=lm), lambda _: None)
    for record in lm.records:
        plan = plans.setdefault(record.task, TaskPlan(record.task, record.kind))
        plan.requests += 1
        if record.error is not None:
            plan.refuse(record.error)
        else:
            plan.known += not record.skipped
    _count_documents(plans, lm.records)
    return Plan(options.called, "recorded", tuple(plans.values()), 1, notes=tuple(notes))


def _of_requests(settings: RunSettings, ask: Ask | None, notes: list[str]) -> Plan:
    """Returns the plan of a run of a model that is not made."""
    plans: list[TaskPlan] = []

    def counted(tasks: Mapping[str, Any]) -> None:
        for name, task in tasks.items():
            asked = [
                request
                for request in task._instances
                for _ in range(request.repeats)
                if is_in_shard(request, settings.part, settings.chosen)
            ]
            documents = {request.doc_id for request in asked}
            plans.append(TaskPlan(name, documents=len(documents), requests=len(asked)))

    loaded = _Asked(settings.model, {"family": settings.model}, lm=_Unanswered())
    _count(settings, ask, loaded, counted)
    return Plan(settings.model, "requests", tuple(plans), 1, notes=tuple(notes))


def _count(
    settings: RunSettings,
    ask: Ask | None,
    loaded: Loaded,
    counted: Callable[[Mapping[str, Any]], None],
) -> None:
    """Builds all requests of a run and gives them to the model of `loaded`."""

    def answered(_: Loaded, tasks: Mapping[str, Any]) -> None:
        counted(tasks)
        raise _Counted("all requests are counted")

    with suppress(_Counted):
        run(settings, ask, shared=loaded, answered=answered)


# -- what is counted -------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Counting(Loaded):
    """A model without weights, whose LM counts requests."""

    plans: dict[str, TaskPlan] = field(default_factory=dict)

    def under(self, settings: RunSettings, by_order: frozenset[str] = frozenset()) -> Loaded:
        loaded = super().under(settings, by_order)
        lm = _CountingLM(loaded.lm.model, loaded.lm.pool, loaded.lm.options, self.journal)
        lm.plans = self.plans
        return dataclasses.replace(loaded, lm=lm)


class _Asked(Loaded):
    """One of lm-eval's models, which is not loaded."""

    def under(self, settings: RunSettings, by_order: frozenset[str] = frozenset()) -> Loaded:
        return self


class _CountingLM(DiffusionLM):
    """Counts the jobs of requests in place of running them."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.plans: dict[str, TaskPlan] = {}
        self._seen: set[str] = set()

    def ahead(self, requests: Sequence[Instance]) -> None:
        pass  # they are counted when lm-eval asks

    def _answer(self, kind: str, requests: Sequence[Instance]) -> list[Any]:
        own = [request for request in requests if self._is_ours(request)]
        prepare, title = self._kinds[kind].jobs(own), self._kinds[kind].title
        records = list(records_of(own, title))
        for first in range(0, len(own), TOGETHER):
            near = own[first : first + TOGETHER]
            read_ahead(self.model, [text for request in near for text in texts_of(request)])
            self._add(
                [
                    (record, prepared_jobs(prepare, request, record))
                    for request, record in zip(near, records[first:], strict=False)
                ]
            )
        _count_documents(self.plans, records)
        return [self._kinds[kind].blank for _ in requests]

    def _add(self, prepared: Sequence[tuple[Record, list[Job]]]) -> None:
        """Adds requests with their jobs to the plans of their tasks."""
        jobs = cast(list[Counted], [job for _, own in prepared for job in own])
        found = iter(look_up(jobs, self.fingerprint, self.journal))
        for record, own in prepared:
            plan = self.plans.setdefault(record.task, TaskPlan(record.task, record.kind))
            plan.requests += 1
            plan.truncated += record.truncated > 0
            asked = [next(found) for _ in own]
            try:
                if record.error is not None:
                    raise SampleError(record.error)
                self._add_request(plan, record, asked)
            except SampleError as error:
                plan.refuse(str(error))

    def _add_request(
        self, plan: TaskPlan, record: Record, asked: Sequence[tuple[str, Answer | None, Counted]]
    ) -> None:
        # Counted first, so that a request that is refused adds nothing.
        most = [self._most(job) if answer is None else answer.rows for _, answer, job in asked]
        plan.known += all(answer is not None for _, answer, _ in asked)
        for rows, (key, answer, job) in zip(most, asked, strict=True):
            plan.tokens += _tokens(job, record)
            plan.longest = max(plan.longest, len(job.canvas))
            plan.most_open = max(plan.most_open, sum(job.canvas.open))
            if rows is None:
                plan.unbounded += 1
                continue
            plan.forwards += self._own_share(rows, answer, job, record)
            if answer is None and key not in self._seen:
                self._seen.add(key)
                begun = job.begun if isinstance(job, FillJob) else None
                left = rows - (begun.state.forwards if begun is not None else 0)
                plan.forwards_left += left
                plan.positions_left += left * len(job.canvas)

    def _most(self, job: Counted) -> int | None:
        """Returns the maximum number of rows of a job; None if it is not known."""
        if isinstance(job, FillJob):
            return most_forwards(self.model, job.canvas, job.settings)
        if isinstance(job, QuestionJob):
            return sum(most_rows(self.model, one, job.estimator) for one in job.canvases)
        return most_rows(self.model, job.canvas, job.estimator, job.greedy)

    def _own_share(self, rows: int, answer: Answer | None, job: Counted, record: Record) -> int:
        """Returns the rows of one request, whose job may be a whole question."""
        if not isinstance(job, QuestionJob):
            return rows
        place: int = record.details["choice"]
        if answer is not None and isinstance(answer.value, Scores):
            return answer.value.choices[place].rows
        return most_rows(self.model, job.canvases[place], job.estimator)


@dataclass(frozen=True)
class _CountingTexts(Loaded):
    """One of lm-eval's models without weights, whose LM counts requests."""

    plans: dict[str, TaskPlan] = field(default_factory=dict)

    def under(self, settings: RunSettings, by_order: frozenset[str] = frozenset()) -> Loaded:
        made = super().under(settings, by_order).lm
        lm = _CountingTextLM(made.lm, self.baseline, self.pool, made.options, self.journal)
        lm.plans = self.plans
        return dataclasses.replace(self, lm=lm)


class _CountingTextLM(TextLM):
    """Counts the text jobs of requests in place of running them."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.plans: dict[str, TaskPlan] = {}
        self._seen: set[str] = set()

    def _answer(self, requests: Sequence[Instance], kind: str) -> list[Any]:
        own = [request for request in requests if self._is_ours(request)]
        records = list(records_of(own, "generation" if kind == "generate_until" else "likelihood"))
        asked = [self._job(kind, *pair) for pair in zip(own, records, strict=True)]
        jobs = [job for job in asked if job is not None]
        found = iter(look_up(jobs, self.fingerprint, self.journal))
        for job, record in zip(asked, records, strict=True):
            plan = self.plans.setdefault(record.task, TaskPlan(record.task, record.kind))
            plan.requests += 1
            if job is None:
                plan.refuse(str(record.error))
                continue
            key, answer, _ = next(found)
            plan.known += answer is not None
            plan.to_ask += answer is None and key not in self._seen
            self._seen.add(key)
        _count_documents(self.plans, records)
        return [BLANK[kind] for _ in requests]


def _count_documents(plans: Mapping[str, TaskPlan], records: Sequence[Record]) -> None:
    """Adds the documents of `records` to the plans of their tasks."""
    for name, _ in {(record.task, record.doc_id) for record in records}:
        plans[name].documents += 1


def _tokens(job: Counted, record: Record) -> int:
    """Returns the tokens of a request: those to score, or to write at most."""
    if isinstance(job, QuestionJob):
        return sum(job.canvases[record.details["choice"]].open)
    return sum(job.canvas.open)


class _Unanswered(LM):
    """An LM that answers nothing, in place of one of lm-eval's own models."""

    def __init__(self) -> None:
        super().__init__()
        self.records: list[Record] = []

    @property
    def tokenizer_name(self) -> str:
        return ""

    def chat_template(self, chat_template: bool | str = False) -> str:
        return ""

    def apply_chat_template(
        self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True
    ) -> str:
        return "\n".join(message["content"] for message in chat_history)

    def loglikelihood(self, requests: list[Instance]) -> list[tuple[float, bool]]:
        return [(0.0, False) for _ in requests]

    def loglikelihood_rolling(self, requests: list[Instance]) -> list[float]:
        return [0.0 for _ in requests]

    def generate_until(self, requests: list[Instance]) -> list[str]:
        return ["" for _ in requests]


# -- the machine -----------------------------------------------------------------------------------


def _check_output(output_path: str) -> None:
    """Raises UserError if the output path could not be written. Nothing is created."""
    path = Path(output_path)
    place = path.parent if path.suffix == ".json" else path
    while not place.exists() and place != place.parent:
        place = place.parent
    if not place.is_dir() or not os.access(place, os.W_OK):
        why = "it is not writable" if place.is_dir() else "it is not a folder"
        raise UserError(f"--output_path '{output_path}' cannot be written: {place}: {why}")


class _Stored:
    """The journal of a run, if there is one."""

    def __init__(self, settings: RunSettings, notes: list[str]) -> None:
        self.journal: StoredJournal | None = None
        if settings.output_path is None or not settings.resume:
            return
        path = Path(settings.output_path)
        home = path.parent if path.suffix == ".json" else path
        file = (home / settings.part.folder if settings.part else home) / "journal.sqlite"
        if not file.is_file():
            return
        try:
            self.journal = StoredJournal(file)
        except RunError as error:
            notes.append(f"{error}; a run would set it aside and begin a new one")

    def close(self) -> None:
        """Closes the journal."""
        if self.journal is not None:
            self.journal.close()


def _devices(settings: RunSettings, notes: list[str]) -> int:
    """Returns the number of devices; notes if this machine lacks them. No cluster is asked."""
    if settings.engine == "ray":
        text = settings.devices or "auto"
        if text.strip().lower() == "auto":
            notes.append("--engine ray takes all GPUs of the cluster; hours are those of one")
            return 1
        return len(parse_devices(text, ANY_NUMBER))
    try:
        return max(1, len(worker_devices(settings.devices, settings.engine)))
    except UserError as error:
        count = len(parse_devices(str(settings.devices), ANY_NUMBER))
        notes.append(f"a run on this machine would be refused: {error}")
        return count


def _profile(
    settings: RunSettings, arguments: Mapping[str, Any], journal: Journal | None, model: str
) -> tuple[DeviceProfile, Rate | None]:
    """Returns the measurements of earlier runs of the model, on the same devices if there are any."""
    if journal is None:
        return DeviceProfile(), None
    where = f"{settings.engine} {settings.devices or arguments.get('device') or 'auto'}"
    same = f"learned:{digest(settings.model, sorted(map(str, redact(arguments).items())), where)}"
    found = []
    for key, note in journal.notes("learned:").items():
        if isinstance(note, dict) and note.get("model") == model:
            found.append((key == same, DeviceProfile.of(note), note.get("devices")))
    found.sort(key=lambda one: (one[0], one[1].seconds), reverse=True)
    for is_same, profile, names in found:
        if profile.rate is not None:
            devices = tuple(map(str, names)) if isinstance(names, list) else ()
            return profile, Rate(profile.rate, profile.seconds, devices, is_same)
    return (found[0][1] if found else DeviceProfile()), None


def _memory(
    model: Denoiser,
    facts: Mapping[str, Any],
    tasks: Sequence[TaskPlan],
    footprint: Footprint | None,
) -> Memory:
    """Returns the memory of the model and of one row of the longest request."""
    longest = max((task.longest for task in tasks), default=0)
    most_open = max((task.most_open for task in tasks), default=0)
    weights = None
    if isinstance(model, TransformersDenoiser):
        weights = sum(part.numel() * part.element_size() for part in model.model.parameters())
    vocabulary = max(model.vocab_size, embedding_rows(model))
    return Memory(
        weights,
        str(facts.get("dtype") or ""),
        most_open * vocabulary * 4,
        int(longest * footprint.token) if footprint is not None else None,
        int(longest * footprint.memory) if footprint is not None else None,
    )
