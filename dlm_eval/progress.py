"""One progress line per run: done, total, forwards and tokens a second, share known before, time left."""

from __future__ import annotations

import sys
import time
from types import TracebackType

from tqdm import tqdm

from dlm_eval.canvas import Filling
from dlm_eval.jobs import Answer

LINE_SECONDS = 60.0  # without a terminal: a line a minute instead of a moving bar


class Progress:
    """Counts answers as they come; a context manager.

    Args:
        title: what is being done.
        total: distinct answers to come.
        quiet: show nothing.
    """

    def __init__(self, title: str, total: int, quiet: bool = False) -> None:
        terminal = sys.stderr.isatty()
        self._bar = tqdm(
            total=total, desc=title, unit="request", disable=quiet, dynamic_ncols=terminal,
            mininterval=0.2 if terminal else LINE_SECONDS, maxinterval=LINE_SECONDS,
        )
        self._rows = self._tokens = self._known = 0
        self._start = time.monotonic()

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._bar.close()

    def __call__(self, answer: Answer, known: bool) -> None:
        """Counts one answer; `known` if it came from the journal."""
        self._known += known
        if not known:
            self._rows += answer.rows
            self._tokens += len(answer.value.tokens) if isinstance(answer.value, Filling) else 0
        seconds = max(time.monotonic() - self._start, 1e-9)
        self._bar.set_postfix(
            {"forwards/s": f"{self._rows / seconds:.0f}", "tokens/s": f"{self._tokens / seconds:.0f}", "from journal": self._known},
            refresh=False,
        )
        self._bar.update()
