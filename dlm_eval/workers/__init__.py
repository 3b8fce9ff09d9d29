"""Pools run jobs in this process, in one worker process per device, or in Ray actors.

All pools have the same interface and give the same answers.

InProcess      one model in this process
Workers        one worker per device (`driver`): local processes (`local`) or Ray actors
               (`ray_actors`) with one protocol (`messages`)
JournalOnly    no model: a job that the journal does not hold is a sample error (--score_only)
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from heapq import heappop, heappush
from typing import Any, Protocol

from dlm_eval.budget import DeviceProfile
from dlm_eval.engine import Cost, Engine
from dlm_eval.jobs import Answer, Done, Job, JobStream, Keep, by_length, drive_jobs, keep_none
from dlm_eval.models.denoiser import device_of
from dlm_eval.workers.messages import Usage, usage

NO_ANSWER = "no answer in the journal (--score_only computes none)"


class Pool(Protocol):
    """Answers jobs on some devices."""

    def run(self, jobs: Iterable[Job], done: Done, keep: Keep = keep_none) -> None:
        """Answers `jobs` in any order.

        Args:
            jobs: what to answer. If it is a `JobStream`, it may grow during the run, which ends
                after the stream is closed.
            done: called as done(index, answer), once for each job.
            keep: called as keep(index, checkpoint), any number of times before that.
        """
        ...

    def cost(self) -> Cost:
        """Returns the cost on all devices so far."""
        ...

    def devices(self) -> list[dict[str, Any]]:
        """Returns the name, cost and peak memory of each device."""
        ...

    def busy(self) -> list[float]:
        """Returns the seconds that each device has run the model so far."""
        ...

    def profile(self) -> DeviceProfile:
        """Returns the measurements that the next run on these devices starts with."""
        ...

    def close(self) -> None:
        """Ends the workers."""
        ...


class InProcess:
    """One model in this process."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self._budget = engine.batch_tokens

    def run(self, jobs: Iterable[Job], done: Done, keep: Keep = keep_none) -> None:
        stream = JobStream.of(jobs)
        known = _Known(stream)

        def ended(number: int, answer: Answer) -> None:
            known.running -= 1
            done(number, answer)

        after_forward = self.engine.on_forward

        def check() -> None:
            stream.check()
            if after_forward is not None:
                after_forward()

        self.engine.on_forward = check
        try:
            drive_jobs(self.engine, known.longest_first(), ended, keep)
        finally:
            self.engine.on_forward = after_forward

    def cost(self) -> Cost:
        return self.engine.cost

    def devices(self) -> list[dict[str, Any]]:
        return [Usage.facts(usage(self.engine), str(device_of(self.engine.model)))]

    def busy(self) -> list[float]:
        return [self.engine.cost.seconds]

    def profile(self) -> DeviceProfile:
        now = self.engine.batch_tokens
        cost = self.engine.cost
        return DeviceProfile(
            now if now < self._budget else None, self.engine.footprint, cost.tokens, cost.seconds
        )

    def close(self) -> None:
        pass


class _Known:
    """The jobs of a stream that have arrived and are not begun, and the number of running ones."""

    def __init__(self, stream: JobStream) -> None:
        self._stream = stream
        self._waiting: list[tuple[tuple[int, str, int], Job]] = []  # a heap
        self.running = 0

    def longest_first(self) -> Iterator[tuple[int, Job] | None]:
        """Yields jobs with their numbers; None if there is none now but some are running."""
        while True:
            idle = not self._waiting and not self.running
            for number, job in self._stream.take(wait=idle):
                heappush(self._waiting, (by_length(number, job), job))
            if self._waiting:
                key, job = heappop(self._waiting)
                self.running += 1
                yield key[-1], job
            elif self.running:
                yield None
            elif not self._stream.open:
                return


class NoDevices:
    """What a pool reports that knows no devices; a base of pools."""

    def cost(self) -> Cost:
        return Cost()

    def devices(self) -> list[dict[str, Any]]:
        return []

    def busy(self) -> list[float]:
        return []

    def profile(self) -> DeviceProfile:
        return DeviceProfile()

    def close(self) -> None:
        pass


class JournalOnly(NoDevices):
    """Answers every job with an error, since a job that the journal holds never reaches a pool."""

    def run(self, jobs: Iterable[Job], done: Done, keep: Keep = keep_none) -> None:
        for index, _ in enumerate(jobs):
            done(index, Answer(None, NO_ANSWER, 0, 0.0))
