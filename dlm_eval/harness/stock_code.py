"""lm-eval's own code tasks, put on our sandbox: what they judge with is replaced, their arithmetic stays.

`humaneval*`, `mbpp*` and the infilling tasks judge with HF evaluate's `code_eval`; `cruxeval*` with an `exec` of its
own. code_tasks.py says which tasks these are, and checks that the replacement took place.
"""

from __future__ import annotations

import contextlib
import functools
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import FunctionType, MethodWrapperType, ModuleType
from typing import Any

from dlm_eval.harness.code_scan import package_root
from dlm_eval.harness.on_import import on_import
from dlm_eval.metrics.code_eval import METRIC, TIMEOUT, Program


@contextlib.contextmanager
def code_eval_replaced() -> Iterator[None]:
    """Makes ``evaluate.load("code_eval")`` return the metric on our sandbox, until the context ends."""

    def prepare(evaluate: Any) -> Callable[[], None]:
        original = evaluate.load

        def load(path: str, *args: Any, **options: Any) -> Any:
            return METRIC if path == METRIC.name else original(path, *args, **options)

        evaluate.load = load
        return lambda: setattr(evaluate, "load", original)

    with on_import("evaluate", prepare):
        yield


def put_in_sandbox(tasks: Mapping[str, Any]) -> None:
    """Replaces what lm-eval's code tasks judge with, in modules that were loaded before us too."""
    for module in list(sys.modules.values()):
        if isinstance(module, ModuleType) and "__mtime__" in vars(module):  # lm-eval's mark on what task files name
            for name in _foreign_metrics(module):
                setattr(module, name, METRIC)
    for task in tasks.values():
        metrics = getattr(task, "_metric_fn_list", {})  # lm-eval's Python-class tasks have none
        for name, metric in metrics.items():
            if _is_cruxeval(function := called(metric)):
                metrics[name] = _judged_first(function)


def called(metric: Any) -> Any:
    """Returns the function behind `function.__call__`, which is what lm-eval keeps of a metric that a task file names."""
    return metric.__self__ if isinstance(metric, MethodWrapperType) else metric


def is_replaced(file: str) -> bool:
    """Returns whether nothing that was loaded from a task's file judges by itself."""
    modules = [module for module in list(sys.modules.values()) if _is_from(module, file)]
    if file == _cruxeval_file():
        return all(module.check_correctness is _passes for module in modules)
    return not any(_foreign_metrics(module) for module in modules)


def note_ahead(name: str, task: Any) -> None:
    """Has a task note the programs of all its documents once they are filtered, so that they are judged several at once."""
    apply, score = task.apply_filters, task.process_results

    def apply_filters() -> Any:
        outcome = apply()
        with METRIC.noting(name):
            for instance in task.instances:
                for answer in instance.filtered_resps.values():
                    with contextlib.suppress(Exception):  # it will be raised again, and kept, when it is scored
                        score(instance.doc, [answer])
        return outcome

    task.apply_filters = apply_filters


def _is_from(module: Any, file: str) -> bool:
    own = vars(module).get("__file__") if isinstance(module, ModuleType) else None
    return own is not None and os.path.basename(own) == os.path.basename(file) and os.path.realpath(own) == file


def _foreign_metrics(module: ModuleType) -> list[str]:
    """Returns the names in a module under which HF's own code_eval lies."""
    evaluate = sys.modules.get("evaluate")
    if evaluate is None:
        return []
    values = vars(module).items()
    return [
        name for name, value in values if isinstance(value, evaluate.EvaluationModule) and value.name == METRIC.name
    ]


def _cruxeval_file() -> str:
    return str(package_root("lm_eval") / "tasks" / "cruxeval" / "utils.py")


def _is_cruxeval(function: Any) -> bool:
    if not isinstance(function, FunctionType) or function.__name__ != "pass_at_k":
        return False
    return os.path.realpath(function.__code__.co_filename) == _cruxeval_file()


def _passes(program: str, timeout: float = TIMEOUT) -> bool:
    """Stands for cruxeval's check_correctness."""
    asked = Program(program, "", timeout)
    return METRIC.judge([asked])[asked].passed


def _judged_first(pass_at_k: Callable[..., Any]) -> Callable[..., Any]:
    """Returns cruxeval's metric with verdicts of our sandbox; it would count an error of the sandbox as a wrong answer."""
    module = pass_at_k.__globals__
    module["check_correctness"] = _passes
    module["unsafe_execute"] = None  # nothing is to call it

    @functools.wraps(pass_at_k)
    def judged(references: Sequence[str], predictions: Sequence[Sequence[str]], **options: Any) -> Any:
        METRIC.judge([Program(text, "") for texts in predictions for text in texts])
        return pass_at_k(references=references, predictions=predictions, **options)

    return judged
