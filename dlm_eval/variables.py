"""The environment variables DLM_EVAL_* that change how a run proceeds, but none of its answers.

Each is read when it is needed. `check_variables` reads all of them, so that a wrong one is refused
before a model is loaded.
"""

from __future__ import annotations

import os
from collections.abc import Callable

from dlm_eval.errors import UserError

CHECKPOINT_SECONDS = 30.0
WATCHDOG_SECONDS = 900.0


def streams() -> bool:
    """Returns whether a task's requests are answered while those of the next tasks are built
    (DLM_EVAL_STREAM).
    """
    return bool(_read("DLM_EVAL_STREAM", "1", {"0": 0.0, "1": 1.0}.__getitem__, "0 or 1"))


def checkpoint_seconds() -> float:
    """Returns the seconds between two checkpoints of a canvas (DLM_EVAL_CHECKPOINT_SECONDS)."""
    allowed = "a number of seconds ('inf': never)"
    return _read("DLM_EVAL_CHECKPOINT_SECONDS", str(CHECKPOINT_SECONDS), _not_below(0.0), allowed)


def watchdog_seconds() -> float:
    """Returns the seconds after which a worker without a finished forward pass is hung
    (DLM_EVAL_WATCHDOG).
    """
    allowed = "a number of seconds above 0 ('inf': never)"
    return _read("DLM_EVAL_WATCHDOG", str(WATCHDOG_SECONDS), _not_below(1e-9), allowed)


def memory_tokens() -> int | None:
    """Returns the padded tokens above which a batch fails like one that is too large for a GPU
    (DLM_EVAL_MEMORY_TOKENS); None for no such limit.
    """
    found = _read("DLM_EVAL_MEMORY_TOKENS", "0", _count, "a whole number of at least 0")
    return int(found) or None


def check_variables() -> None:
    """Raises UserError if a variable has a value that is not allowed."""
    for read in (streams, checkpoint_seconds, watchdog_seconds, memory_tokens):
        read()


def _not_below(least: float) -> Callable[[str], float]:
    """Returns a function that reads a number of at least `least`."""

    def read(text: str) -> float:
        found = float(text)
        if not found >= least:  # NaN too
            raise ValueError("too small")
        return found

    return read


def _count(text: str) -> float:
    return _not_below(0.0)(str(int(text)))


def _read(name: str, default: str, read: Callable[[str], float], allowed: str) -> float:
    """Returns a variable's value; that of `default` if it is not set or empty.

    Raises:
        UserError: the value is not allowed.
    """
    text = os.environ.get(name) or default
    try:
        return read(text)
    except (ValueError, KeyError, OverflowError):
        raise UserError(f"{name} '{text}' is not allowed; it must be {allowed}") from None
