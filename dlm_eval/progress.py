"""One progress line per run: done, total, forwards/s, tokens/s, share from the journal, device use,
time left.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from contextlib import suppress
from types import TracebackType

from dlm_eval.bars import bar, can_draw
from dlm_eval.canvas import Filling
from dlm_eval.jobs import Answer, Reply

SHOWN = 8  # maximum number of devices whose use is shown one by one
LINE_SECONDS = 60.0  # seconds between lines if a bar cannot be drawn


class Progress:
    """Counts answers; a context manager.

    Args:
        title: name of the work.
        total: number of distinct answers; it may `grow`.
        quiet: whether to show nothing.
        busy: returns each device's model seconds so far, to show how busy it is.
    """

    def __init__(
        self,
        title: str,
        total: int,
        quiet: bool = False,
        busy: Callable[[], list[float]] | None = None,
    ) -> None:
        self._drawn = can_draw()
        self._bar = bar(title, total, "request", hidden=quiet)
        self._quiet, self._title, self._total, self._busy = quiet, title, total, busy
        self._rows = self._tokens = self._replies = self._known = self._done = 0
        self._start = self._said = time.monotonic()
        self._busy_before = busy() if busy else []

    def __enter__(self) -> Progress:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Ends the display."""
        self._bar.close()
        if self._total and not self._drawn and not self._quiet:
            self._line()

    def grow(self, number: int) -> None:
        """Adds to the number of distinct answers."""
        self._total += number
        self._bar.total = self._total

    def __call__(self, answer: Answer, known: bool) -> None:
        """Counts one answer; `known` if it came from the journal."""
        self._done += 1
        self._known += known
        if not known:
            self._rows += answer.rows
            self._tokens += len(answer.value.tokens) if isinstance(answer.value, Filling) else 0
            self._replies += isinstance(answer.value, Reply)
        if self._drawn:
            self._bar.update()
            if time.monotonic() - self._said > 0.2:
                self._said = time.monotonic()
                self._bar.set_postfix_str(self._facts(), refresh=False)
        elif not self._quiet and time.monotonic() - self._said > LINE_SECONDS:
            self._line()

    def _line(self) -> None:
        """Prints a whole line, for logs."""
        self._said = time.monotonic()
        elapsed = self._said - self._start
        computed = self._done - self._known
        left = elapsed / computed * (self._total - self._done) if computed else 0.0
        line = f"{self._title}: {self._done}/{self._total}, {self._facts()}, {elapsed:.0f} s, {left:.0f} s left"
        with suppress(OSError):  # a closed log or a full disk must not end the run
            print(line, file=sys.stderr, flush=True)

    def _facts(self) -> str:
        seconds = max(time.monotonic() - self._start, 1e-9)
        facts = [f"{self._rows / seconds:.0f} forwards/s"]
        if self._replies:  # the forwards of lm-eval's models are not known
            facts = [f"{self._replies / seconds:.1f} requests/s"]
        if self._tokens:
            facts.append(f"{self._tokens / seconds:.0f} tokens/s")
        if self._known:
            facts.append(f"{self._known / max(1, self._total):.0%} from journal ({self._known})")
        if self._busy is not None:
            worked = [
                now - before for now, before in zip(self._busy(), self._busy_before, strict=True)
            ]
            facts += _use([min(1.0, part / seconds) for part in worked])
        return ", ".join(facts)


def _use(shares: list[float]) -> list[str]:
    """Returns how busy each device is; the range if there are more than `SHOWN`."""
    if not shares:
        return []
    if len(shares) > SHOWN:
        return [f"{len(shares)} devices {min(shares):.0%} to {max(shares):.0%}"]
    return [f"device{'s' * (len(shares) > 1)} " + " ".join(f"{share:.0%}" for share in shares)]
