"""Limits of processor time for a task's templates, filters and scorers, per document.

A task is the user's own code and is trusted. But a regular expression that backtracks, or a
template with an endless loop, must fail one sample and not the run. A timer's signal interrupts it,
also inside Python's `re`. Signals reach only the main thread, so other threads have no limit.
"""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from dlm_eval.errors import SampleError

# For the prompt of one document, or one template while tasks load.
PROMPT_SECONDS = 20.0
FILTER_SECONDS = 5.0  # for the filters of one answer
SCORE_SECONDS = 300.0  # for the scoring of one document, which may run a judge model
# Seconds until the next signal, in case the task's code caught the exception.
AGAIN = 0.5


class TooSlow(SampleError):
    """A block exceeded its processor time."""


@contextmanager
def time_limit(what: str, seconds: float) -> Iterator[None]:
    """Ends the block after so much processor time of this thread.

    Inside another such block, the outer limit holds.

    Raises:
        TooSlow: the block was ended; the message has `what` and the limit.
    """
    idle = signal.getsignal(signal.SIGALRM) in (signal.SIG_DFL, signal.SIG_IGN, None)
    if threading.current_thread() is not threading.main_thread() or not idle:
        yield
        return
    end = time.thread_time() + seconds

    def look(number: int, frame: Any) -> None:
        if time.thread_time() >= end:
            raise TooSlow(f"{what} took more than {seconds:.0f} s of processor time and was ended")

    before = signal.signal(signal.SIGALRM, look)
    signal.setitimer(signal.ITIMER_REAL, seconds, AGAIN)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
