"""Where jobs run: in this process, in one worker process per device, or in Ray actors. Same interface, same answers.

InProcess          one model here: no overhead, nothing to start
Workers            one worker per device (`workers`); local processes (`local`) or Ray actors (`ray_actors`) behind one protocol (`messages`)
JournalOnly         no model at all: what the journal does not hold is an error of its sample (--score_only)
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from dlm_eval.budget import DeviceProfile
from dlm_eval.engine import Cost, Engine
from dlm_eval.jobs import Answer, Done, Job, Keep, keep_none, run_jobs
from dlm_eval.models.denoiser import device_of
from dlm_eval.workers.messages import Usage, usage

NO_ANSWER = "no answer in the journal (--score_only computes none)"


class Pool(Protocol):
    """Answers jobs on some devices."""

    def run(self, jobs: Sequence[Job], done: Done, keep: Keep = keep_none) -> None:
        """Answers `jobs` in any order; calls `done(index, answer)` once for each, and before that perhaps `keep(index, checkpoint)` several times."""
        ...

    def cost(self) -> Cost:
        """Returns what the devices did so far."""
        ...

    def devices(self) -> list[dict[str, Any]]:
        """Returns per device: its name, what it did, its peak memory."""
        ...

    def busy(self) -> list[float]:
        """Returns per device the seconds in which it has run the model so far."""
        ...

    def profile(self) -> DeviceProfile:
        """Returns what the next run on these devices should know."""
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
        run_jobs(self.engine, jobs, done, keep)

    def cost(self) -> Cost:
        return self.engine.cost

    def devices(self) -> list[dict[str, Any]]:
        return [Usage.facts(usage(self.engine), str(device_of(self.engine.model)))]

    def busy(self) -> list[float]:
        return [self.engine.cost.seconds]

    def profile(self) -> DeviceProfile:
        now = self.engine.batch_tokens
        return DeviceProfile(now if now < self._budget else None, self.engine.footprint)

    def close(self) -> None:
        pass


class JournalOnly:
    """Answers nothing: every job that reaches it was not in the journal."""

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
