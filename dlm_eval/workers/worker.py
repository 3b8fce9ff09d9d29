"""A worker loads the model and answers jobs. The rows of all its jobs share batches."""

from __future__ import annotations

import logging
import os
import socket
import time
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any

from dlm_eval.budget import make_engine
from dlm_eval.errors import DlmEvalError, UserError
from dlm_eval.jobs import Answer, Checkpoint, Job, drive_jobs
from dlm_eval.models import load_model, probes
from dlm_eval.reasons import reason
from dlm_eval.workers.chunks import question
from dlm_eval.workers.messages import (
    GIVE_BACK,
    REPORT,
    Alive,
    Answered,
    Failed,
    Halfway,
    LoadFailed,
    NeedWork,
    Ready,
    Receive,
    Returned,
    Usage,
    WorkerConfig,
    usage,
)

ALIVE_SECONDS = 1.0

log = logging.getLogger(__name__)


def serve(config: WorkerConfig, receive: Receive, send: Callable[[Any], None]) -> None:
    """Answers jobs until the driver ends.

    Args:
        config: the model and its batch size.
        receive: returns the driver's next message.
        send: sends a message to the driver.
    """
    try:
        if config.texts:
            return _serve_texts(config, receive, send)
        probes.log.setLevel(logging.ERROR)  # the driver logs its warning once for all workers
        model = load_model(config.model, **config.options)
        engine = make_engine(model, config.batch_size, config.profile, config.most_rows)
        worker = _Worker(lambda: usage(engine), receive, send)
        engine.on_forward = worker.after_forward
        send(Ready(os.getpid(), socket.gethostname(), probes.whole_rows(model)))
        while True:
            worker.take(receive())
            drive_jobs(engine, worker.jobs(), worker.answered, worker.halfway)
    except UserError as error:
        send(LoadFailed(str(error)))
    except DlmEvalError as error:
        send(Failed(str(error)))
    except Exception as error:  # the driver decides how to go on
        log.exception("worker %d ends", os.getpid())
        send(Failed(reason(error)))


def _serve_texts(config: WorkerConfig, receive: Receive, send: Callable[[Any], None]) -> None:
    """Answers text jobs with a model of lm-eval until the driver ends."""
    from dlm_eval.workers.texts import load_worker

    model = load_worker(config)
    worker = _Worker(model.usage, receive, send)
    model.on_answer = worker.after_forward
    send(Ready(os.getpid(), socket.gethostname()))
    while True:
        worker.take(receive())
        model.drive(worker.jobs(), worker.answered)


class _Worker:
    """The jobs that a worker has not begun, and its messages.

    Args:
        usage: returns what the worker has used so far.
        receive: returns the driver's next message.
        send: sends a message to the driver.
    """

    def __init__(
        self, usage: Callable[[], Usage], receive: Receive, send: Callable[[Any], None]
    ) -> None:
        self._usage, self._receive, self._send = usage, receive, send
        self._waiting: deque[tuple[int, Job]] = deque()  # not begun
        self._last = 0  # length of the last list
        self._question: tuple[int, str] | None = None  # of the job begun last
        self._under_way = 0
        self._alive = 0.0

    def jobs(self) -> Iterator[tuple[int, Job] | None]:
        """Yields jobs; None if there is none now but some are running. Ends if none is left.

        The next list is requested when the last one is begun, so that it arrives in time.
        """
        while True:
            self._read()
            if self._waiting:
                yield self._begin()
            elif self._under_way:
                yield None
            else:
                return

    def answered(self, number: int, answer: Answer) -> None:
        """Sends an answer."""
        self._under_way -= 1
        self._send(Answered(number, answer))

    def halfway(self, number: int, checkpoint: Checkpoint) -> None:
        """Sends a checkpoint."""
        self._send(Halfway(number, checkpoint))

    def after_forward(self) -> None:
        """Reads the driver's messages, and sends `Alive` every `ALIVE_SECONDS`."""
        self._read()
        if time.monotonic() - self._alive > ALIVE_SECONDS:
            self._alive = time.monotonic()
            self._send(Alive(self._usage()))

    def take(self, message: Any) -> None:
        """Takes a message of the driver."""
        if message == REPORT:
            self._send(Alive(self._usage(), report=True))
        elif message == GIVE_BACK:
            self._send(Returned(self._give_back()))
        else:
            self._waiting.extend(message)
            self._last = len(message)

    def _read(self) -> None:
        while (message := self._receive(wait=False)) is not None:
            self.take(message)

    def _begin(self) -> tuple[int, Job]:
        if len(self._waiting) == self._last:
            self._send(NeedWork())
        number, job = self._waiting.popleft()
        self._question = question(job)
        self._under_way += 1
        return number, job

    def _give_back(self) -> list[int]:
        """Returns the numbers of the jobs not begun, and forgets them.

        It keeps the other choices of a question that has begun.
        """
        kept: deque[tuple[int, Job]] = deque()
        while (
            self._waiting
            and self._question is not None
            and question(self._waiting[0][1]) == self._question
        ):
            kept.append(self._waiting.popleft())
        back = [number for number, _ in self._waiting]
        self._waiting, self._last = kept, 0
        return back
