"""Checks of the targets of documents: lm-eval would score an invalid target as a wrong answer.

`fault` returns why a document cannot be scored, and `fault_of_example` why it cannot be a few-shot
example. `looks_like_list` finds texts that lm-eval silently reads as Python lists.
"""

from __future__ import annotations

import ast
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import numpy as np
from lm_eval.api.task import ConfigurableTask
from lm_eval.utils import apply_template

from dlm_eval.errors import DlmEvalError
from dlm_eval.printable import is_text
from dlm_eval.reasons import reason

T = TypeVar("T")
MOST_SHOWN = 60  # maximum characters of a target in a message
MOST_TRIED = 1000  # documents searched for one with a valid target
# Aggregates that turn one NaN or infinity into the score of a whole task. lm-eval's `nanmean` and a
# task's own functions handle them.
PLAIN_AGGREGATES = ("mean", "median", "perplexity", "weighted_perplexity", "bits_per_byte", "f1_score", "matthews_corrcoef", "brier_score", "acc_all")  # fmt: skip
# A text of probability 0 has an infinite perplexity.
LIKELIHOODS = ("perplexity", "weighted_perplexity", "bits_per_byte")


def fault(task: Any, doc: Any) -> str | None:
    """Returns why a document's target cannot be scored, or None.

    Tasks with their own scorer are not checked.
    """
    own = type(task).process_results is not ConfigurableTask.process_results
    if own or callable(task.config.process_results) or "bypass" in task._metric_fn_list:
        return None
    return checked(_fault, task, doc)


def _fault(task: Any, doc: Any) -> str | None:
    if task.OUTPUT_TYPE not in ("multiple_choice", "generate_until"):
        return None
    choices = task.OUTPUT_TYPE == "multiple_choice"
    gold = task.doc_to_text(doc) if choices and task.multiple_input else task.doc_to_target(doc)
    if not all(is_text(text) for text in _texts(gold)):
        return "its target holds half of a surrogate pair, which is no text"
    if choices:
        return _of_choices(gold, task.doc_to_choice(doc), bool(task.multiple_target))
    return _of_texts(task, gold, doc)


def fault_of_example(task: Any, example: Any) -> str | None:
    """Returns why a few-shot example has no right answer, or None.

    Tasks with their own prompts are not checked.
    """
    if type(task).fewshot_context is not ConfigurableTask.fewshot_context:
        return None
    return checked(_fault_of_example, task, example)


def _fault_of_example(task: Any, example: Any) -> str | None:
    """Follows lm-eval's `build_qa_turn`: a number picks a choice; of a list the first is shown."""
    shown = task.fewshot_cfg
    choices = task.doc_to_choice(example, shown.doc_to_choice) if shown.doc_to_choice else None
    gold = task.doc_to_target(example, shown.doc_to_target)
    if task.multiple_input:
        asked, count = task.doc_to_text(example, shown.doc_to_text), len(choices or ())
        if not is_index(asked, count):
            return f"its text {_shown(asked)} is no number of a choice (0 to {count - 1})"
        choices = None
    if choices and isinstance(gold, int):
        return None if is_index(gold, len(choices)) else _of_choices(gold, choices, several=False)
    if isinstance(gold, list):
        if not gold:
            return "its target [] is empty"
        return (
            None
            if isinstance(gold[0], str)
            else f"its target {_shown(gold)} begins with {_shown(gold[0])}, no text"
        )
    if not isinstance(gold, str):
        return f"its target is {_shown(gold)}, no text"
    same = (shown.doc_to_target, shown.doc_to_choice) == (
        task.config.doc_to_target,
        task.config.doc_to_choice,
    )
    if task.OUTPUT_TYPE == "multiple_choice" and choices and same:  # else any text is allowed
        return _of_choices(gold, choices, several=False)
    return None


def from_first_sound(task: Any, docs: Any) -> Any:
    """Returns `docs` without those before the first valid target.

    lm-eval derives a task's form from its first document. If its target is invalid, the run ends.
    """
    for number in range(min(len(docs), MOST_TRIED)):
        try:
            doc = docs[number]
            gold, choices = task.doc_to_target(doc), None
            if task.config.doc_to_choice is not None:
                choices = task.doc_to_choice(doc)
                task.doc_to_text(doc)
        except Exception:
            if number == 0:
                return docs  # lm-eval's constructor reports it
            continue
        if _could_be_right(gold, choices):
            return docs.select(range(number, len(docs))) if number else docs
    return docs


def _could_be_right(gold: Any, choices: Any) -> bool:
    if isinstance(gold, (list, tuple)):
        return len(gold) > 0
    if choices is not None and isinstance(gold, (int, np.integer)):
        return is_index(gold, len(choices))
    return not _is_nothing(gold)


def checked(look: Callable[[Any, Any], T], task: Any, doc: Any) -> T | str:
    """Returns the result of `look` for a document, or why its target cannot be read."""
    try:
        return look(task, doc)
    except DlmEvalError:
        raise
    except Exception as error:  # templates and fields may raise anything
        return f"its target cannot be read: {reason(error)}"


def unscorable(task: Any, doc: Any) -> str | None:
    """Returns why a document has no text whose likelihood can be computed, or None."""
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
        wrong = [item for item in gold if not is_index(item, count)]
        if wrong:
            return f"its target {_shown(gold)} holds {_shown(wrong[0])}, which is no number of a choice (0 to {count - 1})"
        return None
    if several:
        return f"its target {_shown(gold)} is no list; the first document's is one, so this task has several targets each"
    if isinstance(gold, str):
        return (
            None if gold in choices else f"its target {_shown(gold)} is none of the {count} choices"
        )
    if is_index(gold, count):
        return None
    return f"its target {_shown(gold)} is no choice: it must be a number from 0 to {count - 1}, or a choice's text"


def is_index(value: Any, count: int) -> bool:
    """Returns whether `value` is the index of a choice; as in lm-eval, a boolean is 0 or 1."""
    if isinstance(value, (bool, np.bool_)):
        return count == 2
    return isinstance(value, (int, np.integer)) and bool(0 <= value < count)


def _of_texts(task: Any, gold: Any, doc: Any) -> str | None:
    if task.config.doc_to_choice is not None:
        count = len(task.doc_to_choice(doc))
        known = is_index(gold, count)
        return (
            None
            if known
            else f"its target {_shown(gold)} is no number of a choice (0 to {count - 1})"
        )
    if isinstance(gold, (list, tuple)):
        if not gold:
            return "its target [] holds no text"
        if not task.multiple_target:
            read = (
                ": lm-eval reads a text in brackets as a list" if looks_like_list(task, doc) else ""
            )
            return (
                f"its target {_shown(gold)} is a list; the first document's is a single text{read}"
            )
        return next(
            (f"its target holds {_shown(item)}" for item in gold if _is_nothing(item)), None
        )
    return f"its target is {_shown(gold)}, no text" if _is_nothing(gold) else None


def _is_nothing(value: Any) -> bool:
    return value is None or (isinstance(value, (float, np.floating)) and math.isnan(value))


def looks_like_list(task: Any, doc: Any) -> bool:
    """Returns whether lm-eval reads a target as a Python list only because the document's text is
    in brackets.

    If the template renders a list of the document, the list is intended.
    """
    template = task.config.doc_to_target
    if not isinstance(template, str) or template in task.features:
        return False
    text = apply_template(template, doc)
    if not (len(text) >= 2 and text[0] == "[" and text[-1] == "]") or not any(
        text in own for own in _texts(doc)
    ):
        return False
    try:
        ast.literal_eval(text)
    except (SyntaxError, ValueError, MemoryError, RecursionError):
        return False
    return True


def _texts(value: Any) -> list[str]:
    if isinstance(value, str):
        return [value]
    items = (
        value.values()
        if isinstance(value, Mapping)
        else value
        if isinstance(value, (list, tuple))
        else ()
    )
    return [text for item in items for text in _texts(item)]


def no_numbers(task: Any, metrics: Mapping[str, Any]) -> dict[str, str]:
    """Returns metric -> its error, for metrics of which the task's score would be no finite number."""
    aggregates, found = task.aggregation(), {}
    for metric, value in metrics.items():
        # The default aggregation of lm-eval is the mean.
        name = getattr(aggregates.get(metric), "__name__", "mean")
        if name == "mean" and (value is None or isinstance(value, str)):
            found[metric] = f"metric '{metric}' is {value!r}, which is no number"
        wrong = _first_no_number(value) if name in PLAIN_AGGREGATES else None
        if wrong is not None and (math.isnan(wrong) or name not in LIKELIHOODS):
            found[metric] = f"metric '{metric}' is {wrong}"
    return found


def without_likelihood(task: Any, results: Sequence[Any]) -> str | None:
    """Returns why a document's log-likelihoods cannot be scored, or None.

    lm-eval would treat NaN as the best choice.
    """
    if task.OUTPUT_TYPE == "generate_until":
        return None
    values = [answer[0] if isinstance(answer, (tuple, list)) else answer for answer in results]
    if any(isinstance(value, float) and math.isnan(value) for value in values):
        return "a log-likelihood is nan"
    if (
        task.OUTPUT_TYPE == "multiple_choice"
        and values
        and all(value == -math.inf for value in values)
    ):
        return "no choice has a likelihood above zero"
    return None


def _first_no_number(value: Any) -> float | None:
    if isinstance(value, (list, tuple, np.ndarray)):
        return next(
            (wrong for item in value if (wrong := _first_no_number(item)) is not None), None
        )
    number = isinstance(value, (float, np.floating))
    return float(value) if number and not math.isfinite(value) else None


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= MOST_SHOWN else text[:MOST_SHOWN] + "..."
