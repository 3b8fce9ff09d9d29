"""Answers to word problems: the number, or the letter of a choice, that a solution ends with.

The rules of math-evaluation-harness (github.com/ZubinGou/math-evaluation-harness db77bc6), which the
DiffuLLaMA paper (arXiv 2410.17891, section 4.4) used for MAWPS and SAT-math:

* A number stands in the last ``\\boxed{...}``, else behind the last "he answer is", else it is the
  last number of the text. It is right if it equals the document's up to a relative error of 1e-4,
  or is a hundred times, or a hundredth of it (percentages). Only numbers are compared: all answers
  of MAWPS are numbers, and no symbolic mathematics is done.
* The letter of a choice stands behind the first "answer is" (or "choice is").

An answer that is not there is "". Filters return the answers, so that a vote counts answers and
not whole solutions.
"""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from dlm_eval.metrics.d1 import boxed

PHRASE = "he answer is"
# Digits, perhaps with a sign, a currency, a percent sign or a unit in words around them, and nothing
# behind. (The harness knows a list of units; any word is one here.)
NUMBER = re.compile(
    r"[:\s]*(-?)\s*\\?\$?\s*(-?)(\d+(?:,\d+)*\.?\d*|\.\d+) *\\?[$%]* *[A-Za-z ]*[./]*\s*"
)
LAST = re.compile(r"-?\d*\.?\d+")
LETTER = re.compile(r"(?:answer|choice) is \(?([a-e])\)?", re.IGNORECASE)


def number_of(text: str) -> str:
    """Returns the number that a solution ends with, in plain digits; "" if there is none."""
    if "boxed" in text:
        stated = boxed(text) or ""
    elif PHRASE in text:
        stated = text.rpartition(PHRASE)[2]
    else:
        found = LAST.findall(text.replace(",", ""))
        stated = found[-1] if found else ""
    whole = NUMBER.fullmatch(stated)
    return _plain(whole[1] + whole[2], whole[3]) if whole else ""


def _plain(sign: str, digits: str) -> str:
    """Returns a number without separators, zeros at its ends and a double sign: equal texts vote
    alike.
    """
    before, _, behind = digits.replace(",", "").partition(".")
    fraction = behind.rstrip("0")
    return (
        ("-" if sign == "-" else "") + (before.lstrip("0") or "0") + (fraction and "." + fraction)
    )


def numbers(resps: Iterable[Sequence[str]], docs: Any) -> list[list[str]]:
    """Filter: returns the number of each answer to each document."""
    return [[number_of(text) for text in texts] for texts in resps]


def number_results(doc: dict[str, Any], results: Sequence[str]) -> dict[str, float]:
    """Returns whether a filtered answer is the document's number (1.0) or not (0.0)."""
    return {"exact_match": float(same_number(results[0], float(doc["answer"])))}


def same_number(written: str, wanted: float) -> bool:
    """Returns whether a number equals `wanted`, as it is or as a percentage, within 1e-4 of it."""
    if not written:
        return False
    return any(math.isclose(float(written), wanted * by, rel_tol=1e-4) for by in (0.01, 1, 100))


def letter_of(text: str) -> str:
    """Returns the capital letter of the choice that a solution states; "" if it states none."""
    found = LETTER.search(text.partition("Problem:")[0])
    return found[1].upper() if found else ""


def letters(resps: Iterable[Sequence[str]], docs: Any) -> list[list[str]]:
    """Filter: returns the letter of each answer to each document."""
    return [[letter_of(text) for text in texts] for texts in resps]


def letter_results(doc: dict[str, Any], results: Sequence[str]) -> dict[str, float]:
    """Returns whether a filtered answer is the letter of the document's right choice."""
    return {"exact_match": float(results[0] == "ABCD"[doc["gold"][0]])}


@functools.cache
def chain_of_thought_examples() -> list[dict[str, str]]:
    """Returns the eight examples of Wei et al. 2022 (arXiv 2201.11903), from lm-eval's `gsm8k_cot`.

    Columns: question, solution, and answer (the number that the solution ends with).
    """
    import lm_eval.tasks
    import yaml

    file = Path(lm_eval.tasks.__file__).parent / "gsm8k" / "gsm8k-cot.yaml"
    shown = yaml.safe_load(file.read_text(encoding="utf-8"))["fewshot_config"]["samples"]
    return [
        {"question": one["question"], "solution": one["target"], "answer": number_of(one["target"])}
        for one in shown
    ]
