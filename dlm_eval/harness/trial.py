"""A trial of a task without a model: can its prompts be built, and its answers be scored?

Documents spread over the task are asked, and answered with their own target and with nothing. Only a
scorer in a file of the user is tried: others may load a judge or need a library's files, and are tested.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

from lm_eval.api.task import ConfigurableTask

from dlm_eval.harness.blocks import BlockTask
from dlm_eval.harness.code_tasks import called, way_of
from dlm_eval.harness.requests import UnbuiltPrompt
from dlm_eval.harness.sample_errors import SampleErrors, reason_of
from dlm_eval.user_files import is_users

TRIED = 20  # documents
LIKELY = -1.0  # nats


def spread(count: int) -> list[int]:
    """Returns the numbers of the documents that are tried, of `count`: at most TRIED, with the first."""
    return sorted({number * count // TRIED for number in range(TRIED)} if count else ())


@dataclass(frozen=True)
class Trial:
    """What a trial of a task found.

    Attributes:
        reason: why no document can be scored; None if one can.
        notes: what is odd about the scores.
    """

    reason: str | None = None
    notes: tuple[str, ...] = ()


def try_task(name: str, task: Any, score: Callable[..., Any], errors: SampleErrors) -> Trial:
    """Returns a trial of the documents whose requests are built.

    Args:
        task: guarded by `errors`, with the requests of some documents.
        score: its `process_results` before it was guarded.
    """
    asked = [list(own) for _, own in groupby(task.instances, key=lambda one: one.doc_id)]
    unbuilt = [own[0].args[0] for own in asked if isinstance(own[0].args[0], UnbuiltPrompt)]
    if len(unbuilt) == len(asked):
        return Trial(str(unbuilt[0]))
    if not _tried(task):
        return Trial()
    try:
        declared, returned = set(task.aggregation()), set[str]()
    except Exception as error:  # the user's class may raise anything
        return Trial(f"aggregation() failed: {reason_of(error)}")
    first: str | None = None
    scored = False
    for answered in (True, False):
        for metrics, reason in _scored(name, task, score, errors, asked, answered):
            scored |= reason is None
            returned |= metrics.keys()
            if scored and declared <= returned:
                return Trial()
            first = first or reason
    return Trial(notes=(_not_returned(declared, returned),)) if scored else Trial(first)


def _not_returned(declared: set[str], returned: set[str]) -> str:
    names = ", ".join(f"'{metric}'" for metric in sorted(declared - returned))
    others = ", ".join(f"'{metric}'" for metric in sorted(returned)) or "none"
    return f"process_results returned no {names} of metric_list for any document tried; it returned {others}"


def scored_by_user(task: Any) -> bool:
    """Returns whether a task is scored by a function or a class in a file of the user."""
    scorers = [type(task).process_results]
    if isinstance(task, ConfigurableTask):
        scorers += [task.config.process_results, *map(called, task._metric_fn_list.values())]
    own = [one for one in scorers if inspect.isfunction(one)]
    return any(is_users(Path(one.__code__.co_filename)) for one in own)


def _tried(task: Any) -> bool:
    """Returns whether the scorer is the user's, and needs neither a sandbox nor the model's tokens."""
    return scored_by_user(task) and not isinstance(task, BlockTask) and way_of(task) is None


def _scored(
    name: str,
    task: Any,
    score: Callable[..., Any],
    errors: SampleErrors,
    asked: Sequence[Sequence[Any]],
    answered: bool,
) -> Iterator[tuple[dict[str, Any], str | None]]:
    """Yields each document's metrics, and why it cannot be scored (else None)."""
    for own in asked:
        for number, instance in enumerate(own):
            instance.resps = [_answer(task, instance, number, answered)] * instance.repeats
            instance.filtered_resps = {}
    task.apply_filters()
    for own in asked:
        doc = own[0].doc
        metrics, reason = dict[str, Any](), errors.reason(name, doc)
        for pipeline in own[0].filtered_resps if reason is None else ():
            results = [instance.filtered_resps[pipeline] for instance in own]
            metrics, reason = errors.score(task, score, doc, results)
            if reason is None:
                break
        yield metrics, reason


def _answer(task: Any, instance: Any, number: int, answered: bool) -> Any:
    """Returns an answer to a request: the target or "", or a log-likelihood."""
    if instance.request_type == "loglikelihood_rolling":
        return LIKELY
    if instance.request_type != "generate_until":
        return LIKELY * (number + 1), False
    target = task.doc_to_target(instance.doc) if answered else ""
    if isinstance(target, (list, tuple)):
        target = target[0] if target else ""
    return str(target)
