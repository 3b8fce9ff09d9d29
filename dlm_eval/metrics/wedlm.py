"""Answers as WeDLM's authors read them (Tencent/WeDLM 0216110, evaluation/evaluators). Filters of task YAMLs."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

Answers = Iterable[Sequence[str]]  # of each document
Docs = Iterable[Mapping[str, Any]]

SAID = tuple(
    re.compile(pattern)
    for pattern in (
        r"(?:answer|Answer|ANSWER)[\s:]*([A-D])",
        r"(?:is|IS)[\s:]*([A-D])",
        r"\b([A-D])\b",
    )
)
NUMBER = re.compile(r"-?(?:\d+\.?\d*|\.\d+)")


def letter(text: str) -> str:
    """Returns the letter (A to D) that an answer begins with, in either case; else the one that it
    says; else its first a, b, c or d; "" if there is none (mmlu_evaluator.py:26-51)."""
    text = text.strip()
    if text[:1].upper() in set("ABCD"):
        return text[0].upper()
    for pattern in SAID:
        if found := pattern.search(text):
            return str(found[1])
    return next((c.upper() for c in text if c.upper() in "ABCD"), "")


def number(text: str) -> str:
    """Returns the first number behind the last ``####``, else the last number of the answer before
    the next ``Question:``; "NULL" if there is none (gsm8k_evaluator.py:25-60)."""
    text = text.partition("Question:")[0].replace(",", "")
    marked = NUMBER.findall(text.rpartition("####")[2]) if "####" in text else []
    if marked:
        return str(marked[0])
    return str((NUMBER.findall(text) or ["NULL"])[-1])


def program(text: str) -> str:
    """Returns the program before ``[DONE]``, without quotes around it (mbpp_evaluator.py:102-108)."""
    text = text.partition("[DONE]")[0].strip()
    if text.startswith("'") and text.endswith("'"):
        text = text[1:-1].strip()
    return text


def number_results(doc: Mapping[str, Any], results: Sequence[str]) -> dict[str, float]:
    """Returns whether a written number equals GSM8K's answer to within 1e-6."""
    right = number(doc["answer"])
    same = results[0] != "NULL" and abs(float(results[0]) - float(right)) < 1e-6
    return {"exact_match": float(same)}


def letters(resps: Answers, docs: Docs) -> list[list[str]]:
    """Returns the letter that each answer names."""
    return [[letter(text) for text in texts] for texts in resps]


def numbers(resps: Answers, docs: Docs) -> list[list[str]]:
    """Returns the number that each answer ends in."""
    return [[number(text) for text in texts] for texts in resps]


def programs(resps: Answers, docs: Docs) -> list[list[str]]:
    """Returns the program of each answer to MBPP's prompt."""
    return [[program(text) for text in texts] for texts in resps]
