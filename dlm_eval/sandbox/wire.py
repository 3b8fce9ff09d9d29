"""Messages between the harness and the server: a length and a JSON text."""

from __future__ import annotations

import json
import os
from typing import Any

LENGTH_BYTES, PIECE_BYTES = 8, 1 << 20


def send(fd: int, message: dict[str, Any]) -> None:
    """Writes one message to ``fd``."""
    text = json.dumps(message).encode("ascii")
    data = memoryview(len(text).to_bytes(LENGTH_BYTES, "little") + text)
    while data:
        data = data[os.write(fd, data) :]


def receive(fd: int) -> dict[str, Any] | None:
    """Reads one message from ``fd``; returns None if the other side has closed it."""
    head = _exactly(fd, LENGTH_BYTES)
    body = None if head is None else _exactly(fd, int.from_bytes(head, "little"))
    return None if body is None else json.loads(body)


def _exactly(fd: int, count: int) -> bytearray | None:
    data = bytearray()  # grows in place, so the cost per byte does not grow with the length
    while len(data) < count:
        piece = os.read(fd, min(count - len(data), PIECE_BYTES))
        if not piece:
            return None
        data += piece
    return data
