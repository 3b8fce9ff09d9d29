"""Ctrl-C, SIGTERM (preemption) and SIGHUP (a closed terminal): save, say how to resume, and exit
within seconds.

The first signal becomes a KeyboardInterrupt in the main thread. A long forward pass can delay it
there, so a second thread also waits for signals. After `GRACE_SECONDS` it runs the last duties, for
at most `DUTY_SECONDS` (a disk may hang), and ends the process.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NoReturn

GRACE_SECONDS = 1.5
DUTY_SECONDS = 2.0
INTERRUPTED = 130
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
MESSAGE = "dlm-eval: interrupted; finished answers are in the journal, the same command goes on from there"

_said = threading.Event()
_heard = threading.Event()  # a signal has arrived
# `orderly` is active. A KeyboardInterrupt without a signal is then not Ctrl-C.
_heeding = threading.Event()
_forking = threading.local()
_duties: list[Callable[[], None]] = []


@contextmanager
def last_duty(duty: Callable[[], None]) -> Iterator[None]:
    """Registers a duty to run before a signal ends the process while the main thread is blocked."""
    _duties.append(duty)
    try:
        yield
    finally:
        _duties.remove(duty)


@contextmanager
def orderly() -> Iterator[None]:
    """Makes SIGTERM and SIGHUP stop a run like Ctrl-C.

    A SIGHUP that is ignored (nohup) stays ignored. Outside the main thread this does nothing.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    _said.clear()
    _heard.clear()
    _heeding.set()
    ours, theirs = socket.socketpair()
    theirs.setblocking(False)
    heeded = [
        number
        for number in SIGNALS
        if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN
    ]
    handlers = {number: signal.signal(number, _stop) for number in heeded}
    wakeup = signal.set_wakeup_fd(theirs.fileno(), warn_on_full_buffer=False)
    threading.Thread(target=_end_in_time, args=(ours,), name="stopping", daemon=True).start()
    try:
        yield
    finally:
        _heeding.clear()
        signal.set_wakeup_fd(wakeup)
        theirs.close()
        if signal.getsignal(signal.SIGTERM) is _stop:
            for number, handler in handlers.items():
                signal.signal(number, handler)


def _stop(number: int, frame: Any) -> NoReturn:
    # A second signal must not interrupt saving.
    for each in SIGNALS:
        signal.signal(each, signal.SIG_IGN)
    _heard.set()
    raise KeyboardInterrupt


def of_the_user(error: BaseException) -> bool:
    """Returns whether the user interrupted the process.

    A task's code may raise SystemExit or KeyboardInterrupt too.
    """
    return isinstance(error, KeyboardInterrupt) and (_heard.is_set() or not _heeding.is_set())


def _hold_signals() -> None:
    """Blocks signals during a fork.

    A signal delivered to the child before `_forget` would write to the parent's wakeup fd.
    """
    _forking.mask = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)


def _heed_signals() -> None:
    signal.pthread_sigmask(signal.SIG_SETMASK, _forking.mask)


def _forget() -> None:
    """Restores default signal handling in a forked child (lm-eval's bootstrap, a sandbox)."""
    if signal.getsignal(signal.SIGTERM) is _stop:
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        if signal.getsignal(signal.SIGHUP) is _stop:
            signal.signal(signal.SIGHUP, signal.SIG_DFL)
    _heed_signals()


os.register_at_fork(before=_hold_signals, after_in_parent=_heed_signals, after_in_child=_forget)


def _end_in_time(bell: socket.socket) -> None:
    """Waits for a signal, then for the grace period, then ends the process."""
    with bell:
        while heard := bell.recv(64):
            if any(number in heard for number in SIGNALS):
                time.sleep(GRACE_SECONDS)
                duties = [
                    threading.Thread(target=_attempt, args=(duty,), daemon=True) for duty in _duties
                ]
                for thread in duties:
                    thread.start()
                limit = time.monotonic() + DUTY_SECONDS
                for thread in duties:
                    thread.join(max(0.0, limit - time.monotonic()))
                print_interrupted()
                os._exit(INTERRUPTED)


def print_interrupted() -> None:
    """Prints once how to resume. A closed terminal is no error."""
    if not _said.is_set():
        _said.set()
        with contextlib.suppress(OSError, ValueError):
            print(MESSAGE, file=sys.stderr, flush=True)


def discard_output() -> None:
    """Discards output after the reader closed the pipe, since Python would warn at exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _attempt(duty: Callable[[], None]) -> None:
    with contextlib.suppress(Exception):
        duty()
