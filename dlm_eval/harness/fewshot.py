"""Excludes the evaluated document and examples without a right answer from few-shot examples.

Examples of a task with only a test split are drawn from that split. `fewshot_split` may also be
another name of the evaluated documents, or contain some of them. lm-eval excludes the document only
if the two splits have the same name. Otherwise a prompt can contain the question with its answer.

If the target of an example is not a choice, lm-eval shows a wrong answer (-1: the last choice) or
the run fails. Both kinds are replaced here. All other prompts are identical to lm-eval's.
"""

from __future__ import annotations

import functools
import logging
import random
from collections.abc import Callable, Sequence, Sized
from typing import Any

from dlm_eval.errors import SampleError
from dlm_eval.harness import targets
from dlm_eval.harness.results import doc_key
from dlm_eval.rng import digest

log = logging.getLogger(__name__)


class _ByObject:
    """Caches a function of an object by the object's id, since draws return the same objects.

    The objects are kept, so that no other object gets the same id.
    """

    def __init__(self, function: Callable[[Any], Any]) -> None:
        self._function = function
        self._known: dict[int, tuple[Any, Any]] = {}

    def __call__(self, value: Any) -> Any:
        if id(value) not in self._known:
            self._known[id(value)] = (value, self._function(value))
        return self._known[id(value)][1]


class Examples:
    """The few-shot examples of one task, and those excluded from its prompts
    (`lm_eval_patches.guard_task`).

    Attributes:
        left_out: document (by content) -> number of examples excluded from its prompt because they
            ask the same question.
        short: document (by content) -> number of examples missing in its prompt because no other
            example was left.
        faults: example (by content) that is excluded from all prompts -> why it has no right
            answer.
    """

    def __init__(self, name: str, task: Any, seed: int | None) -> None:
        self.left_out: dict[str, int] = {}
        self.short: dict[str, int] = {}
        self.faults: dict[str, str] = {}
        self._name = name
        self._task = task
        self._seed = seed
        self._questions = _ByObject(self._question_of)
        self._faults = _ByObject(functools.partial(targets.fault_of_example, task))
        self._evaluated: list[Any] = []  # the document whose prompt is being built

    def prompt(self, prompt: Callable[..., Any]) -> Callable[..., Any]:
        """Wraps `fewshot_context` to tell `sample` which document the examples are for."""

        def fewshot_context(doc: Any, *args: Any, **options: Any) -> Any:
            self._evaluated[:] = [doc]
            try:
                return prompt(doc, *args, **options)
            finally:
                self._evaluated.clear()

        return fewshot_context

    def sample(self, draw: Callable[..., Any]) -> Callable[..., Any]:
        """Wraps the sampler's `sample` to exclude examples."""

        def sample(n: int, *args: Any, **options: Any) -> Any:
            drawn = draw(n, *args, **options)
            return self._without(self._evaluated[0], drawn, n) if self._evaluated and n else drawn

        return sample

    def overlap(self) -> int:
        """Returns how many evaluated documents are among the few-shot examples."""
        pool = {self._questions(example) for example in self._examples()}
        return sum(self._asks(doc) in pool for doc in self._task.eval_docs)

    def unanswered(self) -> list[str]:
        """Returns, for each example without a right answer, why it has none."""
        return [
            fault for example in self._examples() if (fault := self._faults(example)) is not None
        ]

    def facts(self) -> dict[str, int]:
        """Returns counts for the results.

        Counted are prompts from which an example of the same question was excluded, examples
        without an answer, and prompts with too few examples.
        """
        counts: dict[str, Sized] = {
            "fewshot_left_out": self.left_out,
            "fewshot_without_answer": self.faults,
            "fewshot_too_few": self.short,
        }
        return {name: len(found) for name, found in counts.items() if found}

    def _without(self, doc: Any, drawn: Sequence[Any], n: int) -> list[Any]:
        """Returns `drawn`, but replaces examples that ask the question of `doc` or have no answer.

        Replacements do not use lm-eval's random generator, so its later draws are unchanged.

        Raises:
            SampleError: no example has a right answer.
        """
        asked = self._asks(doc)
        same = [self._questions(example) == asked for example in drawn]
        faults = [
            None if its_own else self._faults(example)
            for example, its_own in zip(drawn, same, strict=True)
        ]
        lost = [its_own or fault is not None for its_own, fault in zip(same, faults, strict=True)]
        if not any(lost):
            return list(drawn)
        self._note(asked, drawn, same, faults)
        used = {asked} | {
            self._questions(example) for example, gone in zip(drawn, lost, strict=True) if not gone
        }
        spare = [example for example in self._examples() if self._questions(example) not in used]
        if type(self._task.sampler).__name__ != "FirstNSampler":
            random.Random(f"{self._seed} {asked}").shuffle(spare)
        whole = (example for example in spare if self._faults(example) is None)
        filled = [
            next(whole, None) if gone else example
            for example, gone in zip(drawn, lost, strict=True)
        ]
        found = [example for example in filled if example is not None]
        if not found and (reasons := self.unanswered()) and len(reasons) == len(self._examples()):
            raise SampleError(
                f"no few-shot example has a right answer to show; the first: {reasons[0]}"
            )
        if len(found) < n:
            self.short[asked] = n - len(found)
        return found

    def _note(
        self, asked: str, drawn: Sequence[Any], same: Sequence[bool], faults: Sequence[str | None]
    ) -> None:
        """Counts the examples excluded from a prompt, and warns of the first of each kind."""
        if any(same):
            if not self.left_out:
                log.warning(
                    "%s: some few-shot examples are the evaluated document itself; they are left "
                    "out of its prompt",
                    self._name,
                )
            self.left_out[asked] = sum(same)
        for example, fault in zip(drawn, faults, strict=True):
            if fault is not None:
                if not self.faults:
                    log.warning("%s: a few-shot example is left out: %s", self._name, fault)
                self.faults[self._questions(example)] = fault

    def _examples(self) -> list[Any]:
        sampler = getattr(self._task, "sampler", None)
        return [] if sampler is None else list(sampler.fewshot_docs())

    def _question_of(self, example: Any) -> str:
        """Returns the identity of an example's question. Its columns may differ from documents'."""
        asked = self._asks(example)
        if self._same_templates:
            return asked
        return self._shown_as.get(self._shown(example, self._task.fewshot_cfg), asked)

    @functools.cached_property
    def _same_templates(self) -> bool:
        """Whether examples use the same templates as documents."""
        task, names = self._task, ("doc_to_text", "doc_to_target", "doc_to_choice")
        return not hasattr(task, "fewshot_cfg") or all(
            getattr(task.fewshot_cfg, name) == getattr(task.config, name) for name in names
        )

    @functools.cached_property
    def _shown_as(self) -> dict[str | None, str]:
        """Rendered question and answer of each evaluated document -> identity of its question."""
        documents = {
            self._shown(doc, self._task.config): self._asks(doc) for doc in self._task.eval_docs
        }
        documents.pop(None, None)
        return documents

    def _shown(self, doc: Any, templates: Any) -> str | None:
        """Returns the identity of a document as rendered by `templates`, or None if these fail."""
        task = self._task
        if getattr(task, "multiple_input", 0):
            return None
        try:
            choices = (
                task.doc_to_choice(doc, templates.doc_to_choice)
                if templates.doc_to_choice
                else None
            )
            text = task.doc_to_text(doc, templates.doc_to_text)
            target = task.doc_to_target(doc, templates.doc_to_target)
        except Exception:
            return None
        if isinstance(target, list) and target:
            target = target[0]
        answer = choices[target] if choices and targets.is_index(target, len(choices)) else target
        return digest("shown", str(text).strip(), str(answer).strip())

    def _asks(self, doc: Any) -> str:
        """Returns the identity of a question: text, choices and answer as rendered."""
        task = self._task
        try:
            choices = task.doc_to_choice(doc) if task.config.doc_to_choice is not None else None
            text, target = task.doc_to_text(doc), task.doc_to_target(doc)
            if choices is not None:  # in any order
                text, target = (
                    choices[i] if targets.is_index(i, len(choices)) else i for i in (text, target)
                )
                choices = sorted(map(str, choices))
        except Exception:  # such a document fails when its own prompt is built
            return digest("document", doc_key(doc))
        return digest("question", text, choices, target)
