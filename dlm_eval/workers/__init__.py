"""Pools run jobs in this process, in one worker process per device, or in Ray actors.

All pools have the same interface and give the same answers.

InProcess      one model in this process
Workers        one worker per device (`driver`): local processes (`local`) or Ray actors
               (`ray_actors`) with one protocol (`messages`)
JournalOnly    no model: a job that the journal does not hold is a sample error (--score_only)
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from dlm_eval.budget import DeviceProfile
from dlm_eval.engine import Cost, Engine
from dlm_eval.jobs import Answer, Done, Job, Keep, drive_jobs, keep_none, longest_first
from dlm_eval.models.denoiser import device_of
from dlm_eval.workers.messages import Usage, usage

NO_ANSWER = "no answer in the journal (--score_only computes none)"


class Pool(Protocol):
    """Answers jobs on some devices."""

    def run(self, jobs: Sequence[Job], done: Done, keep: Keep = keep_none) -> None:
        """Answers `jobs` in any order.

        Args:
            jobs: what to answer.
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

    def run(self, jobs: Sequence[Job], done: Done, keep: Keep = keep_none) -> None:
        drive_jobs(self.engine, ((i, jobs[i]) for i in longest_first(jobs)), done, keep)

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


class JournalOnly:
    """Answers every job with an error, since a job that the journal holds never reaches a pool."""

    def run(self, jobs: Sequence[Job], done: Done, keep: Keep = keep_none) -> None:
        for index in range(len(jobs)):
            done(index, Answer(None, NO_ANSWER, 0, 0.0))

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
