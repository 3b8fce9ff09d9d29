"""The plan of a dry run of one of our denoisers: its forwards, tokens, memory and hours."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

from dlm_eval.budget import DeviceProfile
from dlm_eval.decoding.filling import most_forwards
from dlm_eval.engine.batching import Footprint
from dlm_eval.harness.plan import Found, Memory, Rate, TaskPlan
from dlm_eval.harness.results import Record
from dlm_eval.jobs import Answer, FillJob, QuestionJob, ScoreJob, Scores
from dlm_eval.journal import StoredJournal
from dlm_eval.likelihood.program import most_rows
from dlm_eval.models.denoiser import Denoiser, embedding_rows
from dlm_eval.models.transformer import TransformersDenoiser

Counted = ScoreJob | QuestionJob | FillJob


class CanvasCount:
    """Counts the rows and tokens of jobs; equal jobs run once."""

    def __init__(self, model: Denoiser) -> None:
        self.model = model
        self._seen: set[str] = set()

    def __call__(self, plan: TaskPlan, record: Record, found: Sequence[Found]) -> None:
        """Adds a request's jobs to the plan of its task."""
        asked = [(key, answer, cast(Counted, job)) for key, answer, job in found]
        # Counted first, so that a request that is refused adds nothing.
        most = [self._most(job) if answer is None else answer.rows for _, answer, job in asked]
        for rows, (key, answer, job) in zip(most, asked, strict=True):
            plan.tokens += _tokens(job, record)
            most_open = _most_open(job)
            length = len(job.canvas) - sum(job.canvas.open) + most_open
            plan.longest = max(plan.longest, length)
            plan.most_open = max(plan.most_open, most_open)
            if rows is None:
                plan.unbounded += 1
                continue
            plan.forwards += self._own_share(rows, answer, job, record)
            if answer is None and key not in self._seen:
                self._seen.add(key)
                begun = job.begun if isinstance(job, FillJob) else None
                left = rows - (begun.state.forwards if begun is not None else 0)
                plan.forwards_left += left
                plan.positions_left += left * length

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


def _most_open(job: Counted) -> int:
    """Returns the positions of a job that are scored, or written at most."""
    if isinstance(job, FillJob):
        return job.settings.strategy.most_open(job.canvas)
    return sum(job.canvas.open)


def _tokens(job: Counted, record: Record) -> int:
    """Returns the tokens of a request: those to score, or to write at most."""
    if isinstance(job, QuestionJob):
        return sum(job.canvases[record.details["choice"]].open)
    return _most_open(job)


def measured(
    journal: StoredJournal | None, note: str, model: str
) -> tuple[DeviceProfile, Rate | None]:
    """Returns the measurements of earlier runs of a model, on the same devices if there are any.

    Args:
        note: the journal's name of measurements on the same devices.
        model: identity of the model.
    """
    if journal is None:
        return DeviceProfile(), None
    found = []
    for key, one in journal.notes("learned:").items():
        if isinstance(one, dict) and one.get("model") == model:
            found.append((key == note, DeviceProfile.of(one), one.get("devices")))
    found.sort(key=lambda one: (one[0], one[1].seconds), reverse=True)
    for is_same, profile, names in found:
        if profile.rate is not None:
            devices = tuple(map(str, names)) if isinstance(names, list) else ()
            return profile, Rate(profile.rate, profile.seconds, devices, is_same)
    return (found[0][1] if found else DeviceProfile()), None


def memory(
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
