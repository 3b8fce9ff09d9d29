"""How each task scores generated code: without running it, in our sandbox, or outside it.

For every task, marked `unsafe_code` or not, the places that its functions can reach are looked up
in one table (code_scan.py). A marked task with unknown scoring counts as outside the sandbox.
"""

from __future__ import annotations

import functools
import inspect
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FunctionType, MethodWrapperType, ModuleType
from typing import Any

import dlm_eval
from dlm_eval import sandbox
from dlm_eval.harness.code_scan import (
    NOTHING_RUN,
    Hit,
    Means,
    Row,
    package_root,
    place_at,
    reach,
    row_of,
)
from dlm_eval.metrics.code import METRIC, TIMEOUT, Program

FRAMEWORK = ("api/", "filters/", "harness/")  # of lm-eval and dlm_eval: not task code


@dataclass(frozen=True)
class Way:
    """How a task runs generated code.

    Attributes:
        sandboxed: whether all generated code runs in our sandbox.
        reason: the code that runs outside, if any.
    """

    sandboxed: bool
    reason: str = ""


def ways(tasks: Mapping[str, Any]) -> dict[str, Way]:
    """Returns how each task that runs generated code runs it."""
    found = {name: way_of(task) for name, task in tasks.items()}
    return {name: way for name, way in found.items() if way is not None}


def sandbox_entries(found: Mapping[str, Way]) -> dict[str, list[str]]:
    """Returns the entry of each task in a result file: the protections of the sandbox, or
    UNSANDBOXED and the reason.

    Call it after all programs have run, since their verdicts contain the protections.
    """
    return {
        name: METRIC.protections(name) or list(sandbox.protections())
        if way.sandboxed
        else [sandbox.UNSANDBOXED, way.reason]
        for name, way in found.items()
    }


def way_of(task: Any) -> Way | None:
    """Returns how one task runs generated code, or None if it runs none."""
    found = set(starts(task))
    rows = [(hit, row_of(_short(hit.file), hit.inside, hit.name)) for hit in sorted(reach(found))]
    for hit, row in rows:
        if (why := _outside(hit, row)) is not None:
            return Way(sandboxed=False, reason=why)
    if any(row is not None and row.means is Means.SANDBOXED for _, row in rows):
        return Way(sandboxed=True)
    if not getattr(task, "UNSAFE_CODE", False):  # lm-eval sets it only on marked tasks
        return None
    own = {(_short(file), name) for file, name in found if not _short(file).startswith(FRAMEWORK)}
    if own and own <= set(NOTHING_RUN):
        return None
    return Way(
        sandboxed=False, reason="it is marked unsafe_code, and how it runs code is not known"
    )


def _outside(hit: Hit, row: Row | None) -> str | None:
    """Returns what runs outside the sandbox at a place, or None."""
    place = f"{hit.name} in {_short(hit.file)}"
    if row is None:
        return f"{place}, which is not known to be harmless" if hit.runs else None
    if row.means is Means.REFUSED:
        return f"{row.reason} ({_short(hit.file)})"
    if row.means is Means.SANDBOXED and not is_replaced(hit.file):
        return f"{place} could not be replaced"
    return None


def starts(task: Any) -> Iterator[tuple[str, str]]:
    """Yields file and top-level name of all functions of a task."""
    yield from _places(type(task))
    for name in ("_metric_fn_list", "_aggregation_list", "_filters"):
        yield from _places(getattr(task, name, None))  # lm-eval's Python-class tasks lack some
    yield from _places(vars(task.config))


def _places(value: Any) -> Iterator[tuple[str, str]]:
    """Yields the places of all functions, classes and callables in a value of a configuration."""
    value = called(value)
    if isinstance(value, Mapping):
        for item in value.values():
            yield from _places(item)
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from _places(item)
    elif isinstance(value, functools.partial):
        yield from _places([value.func, *value.args, *value.keywords.values()])
    elif inspect.ismethod(value):
        yield from _places([value.__func__, type(value.__self__)])
    elif inspect.isfunction(value):
        file = str(Path(value.__code__.co_filename).resolve())
        # A decorated function may have the name of another one, so look up its line.
        yield file, place_at(file, value.__code__.co_firstlineno)
        yield from _places(getattr(value, "__wrapped__", None))  # the decorated function
    elif inspect.isclass(value):
        for each in value.__mro__:
            module = sys.modules.get(each.__module__)
            path = getattr(module, "__file__", None)  # builtins have none
            if each.__module__.split(".")[0] in sys.stdlib_module_names or path is None:
                continue
            if not _short(path).startswith(("api/", "harness/")):
                yield str(Path(path).resolve()), each.__qualname__.split(".")[0]
    elif type(value).__name__ == "FilterEnsemble":
        yield from _places(value.filters)
    elif callable(value):
        # functools.cache sets __wrapped__.
        yield from _places([type(value), getattr(value, "__wrapped__", None)])


def _short(file: str) -> str:
    """Returns a path as in the table: relative to lm_eval or dlm_eval if it is inside them."""
    path = Path(file).resolve()
    roots = (package_root("lm_eval"), Path(dlm_eval.__file__).resolve().parent)
    return next(
        (path.relative_to(root).as_posix() for root in roots if path.is_relative_to(root)),
        str(path),
    )


# -- replacements in lm-eval's own code tasks (`lm_eval_patches.judge_in_sandbox`) -----------------


def called(metric: Any) -> Any:
    """Returns the function of a `function.__call__`; lm-eval wraps metrics of files like this."""
    return metric.__self__ if isinstance(metric, MethodWrapperType) else metric


def is_replaced(file: str) -> bool:
    """Returns whether all scorers loaded from a task's file have been replaced."""
    modules = [module for module in list(sys.modules.values()) if _is_from(module, file)]
    if file == _cruxeval_file():
        return all(module.check_correctness is passes for module in modules)
    return not any(foreign_metrics(module) for module in modules)


def _is_from(module: Any, file: str) -> bool:
    own = vars(module).get("__file__") if isinstance(module, ModuleType) else None
    return (
        own is not None
        and own.endswith(os.path.basename(file))  # quick, for the thousands of others
        and os.path.realpath(own) == file
    )


def foreign_metrics(module: ModuleType) -> list[str]:
    """Returns the names in a module that refer to HF's own code_eval."""
    evaluate = sys.modules.get("evaluate")
    if evaluate is None:
        return []
    values = vars(module).items()
    return [
        name
        for name, value in values
        if isinstance(value, evaluate.EvaluationModule) and value.name == METRIC.name
    ]


def _cruxeval_file() -> str:
    return str(package_root("lm_eval") / "tasks" / "cruxeval" / "utils.py")


def is_cruxeval(function: Any) -> bool:
    """Returns whether a metric is cruxeval's."""
    if not isinstance(function, FunctionType) or function.__name__ != "pass_at_k":
        return False
    return os.path.realpath(function.__code__.co_filename) == _cruxeval_file()


def passes(program: str, timeout: float = TIMEOUT) -> bool:
    """Replaces cruxeval's check_correctness."""
    asked = Program(program, "", timeout)
    return METRIC.judge([asked])[asked].passed


def judged_first(pass_at_k: Callable[..., Any]) -> Callable[..., Any]:
    """Returns cruxeval's metric, but with all programs judged in our sandbox first.

    A sandbox error is therefore not scored as a wrong answer.
    """

    @functools.wraps(pass_at_k)
    def judged(
        references: Sequence[str], predictions: Sequence[Sequence[str]], **options: Any
    ) -> Any:
        METRIC.judge([Program(text, "") for texts in predictions for text in texts])
        return pass_at_k(references=references, predictions=predictions, **options)

    return judged
