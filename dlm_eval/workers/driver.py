"""The driver of several workers: hands out work, takes back what a dead or hanging worker held, starts another in its place."""

from __future__ import annotations

import logging
import os
import queue
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from dlm_eval.budget import Learned
from dlm_eval.engine import Cost
from dlm_eval.errors import RunError, UserError
from dlm_eval.jobs import Answer, Checkpoint, Done, FillJob, Job, Keep, keep_none
from dlm_eval.printable import counted
from dlm_eval.workers.chunks import Chunks
from dlm_eval.workers.links import Events, Gone, Link, Starter
from dlm_eval.workers.messages import END, REPORT, Alive, Answered, Failed, Halfway, Ready, Refused, Usage, Want

WATCHDOG_SECONDS = 900.0  # silence (no forward pass ends) after which a worker counts as hanging
LOADING_SECONDS = 3600.0  # likewise before it is ready
RESTARTS = 3  # deaths in a row, with no answer between them, that a place survives (twice as many where a request may be to blame)

log = logging.getLogger(__name__)


@dataclass(eq=False)
class _Place:
    """A device and the worker that serves it now."""

    index: int
    link: Link | None = None
    ready: Ready | None = None
    held: dict[int, Job] = field(default_factory=dict)
    apart: bool = False  # whether what it holds are suspects
    heard: float = 0.0
    failures: int = 0
    why: str = ""
    usage: Usage | None = None
    past: Cost = field(default_factory=Cost)  # of workers that died here
    reported: bool = False

    @property
    def cost(self) -> Cost:
        """What all its workers did."""
        return self.past + (self.usage.cost if self.usage else Cost())

    @property
    def label(self) -> str:
        return self.link.label if self.link else f"worker {self.index}"


class Workers:
    """One worker per device (see `Pool`).

    Args:
        start: starts the worker of a place.
        count: places.
        watchdog: seconds of silence after which a worker with work is replaced (default: the variable DLM_EVAL_WATCHDOG, else 15 minutes).
    """

    def __init__(self, start: Starter, count: int, watchdog: float | None = None) -> None:
        self._start = start
        self._events: Events = queue.SimpleQueue()
        self._watchdog = float(os.environ.get("DLM_EVAL_WATCHDOG", WATCHDOG_SECONDS)) if watchdog is None else watchdog
        self._warned = False
        self._learned = Learned()
        self.restarts = 0
        self.places = [_Place(index) for index in range(count)]
        for place in self.places:
            self._begin(place)

    # -- the Pool interface --------------------------------------------------------------------------------------------

    def run(self, jobs: Sequence[Job], done: Done, keep: Keep = keep_none) -> None:
        """Answers `jobs`, each once. What a dead worker was writing goes on from its last checkpoint.

        Raises:
            UserError: the model cannot be loaded.
            RunError: no worker is left.
        """
        jobs = list(jobs)
        chunks = Chunks(jobs, len(self.places))
        left = set(range(len(jobs)))

        def finish(number: int, answer: Answer) -> None:
            if number in left:
                left.discard(number)
                done(number, answer)

        def note(number: int, checkpoint: Checkpoint) -> None:
            job = jobs[number]
            if number in left and isinstance(job, FillJob):
                jobs[number] = replace(job, begun=checkpoint)
                keep(number, checkpoint)

        for place in self.places:
            if place.ready is not None:
                self._feed(place, chunks, jobs, 2)
        while left:
            for place, message in self._next_events():
                if isinstance(message, Halfway):
                    note(message.number, message.checkpoint)
                self._take(place, message, chunks, jobs, finish)
            self._watch()
            if chunks:  # given back by the dead: whoever is idle takes it
                for place in self.places:
                    if place.ready is not None and not place.held:
                        self._feed(place, chunks, jobs, 1)
        self._ask_for_reports()

    def cost(self) -> Cost:
        return sum((place.cost for place in self.places), Cost())

    def devices(self) -> list[dict[str, Any]]:
        known = [(place, place.usage) for place in self.places if place.usage]
        return [replace(usage, cost=place.cost).facts(place.label) for place, usage in known]

    def busy(self) -> list[float]:
        return [place.cost.seconds for place in self.places]

    def learned(self) -> Learned:
        return self._learned

    def close(self) -> None:
        for place in self.places:
            if place.link is not None:
                place.link.kill()

    # -- workers come and go -------------------------------------------------------------------------------------------

    def _begin(self, place: _Place) -> None:
        place.ready, place.heard = None, time.monotonic()
        place.link = self._start(place.index, self._learned, self._events)

    def _gone(self, place: _Place, how: str, chunks: Chunks, finish: Any) -> None:
        """Gives a dead worker's jobs back and starts another in its place, a bounded number of times."""
        assert place.link is not None
        held = counted(len(place.held), "job", "are")
        log.warning("the worker of %s %s; %s given back", place.link.label, place.why or how, held)
        place.failures += 1
        place.past, place.usage = place.cost, None
        for number in chunks.lost(list(place.held), place.apart):
            finish(
                number, Answer(None, f"its worker died three times of this request alone ({place.why or how})", 0, 0.0)
            )
        limit = 2 * RESTARTS if place.apart else RESTARTS
        reason, place.held, place.apart, place.why = place.why or how, {}, False, ""
        if place.failures > limit:
            place.link = place.ready = None
            log.error(
                "the place of worker %d is given up after %s in a row", place.index, counted(place.failures, "death")
            )
            if all(other.link is None for other in self.places):
                raise RunError(f"no worker is left: the last one {reason}; finished answers are in the journal")
            return
        self.restarts += 1
        self._begin(place)

    def _watch(self) -> None:
        """Ends workers that are silent for too long; their end is then news like any other."""
        for place in self.places:
            limit = self._watchdog if place.ready else max(self._watchdog, LOADING_SECONDS)
            if (
                place.link
                and (place.held or not place.ready)
                and time.monotonic() - place.heard > limit
                and not place.why
            ):
                place.why = f"was silent for {limit:.0f} s and is replaced"
                place.link.kill()

    # -- messages ------------------------------------------------------------------------------------------------------

    def _next_events(self) -> list[tuple[_Place, Any]]:
        """Returns what workers have said, after waiting a moment for it; words of workers that were replaced are dropped."""
        events = []
        try:
            events.append(self._events.get(timeout=0.5))
            while True:
                events.append(self._events.get_nowait())
        except queue.Empty:
            pass
        by_link = {id(place.link): place for place in self.places if place.link is not None}
        return [(by_link[id(link)], message) for link, message in events if id(link) in by_link]

    def _take(self, place: _Place, message: Any, chunks: Chunks, jobs: Sequence[Job], finish: Any) -> None:
        place.heard = time.monotonic()
        if isinstance(message, Answered):
            place.failures = 0
            if place.held.pop(message.number, None) is not None:
                finish(message.number, message.answer)
            if not place.held:
                place.apart = False
                self._feed(place, chunks, jobs, 1)
        elif isinstance(message, Want):
            self._feed(place, chunks, jobs, 1)
        elif isinstance(message, Alive):
            self._note(place, message)
        elif isinstance(message, Ready):
            self._begun(place, message)
            self._feed(place, chunks, jobs, 2)
        elif isinstance(message, Refused):
            raise UserError(message.reason)
        elif isinstance(message, Failed):
            place.why = f"failed: {message.reason}"
            if place.link is not None:
                place.link.kill()
        elif isinstance(message, Gone):
            self._gone(place, message.how, chunks, finish)

    def _begun(self, place: _Place, message: Ready) -> None:
        """Notes that a place's worker can run. All workers load one model, so what there is to warn of is said once."""
        place.ready = message
        if message.warning and not self._warned:
            log.warning("%s", message.warning)
            self._warned = True

    def _note(self, place: _Place, message: Alive) -> None:
        budget, known = message.usage.batch_tokens, self._learned.batch_tokens
        smaller = place.usage is not None and budget < place.usage.batch_tokens
        self._learned = self._learned.and_then(
            Learned(min(budget, known or budget) if smaller else None, message.usage.footprint)
        )
        place.usage, place.reported = message.usage, message.report

    def _feed(self, place: _Place, chunks: Chunks, jobs: Sequence[Job], count: int) -> None:
        """Sends the next chunks; or END, so that the worker finishes what it holds. Suspects only to a worker that holds nothing."""
        assert place.link is not None
        if place.apart:
            return  # END was sent behind the suspects
        for _ in range(count):
            if chunks.suspects and not place.held:
                numbers, place.apart = chunks.next_suspects(), True
            else:
                numbers = chunks.next() if not chunks.suspects else []
            if numbers:
                place.heard = place.heard if place.held else time.monotonic()
                place.held |= {number: jobs[number] for number in numbers}
                place.link.send([(number, jobs[number]) for number in numbers])
            if not numbers or place.apart:
                place.link.send(END)
                return

    def _ask_for_reports(self) -> None:
        """Waits a moment for every worker's last figures."""
        asked = [place for place in self.places if place.link is not None and place.ready is not None]
        for place in asked:
            place.reported = False
            assert place.link is not None
            place.link.send(REPORT)
        limit = time.monotonic() + 5
        while not all(place.reported for place in asked) and time.monotonic() < limit:
            for place, message in self._next_events():
                if isinstance(message, Alive):
                    self._note(place, message)
                elif isinstance(message, Ready):
                    self._begun(place, message)
                elif isinstance(message, Gone):
                    self._gone(place, message.how, Chunks([], 1), lambda number, answer: None)
                    asked = [other for other in asked if other is not place]
