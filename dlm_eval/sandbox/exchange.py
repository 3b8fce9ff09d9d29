"""The watcher's side of what it and the program say to each other; program.py is the other side.

    program: text ended  ->  watcher: the tests  ->  program: tests ended  ->  watcher: the token  ->  program: the token

The watcher takes nothing else, and nothing twice or too early. It asks for the tests, and draws the token, only when it
is their turn: until then they are in no process of the sandbox.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable

from .program import TESTS_ENDED, TEXT_ENDED, TOKEN_BYTES

REPORT_BYTES = 4096


class Exchange:
    """One program's words, and what it is told.

    Args:
        report: Descriptor to read what the program says.
        orders: Descriptor to write what it is told.
        tests: Returns the message with the tests; whatever it raises goes through `listen`.

    """

    def __init__(self, report: int, orders: int, tests: Callable[[], bytes]) -> None:
        self.report, self.orders = report, orders
        self._tests = tests
        self._said, self._to_say = b"", memoryview(b"")
        self._token = b""
        self._awaited = TEXT_ENDED
        os.set_blocking(orders, False)  # the program may never read

    @property
    def passed(self) -> bool:
        """The program said all that it had to, and nothing else."""
        return bool(self._token) and self._awaited == self._said == self._token

    @property
    def has_more_to_say(self) -> bool:
        return bool(self._to_say)

    @property
    def failure(self) -> str | None:
        """What the program said to be the error that it ended with, or that it said something strange."""
        if self._said[:1] == b"!":
            return "failed: " + "".join(chr(byte) if 32 <= byte < 127 else "?" for byte in self._said[1:])
        strange = not self._awaited.startswith(self._said)
        return "failed: wrote to the report" if strange else None

    def listen(self) -> bool:
        """Takes what the program has said, and answers; False if it will say nothing more."""
        piece = os.read(self.report, REPORT_BYTES)
        self._said = (self._said + piece)[:REPORT_BYTES]
        if self._said == self._awaited == TEXT_ENDED:
            self._said, self._awaited = b"", TESTS_ENDED
            self._to_say = memoryview(self._tests())
            self.say()
        elif self._said == self._awaited == TESTS_ENDED and not self._to_say:
            self._token = self._awaited = os.urandom(TOKEN_BYTES)
            self._said, self._to_say = b"", memoryview(self._token)
            self.say()
        return bool(piece)

    def listen_to_the_rest(self) -> None:
        """Takes what the program said before it ended; whoever it left behind may keep the report open."""
        os.set_blocking(self.report, False)
        with contextlib.suppress(BlockingIOError):
            while len(self._said) < REPORT_BYTES and self.listen():
                pass

    def say(self) -> None:
        """Goes on saying what is to be said, as far as the program listens."""
        try:
            while self._to_say:
                self._to_say = self._to_say[os.write(self.orders, self._to_say) :]
        except BlockingIOError:
            pass
        except BrokenPipeError:
            self._to_say = memoryview(b"")
