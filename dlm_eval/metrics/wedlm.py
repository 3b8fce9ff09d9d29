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


def letter(text: str, options: str = "ABCD") -> str:
    """Returns the letter of an option that an answer begins with, in either case; else the one that
    it says (only A to D are read there); else the first that stands in it; "" if there is none
    (mmlu_evaluator.py:26-51, arc_c_evaluator.py:25-53).

    Args:
        text: the answer.
        options: the letters of the document's choices.
    """
    text = text.strip()
    if text[:1].upper() in set(options):
        return text[0].upper()
    for pattern in SAID:
        found = pattern.search(text)
        if found and found[1] in options:
            return str(found[1])
    return next((c.upper() for c in text if c.upper() in set(options)), "")


def number(text: str) -> str:
    """Returns the first number behind the last ``####``, else the last number of the answer before
    the next ``Question:``; "NULL" if there is none (gsm8k_evaluator.py:25-60)."""
    text = text.partition("Question:")[0].replace(",", "")
    marked = NUMBER.findall(text.rpartition("####")[2]) if "####" in text else []
    if marked:
        return str(marked[0])
    return str((NUMBER.findall(text) or ["NULL"])[-1])


# -- MATH ------------------------------------------------------------------------------------------

PLAIN = (
    ("\n", ""), ("\\!", ""), ("\\\\", "\\"), ("tfrac", "frac"), ("dfrac", "frac"), ("\\left", ""),
    ("\\right", ""), ("^{\\circ}", ""), ("^\\circ", ""), ("\\$", ""), ("$", ""), ("\\%", ""), ("%", ""),
    (" ", ""),
)  # fmt: skip
THOUSANDS = re.compile(r"(\d),(\d)")


def math_prompt(doc: Mapping[str, Any]) -> str:
    """Returns Minerva's four examples, each on as few lines as in the source and with its final
    answer boxed, and the problem (datasets/math.py:73-95). The examples are read from lm-eval."""
    from lm_eval.tasks.minerva_math.utils import list_fewshot_samples

    solved = ((one["problem"], one["solution"]) for one in list_fewshot_samples())
    return "".join(f"{_solved(*each)}\n\n" for each in solved) + (
        f"Problem:\n{doc['problem']}\nSolution:\n"
    )


def _solved(problem: str, solution: str) -> str:
    reasoning, _, said = solution.partition("\nFinal Answer: The final answer is $")
    answer, _, rest = said.partition("$")
    problem = _one_line(problem).replace("equations \\begin", "equations: \\begin")
    reasoning = _one_line(reasoning).replace("$$ Since", "$$Since")
    return (
        f"Problem:\n{problem}\nSolution:\n{reasoning}\n"
        f"Final Answer: The final answer is $\\boxed{{{answer}}}${rest}"
    )


def _one_line(text: str) -> str:
    return " ".join(text.split())


def boxed(text: str) -> str:
    """Returns what stands in the last ``\\boxed{...}`` of the answer to the first problem (in the
    last ``\\fbox{...}`` if nothing is boxed); "" if there is none or its braces do not close."""
    ends = [place for mark in ("\nProblem:", "\nProblem ") if (place := text.find(mark)) > 0]
    text = text[: min(ends, default=len(text))]
    mark = next((mark for mark in ("\\boxed", "\\fbox") if mark in text), None)
    if mark is None:
        return ""
    behind = text[text.rfind(mark) + len(mark) :]
    end = _closing(behind)
    return behind[1:end] if behind.startswith("{") and end is not None else ""


def _closing(text: str) -> int | None:
    """Returns the place of the brace that closes the first one; None if there is none."""
    depth = 0
    for place, character in enumerate(text):
        depth += {"{": 1, "}": -1}.get(character, 0)
        if depth == 0:
            return place if character == "}" else None
    return None


def plain(text: str) -> str:
    """Returns LaTeX without spaces, signs of money, per cent and degrees, thousands separators, and
    braces around all of it (math_evaluator.py:75-103)."""
    for old, new in PLAIN:
        text = text.replace(old, new)
    text = THOUSANDS.sub(r"\1\2", text)
    while text.startswith("{") and _closing(text) == len(text) - 1:
        text = text[1:-1]
    return text


def math_results(doc: Mapping[str, Any], results: Sequence[str]) -> dict[str, float]:
    """Returns whether the boxed answer equals that of MATH's solution as text, made `plain`."""
    return {"exact_match": float(plain(boxed(results[0])) == plain(boxed(doc["solution"])))}


# -- programs, filters -----------------------------------------------------------------------------


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
    """Returns the letter, A to D, that each answer names (MMLU)."""
    return [[letter(text) for text in texts] for texts in resps]


def choice_letters(resps: Answers, docs: Docs) -> list[list[str]]:
    """Returns the letter that each answer names, of as many as the document has choices (ARC)."""
    return [
        [letter(text, "ABCDE"[: len(doc["choices"]["text"])]) for text in texts]
        for texts, doc in zip(resps, docs, strict=True)
    ]


def numbers(resps: Answers, docs: Docs) -> list[list[str]]:
    """Returns the number that each answer ends in."""
    return [[number(text) for text in texts] for texts in resps]


def programs(resps: Answers, docs: Docs) -> list[list[str]]:
    """Returns the program of each answer to MBPP's prompt."""
    return [[program(text) for text in texts] for texts in resps]
