"""A worker: loads the model and answers jobs; the rows of all its jobs share batches."""

from __future__ import annotations

import logging
import os
import socket
import time
from collections.abc import Callable, Iterator
from typing import Any

from dlm_eval.budget import make_engine
from dlm_eval.engine import Engine
from dlm_eval.errors import DlmEvalError, UserError
from dlm_eval.jobs import Job, drive_jobs
from dlm_eval.models import load_model, probes
from dlm_eval.workers.messages import (
    END,
    REPORT,
    Alive,
    Answered,
    Chunk,
    Failed,
    Halfway,
    LoadFailed,
    NeedWork,
    Ready,
    WorkerConfig,
    usage,
)

ALIVE_SECONDS = 1.0

log = logging.getLogger(__name__)


def serve(config: WorkerConfig, receive: Callable[[], Any], send: Callable[[Any], None]) -> None:
    """Answers jobs until the driver ends.

    Args:
        config: the model and its batch size.
        receive: waits for the driver's next message.
        send: sends a message to the driver.
    """
    try:
        probes.log.setLevel(logging.ERROR)  # the driver logs its warning once for all workers
        model = load_model(config.model, **config.options)
        engine = make_engine(model, config.batch_size, config.profile, config.most_rows)
        engine.on_forward = _heartbeat(engine, send)
        send(Ready(os.getpid(), socket.gethostname(), probes.whole_rows(model)))
        while True:
            message = receive()
            if message == REPORT:
                send(Alive(usage(engine), report=True))
            elif message != END:
                drive_jobs(
                    engine,
                    _incoming(message, receive, send),
                    lambda number, answer: send(Answered(number, answer)),
                    lambda number, checkpoint: send(Halfway(number, checkpoint)),
                )
    except UserError as error:
        send(LoadFailed(str(error)))
    except DlmEvalError as error:
        send(Failed(str(error)))
    except Exception as error:  # the driver decides how to go on
        log.exception("worker %d ends", os.getpid())
        send(Failed(f"{type(error).__name__}: {error}"))


def _incoming(chunk: Chunk, receive: Callable[[], Any], send: Callable[[Any], None]) -> Iterator[tuple[int, Job]]:
    """Yields the jobs of `chunk` and of the following chunks until END.

    The next chunk is requested when one is begun, so that it arrives in time.
    """
    message: Any = chunk
    while message != END:
        send(NeedWork())
        yield from message
        message = receive()


def _heartbeat(engine: Engine, send: Callable[[Any], None]) -> Callable[[], None]:
    last = 0.0

    def alive() -> None:
        nonlocal last
        if time.monotonic() - last > ALIVE_SECONDS:
            last = time.monotonic()
            send(Alive(usage(engine)))

    return alive
