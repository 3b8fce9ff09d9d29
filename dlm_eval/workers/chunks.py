"""Chunks of jobs for workers: longest canvases first, and smaller chunks towards the end."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

from dlm_eval.jobs import FillJob, Job, longest_first

MOST = 256  # maximum number of jobs in a chunk, which a crashed worker can lose
SHARE = 6  # a chunk is the remaining work divided by this number times the workers


def weight(job: Job) -> int:
    """Returns an estimate of a job's work: rows times positions."""
    n = sum(job.canvas.open)
    rows = min(n, job.settings.steps or n) if isinstance(job, FillJob) else job.estimator.budget(n)
    return len(job.canvas) * max(1, rows)


class Chunks:
    """The jobs, by number, that no worker has yet.

    Jobs whose worker crashed are *quarantined*, since one of them may have caused the crash. They
    run apart from other jobs. Each time a worker crashes on them they are halved, until the job at
    fault runs alone.

    Args:
        jobs: all jobs of a run.
        workers: number of workers.
    """

    def __init__(self, jobs: Sequence[Job], workers: int) -> None:
        self._weight = [weight(job) for job in jobs]
        self._canvas = [(len(job.canvas), job.canvas.key) for job in jobs]
        self._order = deque(longest_first(jobs))
        self._left = sum(self._weight)
        self._workers = workers
        self._quarantined: deque[list[int]] = deque()
        self._deaths_alone: dict[int, int] = {}

    def __bool__(self) -> bool:
        return bool(self._order or self._quarantined)

    @property
    def quarantined(self) -> bool:
        """Whether there are quarantined jobs."""
        return bool(self._quarantined)

    def next(self) -> list[int]:
        """Returns the next chunk of ordinary jobs, or [].

        Canvases of one question and length stay together, since they may share rows.
        """
        target = self._left / (self._workers * SHARE)
        chunk: list[int] = []
        taken = 0
        while self._order and (
            not chunk
            or (taken < target and len(chunk) < MOST)
            or self._canvas[self._order[0]] == self._canvas[chunk[-1]]
        ):
            chunk.append(self._order.popleft())
            taken += self._weight[chunk[-1]]
        self._left -= taken
        return chunk

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
            self._quarantined.extend(list(part) for part in (numbers[:half], numbers[half:]) if part)
            return []
        (number,) = numbers
        self._deaths_alone[number] = self._deaths_alone.get(number, 0) + 1
        if self._deaths_alone[number] >= 3:
            return [number]
        self._quarantined.append([number])
        return []
