"""Answers as WeDLM's authors read them (Tencent/WeDLM 0216110, evaluation/evaluators). Filters of task YAMLs."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from itertools import dropwhile
from typing import Any

from dlm_eval.metrics import code_answers

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


# -- GPQA ------------------------------------------------------------------------------------------

WRONG = ("Incorrect Answer 1", "Incorrect Answer 2", "Incorrect Answer 3")
EXAMPLES = "DCDCD"  # right letters of the solved questions, which are the first of GPQA diamond


def gpqa_documents(docs: Any) -> Any:
    """Returns GPQA's documents with `choices`, of which the last is right (dataset_download/
    gpqa.py), and the same solved `examples` in each; a `process_docs` of task YAMLs.

    Their texts must not be in a repository. They are the data set's: its explanation stands for the
    reasoning that the authors wrote (datasets/gpqa.py:46-130).
    """
    solved = (_solved_choice(doc, right) for doc, right in zip(docs, EXAMPLES, strict=False))
    examples = "".join(solved)

    def added(doc: Mapping[str, Any]) -> dict[str, Any]:
        choices = [doc[name] for name in (*WRONG, "Correct Answer")]
        return {"choices": choices, "letter": "D", "examples": examples}

    return docs.map(added, load_from_cache_file=False)


def _solved_choice(doc: Mapping[str, Any], right: str) -> str:
    choices = [doc[name].strip() for name in WRONG]
    choices.insert("ABCD".index(right), doc["Correct Answer"].strip())
    lettered = "".join(f"{letter}) {text}\n" for letter, text in zip("ABCD", choices, strict=True))
    question, reasons = doc["Question"].strip(), doc["Explanation"].strip()
    return f"Question: {question}\n{lettered}Answer:\n{reasons}\n#### {right}\n\n"


def gpqa_results(doc: Mapping[str, Any], results: Sequence[str]) -> dict[str, float]:
    """Returns whether the text behind the first ``####`` is the right letter and nothing else
    (gpqa_evaluator.py:38-57). For an answer without ``####`` the authors draw one of the four
    letters; it counts a quarter here, which is their mean."""
    text, *_ = results[0].split("\n\nQuestion")
    parts = text.split("####")
    return {"exact_match": float(parts[1].strip() == doc["letter"]) if len(parts) > 1 else 0.25}


# -- HumanEval -------------------------------------------------------------------------------------

FENCED = tuple(re.compile(f"{mark}(.*?){mark}", re.DOTALL) for mark in ("```", "~~~"))
HEADER = re.compile(r"\bdef\b[ \t]+[A-Za-z_]\w*\s*\(", re.ASCII)
INDENT = 4


def humaneval_documents(docs: Any) -> Any:
    """Returns HumanEval's documents with its first problem, solved, as `example` (datasets/
    humaneval.py:51-66); a `process_docs` of task YAMLs."""
    import datasets

    first = datasets.load_dataset("openai/openai_humaneval", split="test")[0]
    _, _, prompt = first["prompt"].partition("\n\n\n")  # without its import
    return docs.map(lambda doc: {"example": prompt + first["canonical_solution"]})


def humaneval_plus_documents(docs: Any) -> Any:
    """Returns HumanEval+'s documents with that example, and with tests that can be passed."""
    return code_answers.humaneval_plus_documents(humaneval_documents(docs))


def completions(resps: Answers, docs: Docs) -> list[list[str]]:
    """Returns HumanEval's prompt and the body of its function in each answer."""
    return [
        [f"{doc['prompt']}\n{body(text)}" for text in texts]
        for texts, doc in zip(resps, docs, strict=True)
    ]


def body(text: str) -> str:
    """Returns the body of the function in an answer (humaneval_evaluator.py:148-301): in the first
    closed fence, or in an answer without one. It is indented if it is not, and ends where the
    indentation of its first line ends. Blank lines are left out."""
    inside = next((found[1] for fence in FENCED if (found := fence.search(text))), None)
    found_lines = _unfenced(text) if inside is None else _without_language(inside).splitlines()
    lines = [line for line in found_lines if line.strip()]
    first = next(filter(_is_code, lines), None)
    if first is not None and not _indent(first):
        lines, first = [" " * INDENT + line for line in lines], " " * INDENT + first
    return "\n".join(lines if first is None else _block(lines, _indent(first))).rstrip()


def _without_language(text: str) -> str:
    name, _, rest = text.partition("\n")
    named = "\n" in text and name.strip().isalpha() and len(name.strip()) <= 20
    return rest if named else text


def _unfenced(text: str) -> list[str]:
    """Returns the lines of an answer before a fence and behind imports: the indented block that
    they begin with, else the body of the first function in them, else all."""
    text = text.partition("```")[0].partition("~~~")[0]
    lines = list(dropwhile(_imports, text.splitlines()))
    code = list(dropwhile(lambda line: not _is_code(line), lines))
    if code and _indent(code[0]) >= INDENT:
        return _block(code, INDENT)
    text = "\n".join(lines)
    if "def " not in text and not text.lstrip().startswith("def"):  # a tab counts at the beginning
        return lines
    header = HEADER.search(text)
    return lines if header is None else _behind_header(text[header.start() :].splitlines())


def _behind_header(lines: list[str]) -> list[str]:
    """Returns the lines behind the header of a function; if it has no end, behind its first."""
    depth = 0
    for number, line in enumerate(lines, start=1):
        depth += line.count("(") - line.count(")")
        if depth == 0 and line.rstrip().endswith(":"):
            return lines[number:]
    return lines[1:]


def _block(lines: list[str], least: int) -> list[str]:
    """Returns the lines before the first line of code that is indented by less than `least`."""
    ends = (n for n, line in enumerate(lines) if _is_code(line) and _indent(line) < least)
    return lines[: next(ends, None)]


def _is_code(line: str) -> bool:
    return bool(line.strip()) and not line.strip().startswith(("#", "'", '"'))


def _indent(line: str) -> int:
    return len(line) - len(line.lstrip(" "))


def _imports(line: str) -> bool:
    return line.lstrip().startswith(("from ", "import "))


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
