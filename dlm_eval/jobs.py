"""Jobs: canvases to score or to fill, and texts for a model of lm-eval.

The journal stores answers by job, and workers receive jobs. One program of the engine answers one
job. Text jobs have no program (`workers/texts.py`).
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import count
from typing import Any

from dlm_eval.canvas import Canvas, Filling, Score
from dlm_eval.decoding import DecodeSettings, fill_program
from dlm_eval.decoding.checkpoints import Offer, State
from dlm_eval.decoding.filling import fits
from dlm_eval.decoding.strategy import FillRequest
from dlm_eval.engine import Engine, Outcome, Program
from dlm_eval.engine.engine import AHEAD
from dlm_eval.errors import DlmEvalError, SampleError
from dlm_eval.likelihood import Estimator, question_program, score_program
from dlm_eval.models.denoiser import Denoiser
from dlm_eval.reasons import reason
from dlm_eval.rng import Noise
from dlm_eval.variables import checkpoint_seconds

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ScoreJob:
    """Score `canvas`; with `greedy`, also whether the model would have written the target."""

    canvas: Canvas
    estimator: Estimator
    seed: int
    greedy: bool = False


@dataclass(frozen=True)
class QuestionJob:
    """Score the choices of one question together, so that sampling can stop when the best one is
    clear.

    Attributes:
        canvases: the choices.
        estimator: an estimator that stops early.
        seed: seed of the noise.
        lengths: divisors of the normalised scores, one per choice. Sampling also continues until
            the best normalised score is clear.
    """

    canvases: tuple[Canvas, ...]
    estimator: Estimator
    seed: int
    lengths: tuple[int, ...]

    @property
    def canvas(self) -> Canvas:
        """The longest choice, which determines the job's size."""
        return max(self.canvases, key=len)


@dataclass(frozen=True)
class Scores:
    """The scores of a question's choices, in their order."""

    choices: tuple[Score, ...]


@dataclass(frozen=True)
class Checkpoint:
    """An unfinished filling.

    Attributes:
        state: of its canvas.
        seconds: its share of model time.
        computed: positions that its rows ran; None if it is not known.
    """

    state: State
    seconds: float
    computed: int | None = None


@dataclass(frozen=True)
class FillJob:
    """Fill the open positions of `canvas`, from the checkpoint `begun` if there is one."""

    canvas: Canvas
    settings: DecodeSettings
    seed: int
    begun: Checkpoint | None = field(default=None, compare=False)


@dataclass(frozen=True)
class TextJob:
    """A request for one of lm-eval's own models.

    Attributes:
        kind: name of the model's method: lm-eval's request type, or `_loglikelihood_tokens`.
        arguments: arguments of the request; for ids the two texts and the ids of each.
        identity: hash of `kind` and `arguments`.
        draw: identity of the draw if the answer is sampled; "" if equal requests share one answer.
        size: characters to read, and about as many to write.
    """

    kind: str
    arguments: tuple[Any, ...] = field(compare=False)
    identity: str
    draw: str = ""
    size: int = 0


@dataclass(frozen=True)
class Reply:
    """The answer of a TextJob: a text, a log-likelihood (nats), or one with is_greedy."""

    content: str | float | tuple[float, bool]


CanvasJob = ScoreJob | QuestionJob | FillJob
Job = CanvasJob | TextJob


@dataclass(frozen=True)
class Answer:
    """A job's answer with its cost.

    Attributes:
        value: the score, scores, filling or reply; None if the sample failed.
        error: the reason, or None.
        rows: forward passes of this job's own rows.
        seconds: its share of model time.
        computed: positions that these rows ran; None if it is not known.
    """

    value: Score | Scores | Filling | Reply | None
    error: str | None
    rows: int
    seconds: float
    computed: int | None = None


Done = Callable[[int, Answer], None]
Keep = Callable[[int, Checkpoint], None]


def keep_none(number: int, checkpoint: Checkpoint) -> None:
    """Ignores a checkpoint."""


class Stopped(DlmEvalError):
    """The run of a `JobStream` is to end at once."""


class JobStream:
    """Jobs for a pool; more may come while it runs. They are numbered from 0, in the order of `put`.

    One thread puts jobs, another one (the pool's) takes them. As an iterable it yields each job,
    and waits for the next one until the stream is closed.

    Args:
        jobs: the first jobs.
        more: whether more may come.
    """

    def __init__(self, jobs: Iterable[Job] = (), more: bool = False) -> None:
        self._fresh = list(enumerate(jobs))  # not taken
        self._count = len(self._fresh)
        self._more, self._stopped = more, False
        self._changed = threading.Condition()
        self.wake: Callable[[], None] = lambda: None  # called after each change

    @classmethod
    def of(cls, jobs: Iterable[Job]) -> JobStream:
        """Returns `jobs` as a stream, closed if it is not one already."""
        return jobs if isinstance(jobs, JobStream) else cls(jobs)

    def put(self, jobs: Sequence[Job]) -> None:
        """Adds jobs."""
        with self._changed:
            self._fresh += enumerate(jobs, self._count)
            self._count += len(jobs)
            self._changed.notify()
        self.wake()

    def close(self) -> None:
        """Says that no more jobs will come."""
        with self._changed:
            self._more = False
            self._changed.notify()
        self.wake()

    def stop(self) -> None:
        """Makes the pool's next call of `take` or `check` raise Stopped."""
        with self._changed:
            self._stopped = True
            self._changed.notify()
        self.wake()

    @property
    def open(self) -> bool:
        """Whether `take` may return jobs later."""
        return self._more or bool(self._fresh)

    def check(self) -> None:
        """Raises Stopped if the run is to end."""
        if self._stopped:
            raise Stopped("the run was stopped")

    def take(self, wait: bool = False) -> list[tuple[int, Job]]:
        """Returns the jobs that were put since the last call, with their numbers.

        With `wait` it returns none only if the stream is closed.

        Raises:
            Stopped: the run is to end.
        """
        with self._changed:
            while wait and self._more and not self._fresh and not self._stopped:
                self._changed.wait()
            self.check()
            fresh, self._fresh = self._fresh, []
            return fresh

    def __iter__(self) -> Iterator[Job]:
        while fresh := self.take(wait=True):
            for _, job in fresh:
                yield job


def start(
    engine: Engine, job: CanvasJob, keep: Callable[[Checkpoint], None], told: set[str]
) -> Program[Any]:
    """Returns the program that answers `job`; `keep` gets its checkpoints.

    Args:
        told: reasons of failed samples whose traceback was shown; it is added to.
    """
    noise = Noise.of(job.canvas, job.seed)
    if isinstance(job, ScoreJob):
        return _guarded(
            lambda: score_program(
                engine.model, job.canvas, job.estimator, noise, greedy=job.greedy
            ),
            told,
        )
    if isinstance(job, QuestionJob):
        return _guarded(lambda: _question(engine, job, noise), told)
    begun = job.begun.state if job.begun is not None else None
    offer = _every_so_often(engine, job.begun, keep)
    request = FillRequest(engine.model, job.canvas, job.settings, noise, begun=begun, offer=offer)
    return _guarded(lambda: fill_program(request), told)


def _every_so_often(
    engine: Engine, begun: Checkpoint | None, keep: Callable[[Checkpoint], None]
) -> Offer:
    """Returns a function that saves an offered state if the last checkpoint is old enough."""
    pause, last = checkpoint_seconds(), time.monotonic()
    seconds, computed = (begun.seconds, begun.computed) if begun is not None else (0.0, 0)

    def offer(state: Callable[[], State]) -> None:
        nonlocal last
        if time.monotonic() - last >= pause:
            last = time.monotonic()
            ran = None if computed is None else computed + engine.program_computed
            keep(Checkpoint(state(), seconds + engine.program_seconds, ran))

    return offer


def _question(engine: Engine, job: QuestionJob, noise: Noise) -> Program[Scores]:
    scores = yield from question_program(
        engine.model, job.canvases, job.estimator, noise, lengths=job.lengths
    )
    return Scores(tuple(scores))


def _guarded(program: Callable[[], Program[Any]], told: set[str]) -> Program[Any]:
    """Runs `program()`; raises SampleError in place of any exception that is not a DlmEvalError.

    This includes an exception at its creation. Its traceback is shown if the reason is not in `told`.
    """
    try:
        return (yield from program())
    except DlmEvalError:
        raise
    except (Exception, SystemExit) as error:  # a plug-in may call sys.exit()
        why = reason(error)
        log.log(
            logging.DEBUG if why in told else logging.WARNING, "a sample failed", exc_info=error
        )
        told.add(why)
        raise SampleError(why) from error


def sequences(job: FillJob) -> int:
    """Returns the sequences per decoding step: one for each sample, two under guidance."""
    samples = job.settings.samples if job.settings.is_random else 1
    return samples * (1 if job.settings.guidance_factor == 1 else 2)


def by_length(number: int, job: Job) -> tuple[int, str, int]:
    """Returns the key of the order in which jobs start: longest first, so that equal lengths share
    batches.

    Choices of one question are together, since they may share rows.
    """
    if isinstance(job, TextJob):
        return -job.size, "", number
    return -len(job.canvas), job.canvas.key, number


def drive_jobs(
    engine: Engine, numbered: Iterable[tuple[int, Job] | None], done: Done, keep: Keep = keep_none
) -> None:
    """Answers jobs as they arrive. The next is taken when there is room for its rows.

    Args:
        engine: runs the rows.
        numbered: jobs with their numbers. None means that there is no job now; it is allowed only
            while other jobs are running.
        done: called with number and answer when a job ends.
        keep: called with number and checkpoint of a running job, from time to time.
    """
    begun: dict[int, tuple[int, CanvasJob]] = {}  # by number of the program, which counts from 0
    programs_begun = count()
    source = iter(numbered)
    writing = _Writing(engine)
    told: set[str] = set()

    def programs() -> Iterable[Program[Any] | None]:
        while True:
            if writing.enough:
                yield None
                continue
            try:
                one = next(source)
            except StopIteration:
                return
            if one is None:
                yield None
                continue
            number, job = one
            assert not isinstance(job, TextJob)  # a pool has one kind of model
            job = _sound(engine.model, job)
            begun[next(programs_begun)] = number, job
            writing.add(job, 1)
            yield start(engine, job, partial(keep, number), told)

    def finish(place: int, outcome: Outcome[Any]) -> None:
        number, job = begun.pop(place)
        writing.add(job, -1)
        done(number, _answer(outcome, job))

    engine.drive(programs(), finish)


class _Writing:
    """Counts the canvases that are being filled, so that no more are begun than batches need.

    A filling has one row at a time, so the engine's queue has room for many more than a batch. But
    a filling that is begun stays with its worker, and an interruption loses it. With a KV cache
    rows are short, and the engine limits the caches.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._canvases = self._tokens = 0

    def add(self, job: Job, sign: int) -> None:
        """Counts a job that begins (1) or ends (-1)."""
        if isinstance(job, FillJob):
            self._canvases += sign
            guided = job.settings.guidance_factor != 1
            if not job.settings.cache.is_used(self._engine.model, guided):
                self._tokens += sign * sequences(job) * len(job.canvas)

    @property
    def enough(self) -> bool:
        """Whether the running fillings fill the batches from which the engine chooses."""
        rows, tokens = self._engine.batch_rows, AHEAD * self._engine.batch_tokens
        return self._tokens >= tokens or (rows is not None and self._canvases >= AHEAD * rows)


def _sound(model: Denoiser, job: CanvasJob) -> CanvasJob:
    """Returns the job; without its checkpoint, if this is not valid for the canvas."""
    if (
        not isinstance(job, FillJob)
        or job.begun is None
        or fits(model, job.canvas, job.settings, job.begun.state)
    ):
        return job
    log.warning("a checkpoint in the journal is not valid for its canvas; the canvas is begun anew")
    return replace(job, begun=None)


def _answer(outcome: Outcome[Any], job: Job) -> Answer:
    """Returns the answer with its cost, including the cost before the checkpoint."""
    earlier = job.begun if isinstance(job, FillJob) else None
    rows = outcome.rows + (earlier.state.forwards if earlier is not None else 0)
    seconds = outcome.seconds + (earlier.seconds if earlier is not None else 0.0)
    computed: int | None = outcome.computed
    if earlier is not None:
        computed = None if earlier.computed is None else earlier.computed + outcome.computed
    if isinstance(outcome.answer, SampleError):
        return Answer(None, str(outcome.answer), rows, seconds, computed)
    return Answer(outcome.answer, None, rows, seconds, computed)
