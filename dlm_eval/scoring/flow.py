"""Walks side by side, and what a walk asked for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeVar

from dlm_eval.engine import Reading, Row, Walk

T = TypeVar("T")


def together(walks: Sequence[Walk[Any]]) -> Walk[list[Any]]:
    """Returns the answers of `walks`, run side by side so that their rows share batches. An error of one ends all."""
    answers: list[Any] = [None] * len(walks)
    pending: dict[int, list[Row]] = {}

    def advance(number: int, readings: list[Reading] | None) -> None:
        try:
            pending[number] = walks[number].send(readings)  # type: ignore[arg-type]
        except StopIteration as stop:
            answers[number] = stop.value
            pending.pop(number, None)

    for number in range(len(walks)):
        advance(number, None)
    while pending:
        asked = dict(pending)
        readings = yield [row for rows in asked.values() for row in rows]
        begin = 0
        for number, rows in asked.items():
            advance(number, readings[begin : begin + len(rows)])
            begin += len(rows)
    return answers


def with_rows(walk: Walk[T]) -> Walk[tuple[T, int]]:
    """Returns the answer of `walk` and the distinct sequences that it asked the model for."""
    seen: dict[tuple[bytes, bytes, float], int] = {}
    try:
        rows = next(walk)
        while True:
            for row in rows:
                twin = b"" if row.unguided is None else row.unguided.tobytes()
                seen[row.tokens.tobytes(), twin, row.time] = row.passes
            rows = walk.send((yield rows))
    except StopIteration as stop:
        return stop.value, sum(seen.values())
