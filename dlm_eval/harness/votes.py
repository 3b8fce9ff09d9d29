"""Votes over steps (`--vote`): the answer of an answer's steps, filtered and scored like any other.

With `--vote fixed,linear,exp=5` every text is also read after each step of its decoding
(`decoding/step_texts.py`). The task's own filters find the answer of each, and the heaviest one is
scored (`decoding/step_votes.py`): `METRIC_vote@fixed`, `METRIC_vote@linear`, `METRIC_vote@exp5`. The
metric itself is that of the final text, as ever.

A step whose text has no answer has no vote: one for which the filters return what they return for an
empty text, or fail. If no step has an answer, the final text is scored. A task whose scoring function finds
the answer by itself says how (`metrics.answers.finds_answer`).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Hashable, Mapping, Sequence
from copy import copy
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from lm_eval.api.task import ConfigurableTask

from dlm_eval.canvas import FilledText
from dlm_eval.decoding.step_votes import StepWeight, heaviest
from dlm_eval.errors import SampleError, UserError
from dlm_eval.harness.code_tasks import way_of
from dlm_eval.harness.sample_errors import TooSlow
from dlm_eval.metrics.answers import FINDERS

MARK = "_vote@"  # between a metric and the name of the weight


@dataclass
class StepAnswers:
    """The filtered answer of a final text, and how those of its steps are found.

    Attributes:
        final: what the filters return for the final text.
        of_steps: returns the filtered answer of each step, and that of an empty text; `FAILED` where
            the filters fail.
        won: the winner of each vote by the name of its weight; None if no step has an answer. Set
            when it is scored.
    """

    final: Any
    of_steps: Callable[[], tuple[list[Any], Any]]
    won: dict[str, Any] = field(default_factory=dict)


FAILED = object()


class StepFilters:
    """A filter pipeline that can filter the text of each step too, as if it were the only answer.

    Args:
        ensemble: lm-eval's pipeline.
    """

    def __init__(self, ensemble: Any) -> None:
        self.name, self.filters, self._apply = ensemble.name, ensemble.filters, ensemble.apply

    def apply(self, instances: Sequence[Any]) -> None:
        """Filters the final texts. Those of steps are filtered when their document is scored."""
        self._apply(instances)
        for instance in instances:
            final = instance.filtered_resps[self.name]
            of_steps = partial(self._of_steps, instance)
            instance.filtered_resps[self.name] = StepAnswers(final, of_steps)

    def _of_steps(self, instance: Any) -> tuple[list[Any], Any]:
        """Returns the filtered answer of each step of a request, and that of an empty text."""
        (text,) = instance.resps
        steps = text.step_texts() if isinstance(text, FilledText) else ()
        texts = list(dict.fromkeys([*steps, ""]))
        try:
            found = self._filtered(instance, texts)
        except TooSlow:
            raise
        except Exception:  # a filter may fail on half a text, or on none
            found = [self._of_one(instance, text) for text in texts]
        by_text = dict(zip(texts, found, strict=True))
        return [by_text[text] for text in steps], by_text[""]

    def _of_one(self, instance: Any, text: str) -> Any:
        try:
            return self._filtered(instance, [text])[0]
        except TooSlow:
            raise
        except Exception:
            return FAILED

    def _filtered(self, instance: Any, texts: Sequence[str]) -> list[Any]:
        """Returns the filtered answer of each text, as if it were the only one."""
        singles = [_with(instance, text) for text in texts]
        self._apply(singles)
        return [single.filtered_resps[self.name] for single in singles]


def _with(instance: Any, text: str) -> Any:
    """Returns a copy of a request with another answer."""
    single = copy(instance)
    single.resps, single.filtered_resps = [text], {}
    return single


class VotedSteps:
    """The scoring of a task with votes over steps.

    Args:
        task: lm-eval's task, before its scoring is replaced.
        weights: one for each vote.
    """

    def __init__(self, task: Any, weights: Sequence[StepWeight]) -> None:
        self._score = task.process_results
        self._aggregation, self._better = task.aggregation, task.higher_is_better
        self._weights, self._find = weights, FINDERS.get(task.config.process_results)

    def process_results(self, doc: Any, results: Sequence[Any]) -> dict[str, Any]:
        """Returns the metrics of a document's final text and those of each vote."""
        if not all(isinstance(answer, StepAnswers) for answer in results):
            return dict(self._score(doc, results))  # a filter has failed
        if len(results) != 1:
            raise SampleError(
                f"a vote over steps needs one request for a document, not {len(results)}"
            )
        (answers,) = results
        found = dict(self._score(doc, [answers.final]))
        steps, none = answers.of_steps()
        keys = [self._key(answer, none) for answer in steps]
        final = dict(found)
        for weight in self._weights:
            winner = heaviest(keys, weight)
            answer = answers.final if winner is None else steps[keys.index(winner)]
            answers.won[weight.label] = None if winner is None else answer
            scored = final if winner is None else self._score(doc, [answer])
            found |= {f"{metric}{MARK}{weight.label}": value for metric, value in scored.items()}
        return found

    def _key(self, answer: Any, none: Any) -> Hashable | None:
        """Returns what equal answers have in common; None if the text has no answer."""
        if answer is FAILED:
            return None
        if self._find is not None:
            found: Hashable | None = self._find(answer)
            return found
        key = json.dumps(answer, default=str)
        return None if none is not FAILED and key == json.dumps(none, default=str) else key

    def aggregation(self) -> dict[str, Any]:
        """Returns metric -> its aggregation, also of the votes."""
        return self._with_votes(self._aggregation())

    def higher_is_better(self) -> dict[str, bool]:
        """Returns metric -> whether more is better, also of the votes."""
        return self._with_votes(self._better())

    def _with_votes(self, own: Mapping[str, Any]) -> dict[str, Any]:
        voted = {
            f"{metric}{MARK}{weight.label}": value
            for metric, value in own.items()
            for weight in self._weights
        }
        return {**own, **voted}


def vote_over_steps(tasks: Mapping[str, Any], weights: Sequence[StepWeight]) -> None:
    """Makes every task vote over the steps of its answers.

    Raises:
        UserError: a task has no answer that steps could agree on, or several answers per document.
    """
    if not weights:
        return
    for name, task in tasks.items():
        if (reason := why_no_vote(task)) is not None:
            raise UserError(f"--vote is not possible with task '{name}': {reason}; leave it out")
        task._filters = [StepFilters(ensemble) for ensemble in task._filters]
        scoring = VotedSteps(task, weights)
        task.process_results = scoring.process_results
        task.aggregation, task.higher_is_better = scoring.aggregation, scoring.higher_is_better


def why_no_vote(task: Any) -> str | None:
    """Returns why the steps of a task's answers cannot vote, or None."""
    config = task.config
    if task.OUTPUT_TYPE != "generate_until":
        return "it asks for likelihoods, which have no steps"
    if config.repeats > 1:
        return f"it draws {config.repeats} answers per document"
    if way_of(task) is not None:
        return "its answers are programs, which are never equal"
    if config.doc_to_target in (None, ""):
        return "no answer to it is right"
    if callable(config.process_results):
        if config.process_results in FINDERS or config.filter_list is not None:
            return None
        return "its own scoring function does not say what the answer is (metrics/answers.py)"
    if type(task).process_results is not ConfigurableTask.process_results:
        return "it is scored by a class of its own"
    if config.filter_list is None and "exact_match" not in task.aggregation():
        return "it has no filter that finds an answer, and its metric compares whole texts"
    return None


def add_to_samples(results: Mapping[str, Any]) -> None:
    """Adds `vote` to logged samples: the winner of each vote by the name of its weight.

    Their filtered answers are those of final texts, as without votes.
    """
    for samples in (results.get("samples") or {}).values():
        for sample in samples:
            answers = sample["filtered_resps"]
            if len(answers) == 1 and isinstance(answers[0], StepAnswers):
                sample["vote"] = answers[0].won
            sample["filtered_resps"] = [
                answer.final if isinstance(answer, StepAnswers) else answer for answer in answers
            ]
