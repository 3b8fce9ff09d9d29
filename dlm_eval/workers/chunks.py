"""Chunks of jobs for workers: longest canvases first, and smaller chunks towards the end."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence

from dlm_eval.engine.batching import WORTHWHILE
from dlm_eval.jobs import FillJob, Job, ScoreJob, TextJob, by_length, sequences

MOST = 256  # maximum number of jobs in a chunk
# A worker holds at most this part of its fair share of the jobs that no worker has. The rest is for
# workers that are ready later, and to correct wrong estimates of speeds and lengths.
PART = 0.5
REFILL = 0.75  # a worker gets more jobs when it holds less than this part of its maximum


def weight(job: Job) -> int:
    """Returns an estimate of a job's work: rows times positions."""
    if isinstance(job, TextJob):
        return max(1, job.size)
    n = sum(job.canvas.open)
    if isinstance(job, FillJob):
        begun = job.begun.state.forwards if job.begun is not None else 0
        rows = min(n, job.settings.steps or n) * sequences(job) - begun
    else:
        rows = job.estimator.budget(n)
    return len(job.canvas) * max(1, rows)


def width(job: Job) -> int:
    """Returns an estimate of the tokens that a job adds to one batch.

    A filling has the rows of one step at a time. A score has all its rows at once.
    """
    return len(job.canvas) * sequences(job) if isinstance(job, FillJob) else weight(job)


def question(job: Job) -> tuple[int, str] | None:
    """Returns a key shared by the choices of one question and length; None for other jobs."""
    return (
        (len(job.canvas), job.canvas.key) if isinstance(job, ScoreJob) and job.canvas.key else None
    )


class Chunks:
    """The jobs, by number, that no worker has yet.

    Jobs whose worker crashed are *quarantined*, since one of them may have caused the crash. They
    run apart from other jobs. Each time a worker crashes on them they are halved, until the job at
    fault runs alone.

    Args:
        jobs: the first jobs of a run, numbered from 0.
        workers: number of workers.
    """

    def __init__(self, jobs: Sequence[Job], workers: int) -> None:
        self.weight: dict[int, int] = {}
        self._width: dict[int, int] = {}
        self._question: dict[int, tuple[int, str] | None] = {}
        self._rank: dict[int, tuple[int, str, int]] = {}
        self._order: deque[int] = deque()
        self._left = 0
        self.add(enumerate(jobs))
        self._workers = workers
        self._quarantined: deque[list[int]] = deque()
        self._deaths_alone: dict[int, int] = {}

    def __bool__(self) -> bool:
        return bool(self._order or self._quarantined)

    def add(self, jobs: Iterable[tuple[int, Job]]) -> None:
        """Adds jobs with their numbers."""
        fresh = []
        for number, job in jobs:
            self.weight[number], self._width[number] = weight(job), width(job)
            self._question[number] = question(job)
            self._rank[number] = by_length(number, job)
            fresh.append(number)
        self.put_back(fresh)

    @property
    def quarantined(self) -> bool:
        """Whether there are quarantined jobs."""
        return bool(self._quarantined)

    def next(self, speed: float | None = None, held: int = 0) -> list[int]:
        """Returns the next chunk of jobs, none of them quarantined, for a worker.

        Choices of one question and length stay together, since they may share rows.

        Args:
            speed: the worker's share of the speed of all workers; None if all are equal.
            held: weight of the jobs that it holds already.

        Returns:
            [] if no job is left, or if the worker holds enough. A worker without jobs gets at least
            one and, if its share allows, enough for an efficient batch.
        """
        fair = self._left * (1 / self._workers if speed is None else speed)
        if held > REFILL * PART * fair:
            return []
        chunk: list[int] = []
        taken, tokens = held, held and WORTHWHILE
        while self._order and (
            not chunk
            or (
                len(chunk) < MOST
                and (taken < PART * fair or (tokens < WORTHWHILE and taken < fair))
            )
            or self._goes_with(chunk[-1], self._order[0])
        ):
            chunk.append(self._order.popleft())
            taken += self.weight[chunk[-1]]
            tokens += self._width[chunk[-1]]
        self._left -= taken - held
        return chunk

    def _goes_with(self, one: int, other: int) -> bool:
        return self._question[one] is not None and self._question[one] == self._question[other]

    def put_back(self, numbers: Iterable[int]) -> None:
        """Takes jobs that a worker has not begun."""
        back = list(numbers)
        self._order = deque(sorted([*self._order, *back], key=self._rank.__getitem__))
        self._left += sum(self.weight[number] for number in back)

    def next_quarantined(self) -> list[int]:
        """Returns a group of quarantined jobs."""
        return self._quarantined.popleft()

    def lost(self, numbers: Sequence[int], apart: bool) -> list[int]:
        """Takes back the jobs of a crashed worker.

        Returns:
            The jobs that have crashed three workers while running alone. They are not tried again.
        """
        if len(numbers) != 1 or not apart:
            half = (len(numbers) + 1) // 2 if apart else len(numbers)
            self._quarantined.extend(
                list(part) for part in (numbers[:half], numbers[half:]) if part
            )
            return []
        (number,) = numbers
        self._deaths_alone[number] = self._deaths_alone.get(number, 0) + 1
        if self._deaths_alone[number] >= 3:
            return [number]
        self._quarantined.append([number])
        return []
