"""Answers to lm-eval's code tasks, right and with one changed return value, put through the tasks' own filters and metrics."""

from __future__ import annotations

import ast
import re
from collections.abc import Mapping, Sequence
from typing import Any

from lm_eval.api.instance import Instance

from dlm_eval.harness.lm_eval_patches import judge_programs_ahead

# What `return value` of a function becomes: another value of the same kind where there is one.
CHANGED = """
def _changed(value):
    if isinstance(value, bool):
        return not value
    if isinstance(value, (int, float, complex)):
        return value + 1
    if isinstance(value, str):
        return value + "x"
    return 0 if value is None else None
"""


class _Returns(ast.NodeVisitor):
    """The `return`s of one function, without those of functions inside it."""

    def __init__(self, function: ast.FunctionDef) -> None:
        self.found: list[ast.Return] = []
        for statement in function.body:
            self.visit(statement)

    def visit_Return(self, node: ast.Return) -> None:
        self.found.append(node)

    def visit_FunctionDef(self, node: ast.FunctionDef) -> None:
        pass

    def visit_Lambda(self, node: ast.Lambda) -> None:
        pass


def changed(program: str, entry: str, place: int = -1) -> str | None:
    """Returns a program whose function `entry` has one `return` changed, the last if no other place is given; None if there is none."""
    tree = ast.parse(program)
    functions = [
        node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == entry
    ]
    returns = sorted(
        _Returns(functions[-1]).found if functions else [], key=lambda node: node.lineno
    )
    if not -len(returns) <= place < len(returns):
        return None
    chosen = returns[place]
    value = chosen.value or ast.Constant(None)
    chosen.value = ast.Call(ast.Name("_changed", ast.Load()), [value], [])
    return CHANGED + ast.unparse(ast.fix_missing_locations(tree))


def entry_of(test: str, program: str) -> str:
    """Returns the function of a program that an MBPP test calls; the last where it names several."""
    functions = [node.name for node in ast.parse(program).body if isinstance(node, ast.FunctionDef)]
    named = [name for name in functions if re.search(rf"\b{name}\b", test)]
    return (named or functions or [""])[-1]


def scores(
    name: str, task: Any, docs: Sequence[Mapping[str, Any]], answers: Sequence[str]
) -> list[float]:
    """Returns the score of each answer, by the task's own filters and metric, as lm-eval's evaluator calls them."""
    task._instances = [
        Instance(
            "generate_until", dict(doc), ("", {}), 0, metadata=(name, number, 1), resps=[answer]
        )
        for number, (doc, answer) in enumerate(zip(docs, answers, strict=True))
    ]
    judge_programs_ahead(name, task)
    task.apply_filters()
    found = []
    for instance in task._instances:
        (filtered,) = instance.filtered_resps.values()
        (score,) = task.process_results(instance.doc, [filtered]).values()
        found.append(float(score))
    return found
