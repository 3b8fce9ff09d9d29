"""Where jobs run: in this process, or (one worker process per device) elsewhere. Same interface, same answers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from dlm_eval.engine import Cost, Engine
from dlm_eval.jobs import Answer, Job, run_jobs

Done = Callable[[int, Answer], None]


class Pool(Protocol):
    """Answers jobs on some devices."""

    def run(self, jobs: Sequence[Job], done: Done) -> None:
        """Answers `jobs` in any order and calls `done(index, answer)` once for each."""
        ...

    def cost(self) -> Cost:
        """Returns what the devices did so far."""
        ...


class InProcess:
    """One model in this process: no overhead, nothing to start."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine

    def run(self, jobs: Sequence[Job], done: Done) -> None:
        run_jobs(self.engine, jobs, done)

    def cost(self) -> Cost:
        return self.engine.cost
