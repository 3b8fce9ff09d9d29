"""The plan of a dry run: what a run would do for each task, and how its requests are counted."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Protocol

from lm_eval.api.instance import Instance

from dlm_eval.answers import look_up
from dlm_eval.errors import SampleError, UserError
from dlm_eval.harness.request_jobs import RequestKinds
from dlm_eval.harness.results import Record
from dlm_eval.harness.run_settings import RunSettings
from dlm_eval.jobs import Answer, Job
from dlm_eval.journal import StoredJournal
from dlm_eval.redaction import redact_values
from dlm_eval.workers.devices import parse_devices, worker_devices

if TYPE_CHECKING:
    from dlm_eval.harness.model_kind import Loaded

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


@dataclass(frozen=True)
class DryRun:
    """A dry run, of which the kind of the model makes a `Plan`.

    Attributes:
        settings: settings of the run.
        build: builds all requests of the run and gives them to a model's LM; returns the tasks.
        journal: the journal of the run; None if there is none.
        notes: what a run on this machine would refuse or warn of; the plan's are added.
    """

    settings: RunSettings
    build: Callable[[Loaded], Mapping[str, Any]]
    journal: StoredJournal | None
    notes: list[str]

    @property
    def journal_path(self) -> str | None:
        """Path of the journal."""
        return str(self.journal.path) if self.journal is not None else None

    def devices(self) -> int:
        """Returns the number of devices; notes if this machine lacks them. No cluster is asked."""
        settings = self.settings
        if settings.engine == "ray":
            text = settings.devices or "auto"
            if text.strip().lower() == "auto":
                self.notes.append(
                    "--engine ray takes all GPUs of the cluster; hours are those of one"
                )
                return 1
            return len(parse_devices(text, ANY_NUMBER))
        try:
            return max(1, len(worker_devices(settings.devices, settings.engine)))
        except UserError as error:
            count = len(parse_devices(str(settings.devices), ANY_NUMBER))
            self.notes.append(f"a run on this machine would be refused: {error}")
            return count


class Found(NamedTuple):
    """A job as a dry run finds it: its journal key, its answer there, and it with its checkpoint."""

    key: str
    answer: Answer | None
    job: Job


class JobCount(Protocol):
    """Counts the jobs of a request."""

    def __call__(self, plan: TaskPlan, record: Record, found: Sequence[Found]) -> None:
        """Adds a request's jobs to the plan of its task.

        Raises:
            SampleError: the request would be stored as an error; nothing is added then.
        """
        ...


class CountedRequests:
    """`Requests` whose jobs are looked up and counted in place of being answered (--dry_run).

    Args:
        kinds: the kinds of requests.
        fingerprint: identity of the model.
        journal: the journal of the run, or None.
        count: adds the jobs of a request to the plan of its task.
        plans: the plans of the tasks, which are made here.
    """

    def __init__(
        self,
        kinds: RequestKinds,
        fingerprint: str,
        journal: StoredJournal | None,
        count: JobCount,
        plans: dict[str, TaskPlan],
    ) -> None:
        self.kinds = kinds
        self.records: list[Record] = []
        self.failed: dict[str, Answer] = {}
        self._fingerprint, self._journal = fingerprint, journal
        self._count, self._plans = count, plans

    def ahead(self, requests: Sequence[Instance]) -> None:
        """Does nothing: requests are counted when lm-eval asks for all of them."""

    def stop(self) -> None:
        """Does nothing: no pool runs."""

    def answer(self, kind: str, requests: Sequence[Instance]) -> list[Any]:
        """Counts the jobs of requests; returns blank answers."""
        records = []
        for near in self.kinds.prepared(kind, requests):
            jobs = [job for one in near for job in one.jobs]
            found = (Found(*one) for one in look_up(jobs, self._fingerprint, self._journal))
            for one in near:
                self._add(one.record, [next(found) for _ in one.jobs])
            records += [one.record for one in near]
        count_documents(self._plans, records)
        return [self.kinds.of[kind].blank for _ in requests]

    def _add(self, record: Record, found: Sequence[Found]) -> None:
        """Adds a request with its jobs to the plan of its task."""
        plan = self._plans.setdefault(record.task, TaskPlan(record.task, record.kind))
        plan.requests += 1
        plan.truncated += record.truncated > 0
        try:
            if record.error is not None:
                raise SampleError(record.error)
            self._count(plan, record, found)
            plan.known += all(one.answer is not None for one in found)
        except SampleError as error:
            plan.refuse(str(error))


def count_documents(plans: Mapping[str, TaskPlan], records: Iterable[Record]) -> None:
    """Adds the documents of `records` to the plans of their tasks."""
    for name, _ in {(record.task, record.doc_id) for record in records}:
        plans[name].documents += 1
