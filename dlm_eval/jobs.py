"""Jobs: canvases to score or to fill, answered from the journal or by the model.

A job is what the journal remembers and what a worker receives; answering it is one program of the engine.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from dlm_eval.canvas import Canvas, Filling, Score
from dlm_eval.decoding import DecodeSettings, fill_program
from dlm_eval.decoding.checkpoints import Offer, State
from dlm_eval.decoding.filling import fits
from dlm_eval.decoding.strategy import FillRequest
from dlm_eval.engine import Engine, Outcome, Program
from dlm_eval.errors import DlmEvalError, SampleError, UserError
from dlm_eval.likelihood import Estimator, question_program, score_program
from dlm_eval.models.denoiser import Denoiser
from dlm_eval.rng import Noise

CHECKPOINT_SECONDS = (
    30.0  # between two checkpoints of one canvas; the variable DLM_EVAL_CHECKPOINT_SECONDS says otherwise
)

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ScoreJob:
    """Score `canvas`; with `greedy`, also tell whether the model itself would have written the target."""

    canvas: Canvas
    estimator: Estimator
    seed: int
    greedy: bool = False


@dataclass(frozen=True)
class QuestionJob:
    """Score the choices of one question together, so that sampling can end once the best one is settled.

    Attributes:
        canvases: the choices.
        estimator: one that stops early.
        seed: of the noise.
        lengths: what normalised scores divide each choice's by; their order is settled too.
    """

    canvases: tuple[Canvas, ...]
    estimator: Estimator
    seed: int
    lengths: tuple[int, ...]

    @property
    def canvas(self) -> Canvas:
        """The longest choice: what the job weighs in a batch."""
        return max(self.canvases, key=len)


@dataclass(frozen=True)
class Scores:
    """The scores of a question's choices, in their order."""

    choices: tuple[Score, ...]


@dataclass(frozen=True)
class Checkpoint:
    """How far a filling has come: the state of its canvas, and model seconds of its share of the batches so far."""

    state: State
    seconds: float


@dataclass(frozen=True)
class FillJob:
    """Write the open positions of `canvas`, from `begun` on if an interrupted run has left that."""

    canvas: Canvas
    settings: DecodeSettings
    seed: int
    begun: Checkpoint | None = field(default=None, compare=False)


Job = ScoreJob | QuestionJob | FillJob


@dataclass(frozen=True)
class Answer:
    """A job's answer with its cost.

    Attributes:
        value: the score, scores or filling, or None where the sample erred.
        error: the reason, or None.
        rows: forward passes of this job's own rows.
        seconds: model seconds of its share of the batches.
    """

    value: Score | Scores | Filling | None
    error: str | None
    rows: int
    seconds: float


Done = Callable[[int, Answer], None]
Keep = Callable[[int, Checkpoint], None]


def keep_none(number: int, checkpoint: Checkpoint) -> None:
    """Lets a checkpoint go."""


def start(engine: Engine, job: Job, keep: Callable[[Checkpoint], None]) -> Program[Any]:
    """Returns the program that answers `job`; `keep` gets its checkpoints."""
    noise = Noise.of(job.canvas, job.seed)
    if isinstance(job, ScoreJob):
        return _guarded(score_program(engine.model, job.canvas, job.estimator, noise, greedy=job.greedy))
    if isinstance(job, QuestionJob):
        return _guarded(_question(engine, job, noise))
    begun = job.begun.state if job.begun is not None else None
    offer = _every_so_often(engine, job.begun.seconds if job.begun is not None else 0.0, keep)
    return _guarded(fill_program(FillRequest(engine.model, job.canvas, job.settings, noise, begun=begun, offer=offer)))


def _every_so_often(engine: Engine, earlier: float, keep: Callable[[Checkpoint], None]) -> Offer:
    """Returns what takes the state that a program offers and keeps it, if the last time is long enough ago."""
    pause, last = _pause(), time.monotonic()

    def offer(state: Callable[[], State]) -> None:
        nonlocal last
        if time.monotonic() - last >= pause:
            last = time.monotonic()
            keep(Checkpoint(state(), earlier + engine.program_seconds))

    return offer


def _pause() -> float:
    """Returns the seconds between two checkpoints of a canvas.

    Raises:
        UserError: the environment has another thing than a number for it.
    """
    text = os.environ.get("DLM_EVAL_CHECKPOINT_SECONDS", "")
    try:
        return float(text or CHECKPOINT_SECONDS)
    except ValueError:
        raise UserError(
            f"DLM_EVAL_CHECKPOINT_SECONDS '{text}' is not allowed; it must be a number of seconds ('inf': never)"
        ) from None


def _question(engine: Engine, job: QuestionJob, noise: Noise) -> Program[Scores]:
    scores = yield from question_program(engine.model, job.canvases, job.estimator, noise, lengths=job.lengths)
    return Scores(tuple(scores))


def _guarded(program: Program[Any]) -> Program[Any]:
    """Returns the program; whatever goes wrong inside it is the error of its sample, not the end of the run."""
    try:
        return (yield from program)
    except DlmEvalError:
        raise
    except Exception as error:
        log.warning("a sample failed", exc_info=error)
        raise SampleError(f"{type(error).__name__}: {error}") from error


def run_jobs(engine: Engine, jobs: Sequence[Job], done: Done, keep: Keep = keep_none) -> None:
    """Answers `jobs` in this process, longest canvases first (they then share batches with their like)."""
    drive_jobs(engine, ((i, jobs[i]) for i in longest_first(jobs)), done, keep)


def longest_first(jobs: Sequence[Job]) -> list[int]:
    """Returns the order in which jobs are started: by length, the choices of a question together (they may share rows)."""
    return sorted(range(len(jobs)), key=lambda i: (-len(jobs[i].canvas), jobs[i].canvas.key, i))


def drive_jobs(engine: Engine, numbered: Iterable[tuple[int, Job]], done: Done, keep: Keep = keep_none) -> None:
    """Answers jobs as they come; the next is taken when there is room for its rows.

    Args:
        engine: runs the rows.
        numbered: jobs with their numbers.
        done: called with number and answer as each ends.
        keep: called with number and checkpoint of a job that is under way, every `CHECKPOINT_SECONDS`.
    """
    begun: list[tuple[int, Job]] = []

    def programs() -> Iterable[Program[Any]]:
        for number, job in numbered:
            job = _sound(engine.model, job)
            begun.append((number, job))
            yield start(engine, job, partial(keep, number))

    def finish(place: int, outcome: Outcome[Any]) -> None:
        number, job = begun[place]
        done(number, _answer(outcome, job))

    engine.drive(programs(), finish)


def _sound(model: Denoiser, job: Job) -> Job:
    """Returns the job, without a checkpoint that cannot be one of its canvas: the canvas is begun anew."""
    if not isinstance(job, FillJob) or job.begun is None or fits(model, job.canvas, job.settings, job.begun.state):
        return job
    log.warning("a checkpoint in the journal cannot be one of its canvas, which is begun anew")
    return replace(job, begun=None)


def _answer(outcome: Outcome[Any], job: Job) -> Answer:
    """Returns the answer with its cost, that of the run which left a checkpoint included."""
    earlier = job.begun if isinstance(job, FillJob) else None
    rows = outcome.rows + (earlier.state.forwards if earlier is not None else 0)
    seconds = outcome.seconds + (earlier.seconds if earlier is not None else 0.0)
    if isinstance(outcome.answer, SampleError):
        return Answer(None, str(outcome.answer), rows, seconds)
    return Answer(outcome.answer, None, rows, seconds)
