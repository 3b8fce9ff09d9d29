"""Planning as Dream's authors measure it (DreamLM/Dream fac0a7f, eval/eval_planning.py): Countdown
as a list of equations, 4x4 Sudoku (metrics/sudoku.py) and trip planning.

Their examples are the first eight documents of each file, which are not asked themselves. Trip
planning is that of Natural Plan (arXiv 2406.04520) with the first two of its five examples.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from typing import Any

from dlm_eval.metrics.d1 import value_of

EXAMPLES = 8
BEGINNING = re.compile(r"\d+[+\-*/]\d+")
# what their pattern `[+-/*=]` after a number says: the characters from + to /, * and =. It begins at
# the first digit of a number, as any match does, so long numbers are read once.
OPERAND = re.compile(r"(?<!\d)\d+(?=[+,\-./*=])")
# Letters and digits as `re` counts them, in a text of any alphabet.
VISIT = re.compile(r"(?<!\d)\d+-\d+")
# Their pattern `.*Day (\d+).*from (\w+) to (\w+)` in two parts, of which the last match counts.
DAY = re.compile(r"Day (\d+)")
FLIGHT = re.compile(r"(?=from (\w+) to (\w+))")
TOTAL = re.compile(r"European cities for (\d+) days")
LONGEST_LINE = 2000  # characters


def examples(dataset: Any) -> Any:
    """Returns the documents that are shown as examples."""
    return dataset.select(range(min(EXAMPLES, len(dataset))))


def asked(dataset: Any) -> Any:
    """Returns the documents that are asked."""
    return dataset.select(range(min(EXAMPLES, len(dataset)), len(dataset)))


# -- Countdown -------------------------------------------------------------------------------------


def countdown_results(doc: dict[str, Any], results: Sequence[str]) -> dict[str, float]:
    """Returns whether the equations of an answer's first line hold, use every number once and end
    in the goal (eval/cd_metric.py).

    A left side begins with two numbers and an operator; what follows is part of the expression.
    Only the last number of a longer one, and those before an operator, count as used. The right
    side is a number that counts as its text, so "6" and "6.0" are different numbers.
    """
    *numbers, goal = doc["input"].split(",")
    line = results[0].partition("<|end_of_text|>")[0].partition("\n")[0]
    left = Counter(numbers)
    for equation in line.split(","):
        sides = equation.split("=")
        if len(sides) != 2 or not _holds(*sides):
            return {"exact_match": 0.0}
        left.subtract(OPERAND.findall(equation))
        left[sides[1]] = left[sides[1]] + 1
    left[goal] -= 1
    right = line.rpartition("=")[2] == goal and not any(left.values())
    return {"exact_match": float(right)}


def _holds(expression: str, result: str) -> bool:
    if BEGINNING.match(expression) is None:
        return False
    value = value_of(expression)
    try:
        return value is not None and bool(value == float(result))
    except ValueError:
        return False


# -- trip planning ---------------------------------------------------------------------------------


def trip_prompt(doc: dict[str, Any]) -> str:
    """Returns the prompt with the first two of the document's five examples."""
    parts = doc["prompt_5shot"].split("TASK:")
    return "TASK:".join([*parts[:3], parts[-1]])


def trip_results(doc: dict[str, Any], results: Sequence[str]) -> dict[str, float]:
    """Returns whether an answer has all cities in order, each with its number of days
    (eval/trip_metric.py, which is Natural Plan's).

    Cities after the last one do not count.
    """
    answer = results[0].partition("<|endoftext|>")[0].partition("\n\nTASK")[0]
    cities = [city for city in doc["cities"].split("**") if city]
    days = [int(number) for number in doc["durations"].split("**") if number]
    wanted = list(zip(cities, days, strict=False))
    plan = trip_plan(answer)
    return {"exact_match": float(plan[: len(cities)] == wanted and len(wanted) == len(cities))}


def trip_plan(text: str) -> list[tuple[str, int]]:
    """Returns the cities of a plan, each with the number of days there.

    A city's days are those from the flight before it to the flight after it, both included. The
    plan ends with the line whose last day is that of the whole trip.
    """
    total: int | None = None
    last: int | None = None
    flights: list[tuple[int, str, str]] = []
    for line in text.split("\n"):
        line = line[:LONGEST_LINE]
        if found := TOTAL.search(line):
            total = int(found[1])
        if found := VISIT.search(line):
            last = int(found[0].partition("-")[2])
            if last == total:
                break
        if flight := _flight(line):
            flights.append(flight)
    if last is None or not flights:
        return []
    cities = [flights[0][1], *(arrival for _, _, arrival in flights)]
    turns = [1, *(day for day, _, _ in flights), last]
    return [(city, turns[i + 1] - turns[i] + 1) for i, city in enumerate(cities)]


def _flight(line: str) -> tuple[int, str, str] | None:
    """Returns the day, origin and destination of a line's last flight; None without one."""
    last = max(FLIGHT.finditer(line), key=re.Match.start, default=None)
    if last is None:
        return None
    days = DAY.findall(line[: last.start()])
    return (int(days[-1]), last[1], last[2]) if days else None
