"""A limit of processor time for what a task does with one document: its templates, its filters, its
scorer.

A task is the user's own code and is not mistrusted; but a regular expression that backtracks, or a
template with an endless loop, must cost one sample and not the run. A timer's signal ends it,
inside Python's `re` too. Signals reach the main thread alone: in other threads there is no limit.
"""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from dlm_eval.errors import SampleError

# Of processor time for the prompt of one document, or one template while tasks load.
PROMPT_SECONDS = 20.0
FILTER_SECONDS = 5.0  # for the filters of one answer
SCORE_SECONDS = 300.0  # for the scoring of one document, which may run a judge model
# Seconds between two signals, should the first one have been caught by the task's own code.
AGAIN = 0.5


class TooSlow(SampleError):
    """It took more processor time than it may."""


@contextmanager
def time_limit(what: str, seconds: float) -> Iterator[None]:
    """Ends the block after so much processor time of this thread (a busy machine does not count);
    inside another such block it is that one's limit.

    Raises:
        TooSlow: it was ended; the message is `what` and the limit.
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
