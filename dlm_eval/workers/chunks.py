"""How work is cut: chunks of jobs, longest canvases first, smaller towards the end, so that all workers end together."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

from dlm_eval.jobs import FillJob, Job, longest_first

MOST = 256  # jobs in a chunk: what a dying worker can lose
SHARE = 6  # chunks per worker that the remaining work is thought to make


def weight(job: Job) -> int:
    """Returns an estimate of a job's work: rows times positions."""
    n = sum(job.canvas.open)
    rows = min(n, job.settings.steps or n) if isinstance(job, FillJob) else job.estimator.budget(n)
    return len(job.canvas) * max(1, rows)


class Chunks:
    """The work that nobody has yet, by number.

    Jobs that were lost with their worker are *suspects*: one of them may have killed it. They are given out apart from other work, and in halves each
    time a worker dies of them, until the culprit stands alone.

    Args:
        jobs: all jobs of a run.
        workers: how many will share them.
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
        """Whether there is work that must be done apart."""
        return bool(self._quarantined)

    def next(self) -> list[int]:
        """Returns the next chunk of ordinary work ([] where there is none). Canvases of one question and length stay together: they may share rows."""
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
        """Returns a group of suspects, to be done apart."""
        return self._quarantined.popleft()

    def lost(self, numbers: Sequence[int], apart: bool) -> list[int]:
        """Takes back what a dead worker held; returns the jobs that have killed three workers all alone, which are not tried again."""
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
