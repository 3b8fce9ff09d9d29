"""Trap: generated programs run unprotected, and one by one."""

from __future__ import annotations

import contextlib
import sys
import types
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from dlm_eval.patching import replaced_on_import


@contextmanager
def code_eval_in_sandbox() -> Iterator[None]:
    """Makes `evaluate.load("code_eval")` return the metric that runs programs in our sandbox.

    Upstream (evaluate 0.4.6): HF evaluate's `code_eval`, which scores `humaneval*`, `mbpp*` and
    infilling tasks, runs programs unprotected.
    """
    from dlm_eval.metrics.code import METRIC

    def make(evaluate: Any) -> Callable[..., Any]:
        original = evaluate.load
        return lambda path, *args, **options: (
            METRIC if path == METRIC.name else original(path, *args, **options)
        )

    with replaced_on_import("evaluate", "load", make):
        yield


def judge_in_sandbox(tasks: Mapping[str, Any]) -> None:
    """Replaces the scorers of code tasks, also in modules that are already loaded (code_tasks.py).

    Upstream (lm-eval 0.4.13): modules of `humaneval*` and `mbpp*` load HF's `code_eval` when they
    are imported. `cruxeval*` calls `exec` itself.
    """
    from dlm_eval.harness import code_tasks
    from dlm_eval.metrics.code import METRIC

    for module in list(sys.modules.values()):
        # lm-eval marks modules of task files with __mtime__.
        if isinstance(module, types.ModuleType) and "__mtime__" in vars(module):
            for name in code_tasks.foreign_metrics(module):
                setattr(module, name, METRIC)
    for task in tasks.values():
        metrics = getattr(task, "_metric_fn_list", {})  # lm-eval's Python-class tasks have none
        for name, metric in metrics.items():
            if code_tasks.is_cruxeval(function := code_tasks.called(metric)):
                function.__globals__["check_correctness"] = code_tasks.passes
                function.__globals__["unsafe_execute"] = None  # it must not be called
                metrics[name] = code_tasks.judged_first(function)


def judge_programs_ahead(name: str, task: Any) -> None:
    """Collects the programs of all documents of a task after filtering, so that the sandbox judges
    several at once.

    Upstream (lm-eval 0.4.13): `evaluator.evaluate` scores document by document, so the sandbox
    would judge one program at a time.
    """
    from dlm_eval.metrics.code import METRIC

    apply, score = task.apply_filters, task.process_results

    def apply_filters() -> Any:
        outcome = apply()
        with METRIC.noting(name):
            for instance in task.instances:
                for answer in instance.filtered_resps.values():
                    # An exception is raised again, and stored, during scoring.
                    with contextlib.suppress(Exception):
                        score(instance.doc, [answer])
        return outcome

    task.apply_filters = apply_filters
