"""The program in a model's answer: what stands in a fence, or the longest part that is valid code.

    continued(text)            # the answer goes on in a fence that the prompt has opened
    fenced(text)               # the first fence of the answer
    longest_valid(text)        # Dream's: the most consecutive lines that parse ...
    needed(code, entry_point)  # ... of which the definitions that a function uses are kept

The other functions are filters of task YAMLs (`function: custom`). They return programs, which
`pass_at`, `pass_at_1` and `whole_programs` of `metrics.code` judge.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

FENCE = "```"
_FENCED = re.compile(r"```[^\n`]*\n(.*?)(?:```|\Z)", re.DOTALL)
_LONGEST = 100  # lines of an answer that Dream's script looks at

Answers = Iterable[Sequence[str]]  # of each document
Docs = Iterable[Mapping[str, Any]]


def continued(text: str) -> str:
    """Returns the code before the first fence. If there is none, because the answer opens a fence
    of its own, returns the code in it."""
    before, *_ = text.split(FENCE)
    return before if before.strip() else fenced(text)


def fenced(text: str) -> str:
    """Returns the code in the first fence, which ends with the answer if it is not closed; the
    whole answer if it has no fence."""
    found = _FENCED.search(text)
    return found[1] if found else text


def longest_valid(text: str) -> str:
    """Returns the consecutive lines with the most code that are valid Python together; of equally
    many lines, the first. Only the first hundred lines are looked at, as in Dream's script."""
    lines = text.splitlines()[:_LONGEST]
    bounds = [len(lines)] * len(lines)  # no valid part that starts in a line ends behind its bound
    best, found = 0, ""
    for start in range(len(lines)):
        end, tree = _last_end(lines, start, bounds[start])
        part = lines[start:end]
        count = sum(bool(line.strip()) for line in part)
        if count > best:
            best, found = count, _without_blank_end(part)
        # Valid parts can be joined: what starts at a statement of this part ends where it ends.
        for node in tree.body:
            place = start + _first_line(node) - 1
            bounds[place] = min(bounds[place], end)
    return found


def _last_end(lines: Sequence[str], start: int, bound: int) -> tuple[int, ast.Module]:
    """Returns the end of the longest valid part with this start, and its tree."""
    for end in range(bound, start, -1):
        tree = _parsed("\n".join(lines[start:end]))
        if tree is not None:
            return end, tree
    return start, ast.Module([], [])


def _without_blank_end(lines: Sequence[str]) -> str:
    """Returns lines as text without the blank ones at the end, unless a backslash needs them."""
    whole = "\n".join(lines)
    text = whole.rstrip()
    last = "\n".join(lines[: text.count("\n") + 1])
    return whole if _parsed(last) is None else last


def _first_line(node: ast.stmt) -> int:
    """Returns the line in which a statement begins, counted from 1."""
    if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
        return min([node.lineno, *(each.lineno for each in node.decorator_list)])
    return node.lineno


def needed(code: str, entry_point: str) -> str:
    """Returns the imports of valid code, and the definitions that a function needs, itself
    included. Functions without `return` count as no definitions, and so do assignments to anything
    but a name. All other statements are left out.

    Names are looked up as in Dream's script, which does not look into what an attribute is taken
    of: `Helper().run()` uses `run` but not `Helper`.
    """
    tree = ast.parse(code)
    imports = [node for node in tree.body if isinstance(node, (ast.Import, ast.ImportFrom))]
    # the last definition of a name counts, at the place of the first
    definitions = {name: node for node in tree.body if (name := _defined(node)) is not None}
    reached: set[str] = set()
    waiting = [entry_point]
    while waiting:
        name = waiting.pop()
        if name not in reached:
            reached.add(name)
            waiting += _names(definitions[name]) if name in definitions else ()
    kept = [node for name, node in definitions.items() if name in reached]
    return "\n".join(map(ast.unparse, [*imports, *kept]))


def _defined(node: ast.stmt) -> str | None:
    """Returns the name that a statement defines, if it counts."""
    if isinstance(node, ast.ClassDef):
        return node.name
    if isinstance(node, ast.FunctionDef):
        return node.name if any(isinstance(each, ast.Return) for each in ast.walk(node)) else None
    if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
        return node.targets[0].id
    return None


def _names(node: ast.AST) -> set[str]:
    names: set[str] = set()
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Name):
            names.add(child.id)
        elif isinstance(child, ast.Attribute):
            names.add(child.attr)
        else:
            names |= _names(child)
    return names


def _parsed(code: str) -> ast.Module | None:
    try:
        return ast.parse(code)
    except (SyntaxError, ValueError, RecursionError, MemoryError):  # NUL bytes, deep nesting
        return None


# -- documents -------------------------------------------------------------------------------------

_SWAPPED = "_poly(*candidate(*inp), inp)"
_ZERO = "abs(_poly(*inp, candidate(*inp)))"
_UNUSED_VERDICT = "exact_match = exp == (out is not None)"


def plus_documents(docs: Any) -> Any:
    """Returns MBPP+'s documents with tests that can fail; a `process_docs` of task YAMLs.

    For functions that may return a match object (`check_str`, `text_match_three`,
    `text_starta_endb`) the tests of the column `test` compute whether the answer is right, and do
    not assert it. EvalPlus's own judge does.
    """
    return docs.map(lambda doc: {"test": _asserted(doc["test"])})


def humaneval_plus_documents(docs: Any) -> Any:
    """Returns HumanEval+'s documents with tests that can be passed; a `process_docs` of task YAMLs.

    The test of problem 32 (`find_zero`) unpacks the result in place of the polynomial, so that every
    program fails. EvalPlus's own judge asks whether the polynomial is 0 there.
    """
    return docs.map(lambda doc: {"test": doc["test"].replace(_SWAPPED, _ZERO)})


def _asserted(tests: str) -> str:
    if "assert exact_match" in tests:
        return tests
    return tests.replace(_UNUSED_VERDICT, f"{_UNUSED_VERDICT}\n    assert exact_match")


# -- filters ---------------------------------------------------------------------------------------


def completions(resps: Answers, docs: Docs) -> list[list[str]]:
    """Returns HumanEval's prompt followed by each answer, as lm-eval's `build_predictions` does."""
    return _each(resps, docs, lambda text, doc: doc["prompt"] + text)


def continued_programs(resps: Answers, docs: Docs) -> list[list[str]]:
    """Returns the code of answers that go on in a fence."""
    return _each(resps, docs, lambda text, _: continued(text))


def fenced_programs(resps: Answers, docs: Docs) -> list[list[str]]:
    """Returns the code in the first fence of each answer."""
    return _each(resps, docs, lambda text, _: fenced(text))


def fenced_completions(resps: Answers, docs: Docs) -> list[list[str]]:
    """Returns HumanEval's prompt and the code in the first fence, which may go on with the function
    or define it again."""
    return _each(resps, docs, lambda text, doc: f"{doc['prompt']}\n{fenced(text)}")


def longest_valid_completions(resps: Answers, docs: Docs) -> list[list[str]]:
    """Returns what Dream's script runs for HumanEval (DreamLM/Dream fac0a7f,
    eval/postprocess_code.py and eval/sanitize.py): of the prompt and the answer, the longest valid
    code that the function needs."""
    return _each(resps, docs, _dream)


def _dream(text: str, doc: Mapping[str, Any]) -> str:
    before, fence, behind = text.partition(f"{FENCE}python\n")
    answer, *_ = (behind if fence else before).split(FENCE)
    whole = f"{doc['prompt']}\n{answer}".replace("\t", "    ")
    whole = whole.replace("\r\n", "\n").replace("\r", "\n")
    return needed(longest_valid(whole.strip()), doc["entry_point"])


def cruxeval_outputs(resps: Answers, docs: Docs) -> list[list[str]]:
    """Returns CRUXEval's programs for answers that say what the function returns."""
    return _each(resps, docs, _output_assertion)


def cruxeval_outputs_cot(resps: Answers, docs: Docs) -> list[list[str]]:
    """Returns the same for answers with reasoning before ``[ANSWER]``."""
    return _each(resps, docs, lambda text, doc: _output_assertion(_behind_reasoning(text), doc))


def cruxeval_inputs(resps: Answers, docs: Docs) -> list[list[str]]:
    """Returns CRUXEval's programs for answers that say which arguments give the output."""
    return _each(resps, docs, _input_assertion)


def cruxeval_inputs_cot(resps: Answers, docs: Docs) -> list[list[str]]:
    """Returns the same for answers with reasoning before ``[ANSWER]``."""
    return _each(resps, docs, lambda text, doc: _input_assertion(_behind_reasoning(text), doc))


def _behind_reasoning(text: str) -> str:
    parts = text.split("[ANSWER]")
    return parts[1] if len(parts) > 1 else text


def _output_assertion(text: str, doc: Mapping[str, Any]) -> str:
    parts = text.split("==")
    answer = parts[min(1, len(parts) - 1)].strip()
    return _assertion(doc, answer, allowed=f"f({doc['input']})" not in answer)


def _input_assertion(text: str, doc: Mapping[str, Any]) -> str:
    call, *_ = text.split("==")
    parts = call.split("assert f")
    answer = (f"f{parts[1]}" if len(parts) > 1 else call).strip()
    return _assertion(doc, answer, allowed="f(" in answer)


def _assertion(doc: Mapping[str, Any], answer: str, allowed: bool) -> str:
    """Returns a function and the assertion that decides. An output must not repeat the call, and an
    input must have one: such answers fail whatever they evaluate to."""
    statement = f"assert {doc['output']} == {answer}"
    return f"{doc['code']}\n{statement if allowed else 'assert False'}"


def _each(
    resps: Answers, docs: Docs, program: Callable[[str, Mapping[str, Any]], str]
) -> list[list[str]]:
    return [[program(text, doc) for text in texts] for texts, doc in zip(resps, docs, strict=True)]
