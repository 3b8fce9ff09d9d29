"""The tasks of d1 (Zhao et al. 2025, arXiv 2504.12216): its documents, parsers and scores.

d1 scores whole generations, with the special tokens in the text. Its parsers are lenient in their
own ways, and its published figures depend on them:

* GSM8K: the first ``\\boxed{...}`` with a number in it, else the last number between
  ``<answer>`` and ``</answer>``.
* MATH-500: the content of the last ``\\boxed``; without one, the whole text. Equality is that of
  Hendrycks et al. (lm-eval's ``hendrycks_math``).
* Countdown: the same text as an arithmetic expression. It must use each number once and give the
  target.
* Sudoku: the first of five patterns that finds a text; the share of the empty cells that its
  characters fill correctly.

The expression is evaluated by `value_of`, which knows numbers and arithmetic only.
"""

from __future__ import annotations

import ast
import operator
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from dlm_eval.errors import UserError
from dlm_eval.metrics.answers import finds_answer
from dlm_eval.recorded_answers import read_answers

BOXED = re.compile(r"\\boxed{(.*?)}")
GSM8K_TRUTH = re.compile(r"####\s*\$?([\d,]+(?:\.\d+)?)")
NUMBER = re.compile(r"-?\d+\.?\d*")
ARITHMETIC = re.compile(r"[\d+\-*/().\s]+")
# Anchored at the beginning of a run of such characters: a search in a long run is not quadratic.
LEFT_SIDE = re.compile(r"(?<![0-9+\-*/() ])([0-9+\-*/() ]+)=[0-9. ]+")
# Of d1's five patterns for Sudoku, those that begin with `<answer>`, without it, and the others. What
# does not match behind the first tag matches behind no later one, so a text is read once.
BEHIND_ANSWER = (
    re.compile(r".*?```([\d\s]+)```", re.DOTALL),
    re.compile(r"(.*?)(?:<\|eot_id\|>|<\|endoftext\|>|</answer>)", re.DOTALL),
)
ANYWHERE = (
    re.compile(r"</answer>\s*(.*?)(?:<\|eot_id\|>|<\|endoftext\|>|$)", re.DOTALL),
    re.compile(r"(\d{16})\s*</answer>"),
    re.compile(r"\b(\d{16})\b"),
)
CELLS = 16
LONGEST = 2000  # characters of an expression
MOST_BITS = 4096  # of a power
OPERATORS: dict[type[ast.AST], Callable[..., Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Pow: lambda base, exponent: _power(base, exponent),
    ast.UAdd: operator.pos,
    ast.USub: operator.neg,
}


# -- documents -------------------------------------------------------------------------------------


def documents(*, benchmark: str, answers: str | None = None, **_: Any) -> dict[str, Any]:
    """Returns ``{"test": Dataset}`` of the questions in an answers file, or of the benchmark's.

    Args:
        benchmark: a key of `SOURCES`.
        answers: the file, with fields `question` and `ground_truth` in each line; None for all
            documents that d1 asks.
        _: The task's other metadata, with the model's arguments, which lm-eval passes too.

    Raises:
        UserError: a line lacks a field, ground truths are of several types, or the benchmark's
            data cannot be loaded.
    """
    import datasets

    if answers is None:
        source = SOURCES[benchmark]
        found = datasets.load_dataset(source.path, source.name, split="test")
        return {"test": datasets.Dataset.from_list([source.document(row) for row in found])}
    rows = [_document(one) for one in read_answers(answers)]
    try:
        return {"test": datasets.Dataset.from_list(rows)}
    except (ValueError, TypeError, OverflowError) as error:
        raise UserError(
            f"answers '{answers}': the values of ground_truth must be of one type, and of ordinary"
            f" size ({error})"
        ) from error


def _document(answer: Any) -> dict[str, Any]:
    question, truth = answer.text("question"), answer.value("ground_truth")
    if not isinstance(truth, list):
        return {"question": question, "ground_truth": truth}
    numbers, target = truth if len(truth) == 2 else (None, None)
    if not isinstance(numbers, list) or not isinstance(target, int):
        raise answer.wrong("ground_truth", "it must be [[numbers], target]")
    return {"question": question, "numbers": numbers, "target": target}


@dataclass(frozen=True)
class Source:
    """Where the documents of a benchmark are, if there is no file of answers.

    Attributes:
        path: of the dataset.
        name: of its configuration.
        document: a row -> the document.
    """

    path: str
    name: str | None
    document: Callable[[dict[str, Any]], dict[str, Any]]


def _of_gsm8k(row: dict[str, Any]) -> dict[str, Any]:
    """d1 reads no sign, so the two documents with a negative answer have no ground truth."""
    found = GSM8K_TRUTH.search(row["answer"])
    truth = None if found is None else float(found[1].replace(",", ""))
    return {"question": row["question"], "ground_truth": truth}


def _of_math(row: dict[str, Any]) -> dict[str, Any]:
    return {"question": row["problem"], "ground_truth": row["answer"]}


def _of_countdown(row: dict[str, Any]) -> dict[str, Any]:
    numbers, target = row["ground_truth"]
    return {"question": row["question"], "numbers": numbers, "target": target}


def _of_sudoku(row: dict[str, Any]) -> dict[str, Any]:
    return {"question": row["question"], "ground_truth": row["ground_truth"]}


# The 256 documents of Countdown and Sudoku that d1 drew are those of its recorded answers.
SOURCES = {
    "gsm8k": Source("openai/gsm8k", "main", _of_gsm8k),
    "math500": Source("HuggingFaceH4/MATH-500", None, _of_math),
    "countdown": Source("local/d1_llada", "countdown_256", _of_countdown),
    "sudoku": Source("local/d1_llada", "sudoku_256", _of_sudoku),
}


# -- scores ----------------------------------------------------------------------------------------


@finds_answer(lambda text: gsm8k_answer(text))
def gsm8k_results(doc: dict[str, Any], results: Sequence[str]) -> dict[str, float]:
    """Returns whether the number in the text equals the document's; 0 without a ground truth."""
    number = gsm8k_answer(results[0])
    if isinstance(doc["ground_truth"], str):
        raise ValueError("the ground truth is a text; it must be a number")
    return {"exact_match": float(number is not None and number == doc["ground_truth"])}


def gsm8k_answer(text: str) -> float | None:
    """Returns the number in the first `\\boxed` that has one, else the last of the answer tags."""
    for content in map(str.strip, _boxes(text)):
        number = None if not content.strip(".") else _number(content, first=True)
        if number is not None:
            return number
    tagged = _tagged(text)
    return None if tagged is None else _number(tagged, first=False)


def _boxes(text: str) -> Iterator[str]:
    """Yields what each `\\boxed{` of a line holds up to the next brace."""
    for line in text.split("\n"):
        # up to the last brace, so that none is sought in vain from every `\\boxed{`
        yield from BOXED.findall(line[: line.rfind("}") + 1])


def _tagged(text: str) -> str | None:
    """Returns what stands between the first answer tags; None without them."""
    content, closed, _ = text.partition("<answer>")[2].partition("</answer>")
    return content.strip() if closed else None


def _number(text: str, first: bool) -> float | None:
    """Returns `text` as a number, else the first (or last) number in it."""
    try:
        return float(text)
    except ValueError:
        found = NUMBER.findall(text)
        return float(found[0 if first else -1]) if found else None


@finds_answer(lambda text: math_answer(text))
def math_results(doc: dict[str, Any], results: Sequence[str]) -> dict[str, float]:
    """Returns whether the boxed text equals the document's by the rules of Hendrycks et al."""
    from lm_eval.tasks.hendrycks_math.utils import is_equiv

    written = math_answer(results[0])
    return {"exact_match": float(written is not None and is_equiv(written, doc["ground_truth"]))}


def math_answer(text: str) -> str | None:
    """Returns the boxed text (`boxed`), else what stands between the answer tags."""
    written = boxed(text)
    tagged = None if written else _tagged(text)
    return written if tagged is None else tagged


def boxed(text: str) -> str | None:
    """Returns the content of the last `\\boxed`; the whole text without one; None if its braces
    do not close.
    """
    from lm_eval.tasks.hendrycks_math.utils import last_boxed_only_string, remove_boxed

    if "\\boxed" not in text and "\\fbox" not in text:
        return text
    found = last_boxed_only_string(text)
    if found is None:
        return None
    try:
        return str(remove_boxed(found))
    except AssertionError:  # \fbox
        return str(found)


@finds_answer(lambda text: countdown_expression(text))
def countdown_results(doc: dict[str, Any], results: Sequence[str]) -> dict[str, float]:
    """Returns whether the expression uses each number once and gives the target."""
    expression = countdown_answer(results[0])
    if len(expression) > LONGEST:
        return {"exact_match": 0.0}
    used = sorted(int(digits) for digits in re.findall(r"\d+", expression))
    if used != sorted(doc["numbers"]):
        return {"exact_match": 0.0}
    value = value_of(expression)
    return {"exact_match": float(value is not None and abs(value - doc["target"]) < 1e-5)}


def countdown_answer(text: str) -> str:
    """Returns the expression in a text: the left side, if it is an equation."""
    expression = boxed(text)
    if expression is None:
        tagged = _tagged(text)
        expression = text if tagged is None else tagged
    for latex, sign in ((r"\div", "/"), (r"\times", "*"), (r"\cdot", "*")):
        expression = expression.replace(latex, sign)
    equation = LEFT_SIDE.search(expression)
    return equation[1].strip() if equation else expression


def countdown_expression(text: str) -> str | None:
    """Returns the expression in a text, None if it is no arithmetic."""
    expression = countdown_answer(text)
    return expression if ARITHMETIC.fullmatch(expression) else None


def value_of(expression: str) -> Any:
    """Returns the value of an arithmetic expression in Python's notation; None if it has none.

    Nothing is executed: the expression is parsed, and only numbers and + - * / // ** are known.
    """
    if len(expression) > LONGEST or not ARITHMETIC.fullmatch(expression):
        return None
    try:
        return _value(ast.parse(expression.strip(), mode="eval").body)
    except (SyntaxError, ValueError, TypeError, ArithmeticError, RecursionError, KeyError):
        return None  # TypeError: complex numbers have no `//`
    except MemoryError:  # of the parser: too deeply nested
        return None


def _value(node: ast.AST) -> Any:
    if isinstance(node, ast.Constant) and type(node.value) in (int, float):
        return node.value
    if isinstance(node, ast.UnaryOp):
        return OPERATORS[type(node.op)](_value(node.operand))
    if isinstance(node, ast.BinOp):
        return OPERATORS[type(node.op)](_value(node.left), _value(node.right))
    raise ValueError(f"{type(node).__name__} is not arithmetic")


def _power(base: Any, exponent: Any) -> Any:
    whole = isinstance(base, int) and isinstance(exponent, int)
    if whole and abs(exponent) * max(1, abs(base)).bit_length() > MOST_BITS:
        raise OverflowError("the power is too large")
    return base**exponent


@finds_answer(lambda text: sudoku_answer(text) or None)
def sudoku_results(doc: dict[str, Any], results: Sequence[str]) -> dict[str, float]:
    """Returns the share of the puzzle's empty cells that are filled correctly.

    d1 divides by the cells of all puzzles together. That is the mean of the shares, since each of
    its puzzles has eight empty cells.
    """
    found = re.search(r"([0-9]{16})", doc["question"])
    if found is None or "0" not in found[1]:
        raise ValueError("the question has no puzzle of 16 digits with an empty cell")
    empty = [cell for cell in range(CELLS) if found[1][cell] == "0"]
    written = sudoku_answer(results[0]).ljust(CELLS, "0")
    right = sum(written[cell] == doc["ground_truth"][cell] for cell in empty)
    return {"cell_acc": right / len(empty)}


def sudoku_answer(text: str) -> str:
    """Returns the text that the first matching pattern finds, without white space."""
    _, tag, behind = text.partition("<answer>")
    tagged = (pattern.match(behind) for pattern in BEHIND_ANSWER if tag)
    for found in (*tagged, *(pattern.search(text) for pattern in ANYWHERE)):
        if found and found[1].strip():
            return re.sub(r"\s", "", found[1])
    return ""
