"""The driver of several workers: sends jobs, takes them back if a worker crashes or hangs, and
restarts it.
"""

from __future__ import annotations

import logging
import queue
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from dlm_eval.budget import DeviceProfile
from dlm_eval.engine import Cost
from dlm_eval.errors import RunError, UserError
from dlm_eval.jobs import Answer, Checkpoint, Done, FillJob, Job, JobStream, Keep, keep_none
from dlm_eval.models import option_names
from dlm_eval.printable import counted
from dlm_eval.variables import watchdog_seconds
from dlm_eval.workers.chunks import Chunks
from dlm_eval.workers.devices import Device
from dlm_eval.workers.messages import (
    GIVE_BACK,
    REPORT,
    Alive,
    Answered,
    Events,
    Exited,
    Failed,
    Halfway,
    Link,
    LoadFailed,
    NeedWork,
    Ready,
    Returned,
    Starter,
    Usage,
    WorkerConfig,
)

LOADING_SECONDS = 3600.0  # a worker that loads the model for so long is hung
# Maximum number of consecutive crashes, with no answer in between, after which a slot is restarted.
# It is twice as large if the worker had quarantined jobs, since a job may have caused the crashes.
RESTARTS = 3

log = logging.getLogger(__name__)


@dataclass(eq=False)
class _Slot:
    """A device and its present worker."""

    index: int
    link: Link | None = None
    ready: Ready | None = None
    # number -> weight of its jobs, in the order sent
    held: dict[int, int] = field(default_factory=dict)
    load: int = 0  # the sum of their weights
    hungry: bool = False  # whether it has begun its last list
    asked: bool = False  # whether it was asked to give back the jobs not begun
    bare: bool = False  # whether it has given them back and received none since
    apart: bool = False  # whether the jobs that it holds are quarantined
    heard: float = 0.0
    failures: int = 0
    why: str = ""
    usage: Usage | None = None
    past: Cost = field(default_factory=Cost)  # of earlier workers of this slot
    reported: bool = False

    @property
    def cost(self) -> Cost:
        """The cost of all its workers."""
        return self.past + (self.usage.cost if self.usage else Cost())

    @property
    def idle(self) -> bool:
        """Whether it is ready and has no jobs."""
        return self.ready is not None and not self.held

    @property
    def speed(self) -> float | None:
        """Tokens per second of its present worker, if measured."""
        cost = self.usage.cost if self.usage else Cost()
        return cost.tokens / cost.seconds if cost.tokens and cost.seconds > 0 else None

    def hold(self, weights: dict[int, int]) -> None:
        """Adds jobs to those that its worker holds."""
        self.held.update(weights)
        self.load += sum(weights.values())

    def drop(self, number: int) -> bool:
        """Removes a job from those that its worker holds; returns whether it held the job."""
        if number not in self.held:
            return False
        self.load -= self.held.pop(number)
        return True

    def returned(self, numbers: Sequence[int]) -> list[int]:
        """Removes jobs that its worker gives back; returns those that it held."""
        self.asked, self.bare, self.hungry = False, True, True
        return [number for number in numbers if self.drop(number)]

    @property
    def label(self) -> str:
        return self.link.label if self.link else f"worker {self.index}"


class _Run:
    """The jobs of one run: those without an answer (`left`), and which of them have no worker
    (`chunks`).

    Args:
        first: number of the first job. Workers may still hold jobs of a run that has failed, so no
            two runs use the same numbers.
        workers: number of workers.
        done, keep: see `Pool.run`.
    """

    def __init__(self, first: int, workers: int, done: Done, keep: Keep = keep_none) -> None:
        self.left: dict[int, Job] = {}
        self.chunks = Chunks((), workers)
        self.end = self._first = first  # `end`: after the last number
        self._done, self._keep = done, keep

    def add(self, jobs: Sequence[tuple[int, Job]]) -> None:
        """Adds jobs with their numbers in the run."""
        numbered = {self._first + number: job for number, job in jobs}
        self.left |= numbered
        self.chunks.add(numbered.items())
        self.end += len(jobs)

    def own(self, numbers: Iterable[int]) -> list[int]:
        """Returns the numbers of jobs of this run that have no answer."""
        return [number for number in numbers if number in self.left]

    def finish(self, number: int, answer: Answer) -> None:
        """Reports a job's answer; a second one is ignored."""
        if self.left.pop(number, None) is not None:
            self._done(number - self._first, answer)

    def note(self, number: int, checkpoint: Checkpoint) -> None:
        """Reports a job's checkpoint, from which another worker would continue."""
        job = self.left.get(number)
        if isinstance(job, FillJob):
            self.left[number] = replace(job, begun=checkpoint)
            self._keep(number - self._first, checkpoint)


class Workers:
    """One worker per device (see `Pool`).

    Args:
        start: starts the worker of a slot.
        count: number of slots.
        watchdog: seconds after which a worker that has jobs but finishes no forward pass is
            replaced (default: the variable DLM_EVAL_WATCHDOG, else 15 minutes).
    """

    def __init__(self, start: Starter, count: int, watchdog: float | None = None) -> None:
        self._start = start
        self._events: Events = queue.SimpleQueue()
        self._watchdog = watchdog_seconds() if watchdog is None else watchdog
        self._warned = False
        self._profile = DeviceProfile()
        self._numbered = 0  # jobs of all runs so far
        self.restarts = 0
        self.slots = [_Slot(index) for index in range(count)]
        for slot in self.slots:
            self._begin(slot)

    # -- the Pool interface ------------------------------------------------------------------------

    def run(self, jobs: Iterable[Job], done: Done, keep: Keep = keep_none) -> None:
        """Answers `jobs`, each once.

        If a worker crashes, its canvases are resumed from their last checkpoints.

        Raises:
            UserError: the model cannot be loaded.
            RunError: no worker is left.
            Stopped: the stream of jobs was stopped.
        """
        stream = JobStream.of(jobs)
        # An event of no worker ends the wait for events.
        stream.wake = lambda: self._events.put((None, None))
        run = _Run(self._numbered, len(self.slots), done, keep)
        try:
            while stream.open or run.left:
                run.add(stream.take())
                self._hand_out(run)
                for slot, message in self._next_events():
                    self._take(slot, message, run)
                self._watch()
        except BaseException:
            self._take_back()
            raise
        finally:
            self._numbered = run.end
        self._ask_for_reports()

    def cost(self) -> Cost:
        return sum((slot.cost for slot in self.slots), Cost())

    def devices(self) -> list[dict[str, Any]]:
        known = [(slot, slot.usage) for slot in self.slots if slot.usage]
        return [replace(usage, cost=slot.cost).facts(slot.label) for slot, usage in known]

    def busy(self) -> list[float]:
        return [slot.cost.seconds for slot in self.slots]

    def profile(self) -> DeviceProfile:
        cost = self.cost()
        return replace(self._profile, tokens=cost.tokens, seconds=cost.seconds)

    def close(self) -> None:
        for slot in self.slots:
            if slot.link is not None:
                slot.link.kill()

    # -- start and end of workers ------------------------------------------------------------------

    def _begin(self, slot: _Slot) -> None:
        slot.ready, slot.heard = None, time.monotonic()
        slot.link = self._start(slot.index, self._profile, self._events)

    def _exited(self, slot: _Slot, how: str, run: _Run) -> None:
        """Takes back the jobs of a worker that ended and restarts it, a limited number of times."""
        assert slot.link is not None
        held = counted(len(slot.held), "job", "are")
        log.warning("the worker of %s %s; %s given back", slot.link.label, slot.why or how, held)
        slot.failures += 1
        slot.past, slot.usage = slot.cost, None
        for number in run.chunks.lost(run.own(slot.held), slot.apart):
            why = f"its worker crashed three times on this request alone ({slot.why or how})"
            run.finish(number, Answer(None, why, 0, 0.0))
        limit = 2 * RESTARTS if slot.apart else RESTARTS
        reason, slot.why = slot.why or how, ""
        slot.held, slot.load, slot.apart, slot.asked = {}, 0, False, False
        if slot.failures > limit:
            slot.link = slot.ready = None
            log.error(
                "worker %d: giving up after %s in a row",
                slot.index,
                counted(slot.failures, "failure"),
            )
            if all(other.link is None for other in self.slots):
                raise RunError(
                    f"no worker is left: the last one {reason}; finished answers are in the journal"
                )
            return
        self.restarts += 1
        self._begin(slot)

    def _watch(self) -> None:
        """Kills workers that have been silent for too long.

        Their `Exited` message then arrives as usual.
        """
        for slot in self.slots:
            limit = self._watchdog if slot.ready else max(self._watchdog, LOADING_SECONDS)
            if (
                slot.link
                and (slot.held or not slot.ready)
                and time.monotonic() - slot.heard > limit
                and not slot.why
            ):
                slot.why = f"was silent for {limit:.0f} s and is replaced"
                slot.link.kill()

    # -- messages ----------------------------------------------------------------------------------

    def _next_events(self) -> list[tuple[_Slot, Any]]:
        """Waits briefly for messages; returns them without those of replaced workers."""
        events = []
        try:
            events.append(self._events.get(timeout=0.5))
            while True:
                events.append(self._events.get_nowait())
        except queue.Empty:
            pass
        by_link = {id(slot.link): slot for slot in self.slots if slot.link is not None}
        return [(by_link[id(link)], message) for link, message in events if id(link) in by_link]

    def _take(self, slot: _Slot, message: Any, run: _Run) -> None:
        slot.heard = time.monotonic()
        if isinstance(message, Answered):
            slot.failures = 0
            if slot.drop(message.number):
                run.finish(message.number, message.answer)
            slot.apart = slot.apart and bool(slot.held)
        elif isinstance(message, Halfway):
            run.note(message.number, message.checkpoint)
        elif isinstance(message, NeedWork):
            slot.hungry = True
        elif isinstance(message, Returned):
            run.chunks.put_back(run.own(slot.returned(message.numbers)))
        elif isinstance(message, Alive):
            self._note(slot, message)
        elif isinstance(message, Ready):
            self._ready(slot, message)
        elif isinstance(message, LoadFailed):
            raise UserError(message.reason)
        elif isinstance(message, Failed):
            slot.why = f"failed: {message.reason}"
            if slot.link is not None:
                slot.link.kill()
        elif isinstance(message, Exited):
            self._exited(slot, message.how, run)

    def _ready(self, slot: _Slot, message: Ready) -> None:
        """Notes that a slot's worker is ready.

        All workers load one model, so its warning is logged once.
        """
        slot.ready = message
        log.info("the worker of %s is ready on %s", slot.label, message.host)
        if message.warning and not self._warned:
            log.warning("%s", message.warning)
            self._warned = True

    def _note(self, slot: _Slot, message: Alive) -> None:
        budget, known = message.usage.batch_tokens, self._profile.batch_tokens
        smaller = slot.usage is not None and budget < slot.usage.batch_tokens
        self._profile = self._profile.and_then(
            DeviceProfile(
                min(budget, known or budget) if smaller else None, message.usage.footprint
            )
        )
        slot.usage, slot.reported = message.usage, message.report

    # -- hand-out ----------------------------------------------------------------------------------

    def _hand_out(self, run: _Run) -> None:
        """Sends jobs to workers that need some, idle ones first.

        If an idle worker gets none, the others are asked to give back the jobs not begun.
        """
        ready = [slot for slot in self.slots if slot.ready is not None and not slot.apart]
        needy = [slot for slot in ready if slot.hungry or not slot.held]
        if run.chunks and needy:
            shares = self._shares()
            for slot in sorted(needy, key=lambda slot: bool(slot.held)):
                self._feed(slot, run, shares[slot.index])
        if run.chunks.quarantined or not any(slot.idle for slot in ready):
            return
        self._take_back()

    def _take_back(self) -> None:
        """Asks workers to give back the jobs not begun."""
        for slot in self.slots:
            if slot.link is None or slot.ready is None or slot.apart:
                continue
            if slot.held and not slot.asked and not slot.bare:
                slot.asked = True
                slot.link.send(GIVE_BACK)

    def _feed(self, slot: _Slot, run: _Run, share: float) -> None:
        """Sends a worker its next chunk, if there is one and it does not hold enough.

        While jobs are quarantined, only a worker without jobs gets any: a group of quarantined
        jobs, and no others until these are done.
        """
        if run.chunks.quarantined:
            numbers = run.chunks.next_quarantined() if not slot.held else []
            slot.apart = bool(numbers)
        else:
            numbers = run.chunks.next(share, slot.load)
        if not numbers or slot.link is None:
            return
        slot.heard = slot.heard if slot.held else time.monotonic()
        slot.hold({number: run.chunks.weight[number] for number in numbers})
        slot.hungry = slot.bare = False
        slot.link.send([(number, run.left[number]) for number in numbers])

    def _shares(self) -> dict[int, float]:
        """Returns the share of each slot in the total speed, including slots still loading.

        A worker of unknown speed counts as the mean of the others.
        """
        slots = [slot for slot in self.slots if slot.link is not None]
        known = [slot.speed for slot in slots if slot.speed is not None]
        mean = sum(known) / len(known) if known else 1.0
        speeds = {slot.index: slot.speed or mean for slot in slots}
        total = sum(speeds.values())
        return {index: speed / total for index, speed in speeds.items()}

    def _ask_for_reports(self) -> None:
        """Waits briefly for the final usage of every worker."""
        asked = [slot for slot in self.slots if slot.link is not None and slot.ready is not None]
        for slot in asked:
            slot.reported = False
            assert slot.link is not None
            slot.link.send(REPORT)
        limit = time.monotonic() + 5
        while not all(slot.reported for slot in asked) and time.monotonic() < limit:
            for slot, message in self._next_events():
                if isinstance(message, Alive):
                    self._note(slot, message)
                elif isinstance(message, Ready):
                    self._ready(slot, message)
                elif isinstance(message, Returned):
                    slot.returned(message.numbers)
                elif isinstance(message, Exited):
                    self._exited(slot, message.how, _Run(0, 1, lambda *_: None))
                    asked = [other for other in asked if other is not slot]


def start_workers(
    config: WorkerConfig,
    devices: Sequence[Device],
    engine: str = "local",
    ray_address: str | None = None,
) -> Workers:
    """Starts one worker per device and returns the pool.

    Workers load the model in the background.
    """
    takes = set() if config.texts else option_names(config.model)
    extra: dict[str, str] = {}
    if engine == "ray":
        from dlm_eval.workers.ray_actors import connect

        extra = connect(ray_address, len(devices), sum(device.gpus for device in devices))

    def start(index: int, profile: DeviceProfile, events: Events) -> Link:
        device = devices[index]
        place = {key: value for key, value in device.options.items() if key in takes}
        if config.texts:
            place = device.text_options
        options = {**place, **config.options}
        own = replace(config, options=options, profile=config.profile.and_then(profile))
        if engine == "ray":
            from dlm_eval.workers.ray_actors import RayLink

            # Ray shows an actor its own GPUs.
            environment = {
                k: v for k, v in device.environment.items() if k != "CUDA_VISIBLE_DEVICES"
            }
            return RayLink(
                own, f"{device.label} (ray)", {**extra, **environment}, device.gpus, events
            )
        from dlm_eval.workers.local import LocalLink

        return LocalLink(own, device.label, device.environment, events)

    return Workers(start, len(devices))
