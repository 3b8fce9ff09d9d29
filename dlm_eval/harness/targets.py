"""What is wrong with the target of a document: lm-eval scores a target that can never be right as a wrong answer.

`fault` says why a document cannot be scored, `looks_like_list` finds texts that lm-eval silently reads as Python lists.
"""

from __future__ import annotations

import ast
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from lm_eval.api.task import ConfigurableTask
from lm_eval.utils import apply_template

from dlm_eval.errors import DlmEvalError
from dlm_eval.printable import is_text

MOST_SHOWN = 60  # characters of a target in a message
# What turns one NaN or infinity into the score of a whole task. lm-eval's `nanmean`, and functions of a task's own, know what they do.
PLAIN_AGGREGATES = ("mean", "median", "perplexity", "weighted_perplexity", "bits_per_byte", "f1_score", "matthews_corrcoef", "brier_score", "acc_all")  # fmt: skip
LIKELIHOODS = (
    "perplexity",
    "weighted_perplexity",
    "bits_per_byte",
)  # a text of no likelihood has an infinite perplexity


def fault(task: Any, doc: Any) -> str | None:
    """Returns why a document's target makes it impossible to score, or None. Tasks with a scorer of their own are left to it."""
    own = type(task).process_results is not ConfigurableTask.process_results
    if own or callable(task.config.process_results) or "bypass" in task._metric_fn_list:
        return None
    found: str | None = checked(_fault, task, doc)
    return found


def _fault(task: Any, doc: Any) -> str | None:
    if task.OUTPUT_TYPE not in ("multiple_choice", "generate_until"):
        return None
    choices = task.OUTPUT_TYPE == "multiple_choice"
    gold = task.doc_to_text(doc) if choices and task.multiple_input else task.doc_to_target(doc)
    if not all(is_text(text) for text in _texts(gold)):
        return "its target holds half of a surrogate pair, which is no text"
    return (
        _of_choices(gold, task.doc_to_choice(doc), bool(task.multiple_target))
        if choices
        else _of_texts(task, gold, doc)
    )


def checked(look: Callable[[Any, Any], Any], task: Any, doc: Any) -> Any:
    """Returns what `look` finds of a document, or why its target cannot be read."""
    try:
        return look(task, doc)
    except DlmEvalError:
        raise
    except Exception as error:  # a document's fields and a task's templates may raise anything
        return f"its target cannot be read: {type(error).__name__}: {error}"


def unscorable(task: Any, doc: Any) -> str | None:
    """Returns why a document has no text that a likelihood could be asked of, or None."""
    own = type(task).construct_requests is not ConfigurableTask.construct_requests
    if own or task.OUTPUT_TYPE not in ("loglikelihood", "loglikelihood_rolling"):
        return None
    target = task.doc_to_target(doc)
    if isinstance(target, str):
        return None
    read = " (lm-eval reads a text in brackets as a list)" if looks_like_list(task, doc) else ""
    return f"its target is no text: {_shown(target)}{read}"


def _of_choices(gold: Any, choices: Sequence[Any], several: bool) -> str | None:
    count = len(choices)
    if isinstance(gold, (list, tuple)):
        if not several:
            return f"its target {_shown(gold)} is a list; the first document's is a single one, so this task has one target each"
        if not gold:
            return "its target [] is no choice: the list is empty"
        wrong = [item for item in gold if not _is_index(item, count)]
        return (
            f"its target {_shown(gold)} holds {_shown(wrong[0])}, which is no number of a choice (0 to {count - 1})"
            if wrong
            else None
        )
    if several:
        return (
            f"its target {_shown(gold)} is no list; the first document's is one, so this task has several targets each"
        )
    if isinstance(gold, str):
        return None if gold in choices else f"its target {_shown(gold)} is none of the {count} choices"
    return (
        None
        if _is_index(gold, count)
        else f"its target {_shown(gold)} is no choice: it must be a number from 0 to {count - 1}, or a choice's text"
    )


def _is_index(value: Any, count: int) -> bool:
    """Returns whether `value` is the number of one of `count` choices; a truth value is where there are two, as in lm-eval."""
    if isinstance(value, (bool, np.bool_)):
        return count == 2
    return isinstance(value, (int, np.integer)) and bool(0 <= value < count)


def _of_texts(task: Any, gold: Any, doc: Any) -> str | None:
    if task.config.doc_to_choice is not None:
        count = len(task.doc_to_choice(doc))
        return (
            None if _is_index(gold, count) else f"its target {_shown(gold)} is no number of a choice (0 to {count - 1})"
        )
    if isinstance(gold, (list, tuple)):
        if not gold:
            return "its target [] holds no text"
        if not task.multiple_target:
            read = ": lm-eval reads a text in brackets as a list" if looks_like_list(task, doc) else ""
            return f"its target {_shown(gold)} is a list; the first document's is a single text{read}"
        return next((f"its target holds {_shown(item)}" for item in gold if _is_nothing(item)), None)
    return f"its target is {_shown(gold)}, no text" if _is_nothing(gold) else None


def _is_nothing(value: Any) -> bool:
    return value is None or (isinstance(value, (float, np.floating)) and math.isnan(value))


def looks_like_list(task: Any, doc: Any) -> bool:
    """Returns whether the target is a text of the document's own that lm-eval reads as a Python list because it stands in brackets.

    A template that writes out a list of the document is meant as one.
    """
    template = task.config.doc_to_target
    if not isinstance(template, str) or template in task.features:
        return False
    text = apply_template(template, doc)
    if not (len(text) >= 2 and text[0] == "[" and text[-1] == "]") or not any(text in own for own in _texts(doc)):
        return False
    try:
        ast.literal_eval(text)
    except (SyntaxError, ValueError, MemoryError, RecursionError):
        return False
    return True


def _texts(value: Any) -> list[str]:
    if isinstance(value, str):
        return [value]
    items = value.values() if isinstance(value, Mapping) else value if isinstance(value, (list, tuple)) else ()
    return [text for item in items for text in _texts(item)]


def no_numbers(task: Any, metrics: Mapping[str, Any]) -> dict[str, str]:
    """Returns metric -> what is wrong with it, for those of a document's that are NaN or infinite and would make the task's score so."""
    aggregates, found = task.aggregation(), {}
    for metric, value in metrics.items():
        name = getattr(aggregates.get(metric), "__name__", "mean")  # lm-eval takes the mean of what has no aggregation
        wrong = _first_no_number(value) if name in PLAIN_AGGREGATES else None
        if wrong is not None and (math.isnan(wrong) or name not in LIKELIHOODS):
            found[metric] = f"metric '{metric}' is {wrong}"
    return found


def without_likelihood(task: Any, results: Sequence[Any]) -> str | None:
    """Returns why the log-likelihoods of a document cannot be scored, or None: one that is NaN would be taken for the best choice."""
    if task.OUTPUT_TYPE == "generate_until":
        return None
    values = [answer[0] if isinstance(answer, (tuple, list)) else answer for answer in results]
    if any(isinstance(value, float) and math.isnan(value) for value in values):
        return "a log-likelihood is nan"
    if task.OUTPUT_TYPE == "multiple_choice" and values and all(value == -math.inf for value in values):
        return "no choice has a likelihood above zero"
    return None


def _first_no_number(value: Any) -> float | None:
    if isinstance(value, (list, tuple, np.ndarray)):
        return next((wrong for item in value if (wrong := _first_no_number(item)) is not None), None)
    number = isinstance(value, (float, np.floating))
    return float(value) if number and not math.isfinite(value) else None


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= MOST_SHOWN else text[:MOST_SHOWN] + "..."
