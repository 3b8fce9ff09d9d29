"""Countdown as a list of equations: "86,28,13,31,96" (numbers and goal), answered by
"86+28=114,31-13=18,114-18=96".

`exact_match` is the rule of Ye et al. 2024 (arXiv 2410.14157; HKUNLP/diffusion-vs-ar 6743981,
src/llmtuner/tuner/core/metric.py): every equation is right, and the last result is the goal. It does
not ask which numbers were used. `all_numbers_used` does: every operand is a given number or an
earlier result, each is used at most once, and all given numbers are used.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from typing import Any

from dlm_eval.metrics.d1 import value_of

EQUATION = re.compile(r"(\d+)([+\-*/])(\d+)=(\d+(?:\.\d+)?)")


def countdown_results(doc: dict[str, Any], results: Sequence[str]) -> dict[str, float]:
    """Returns the two scores of one answer, 0 or 1."""
    *given, goal = doc["input"].split(",")
    parts = [EQUATION.fullmatch(part.strip()) for part in results[0].split(",")]
    equations = [part for part in parts if part is not None and _holds(part)]
    right = len(equations) == len(parts) and float(equations[-1][4]) == float(goal)
    return {
        "exact_match": float(right),
        "all_numbers_used": float(right and _uses_all(given, equations)),
    }


def _holds(equation: re.Match[str]) -> bool:
    value = value_of(_decimal(equation[1]) + equation[2] + _decimal(equation[3]))
    return value is not None and value == float(equation[4])


def _decimal(digits: str) -> str:
    """Returns a number without leading zeros, which Python's notation does not allow."""
    return digits.lstrip("0") or "0"


def _uses_all(given: Sequence[str], equations: Sequence[re.Match[str]]) -> bool:
    """Returns whether every operand is left from before, and all given numbers are used up."""
    left = Counter(map(float, given))
    for equation in equations:
        used = Counter([float(equation[1]), float(equation[3])])
        if used - left:
            return False
        left = left - used + Counter([float(equation[4])])
    return sum(left.values()) == 1
