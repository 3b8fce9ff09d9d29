"""Several programs as one, so that their rows share batches."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

from dlm_eval.engine.rows import ForwardRow, Output, Program

T = TypeVar("T")


def together(programs: Sequence[Program[T]]) -> Program[list[T]]:
    """Runs `programs` at the same time, so that their rows share batches; returns their answers.

    An error of one ends all.
    """
    answers: dict[int, T] = {}
    pending: dict[int, list[ForwardRow]] = {}

    def advance(number: int, outputs: list[Output] | None) -> None:
        try:
            pending[number] = programs[number].send(outputs)  # type: ignore[arg-type]
        except StopIteration as stop:
            answers[number] = stop.value
            pending.pop(number, None)

    for number in range(len(programs)):
        advance(number, None)
    while pending:
        asked = dict(pending)
        outputs = yield [row for rows in asked.values() for row in rows]
        begin = 0
        for number, rows in asked.items():
            advance(number, outputs[begin : begin + len(rows)])
            begin += len(rows)
    return [answers[number] for number in range(len(programs))]
