"""What the driver knows of a worker, wherever it runs."""

from __future__ import annotations

import queue
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from dlm_eval.budget import Learned


@dataclass(frozen=True)
class Gone:
    """The worker has ended, and how."""

    how: str


class Link(Protocol):
    """One worker, seen from the driver. Everything it says arrives as (link, message) in the events; `Gone` is the last."""

    label: str

    def send(self, message: Any) -> None:
        """Hands a message over, without waiting."""
        ...

    def kill(self) -> None:
        """Ends the worker at once, whatever it does."""
        ...


Events = queue.SimpleQueue[tuple[Any, Any]]
Starter = Callable[[int, Learned, Events], Link]  # (place of the worker, what others learned, events) -> its link
