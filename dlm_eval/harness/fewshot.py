"""Few-shot examples without the evaluated document: lm-eval leaves it out only where the two splits have one name.

A task with a test split alone draws its examples from there, and `fewshot_split` may name the evaluated documents by another name, or hold some of
them. A prompt then has the very question with its answer in it. Here every example that asks what the document asks is left out of that
document's prompt and another one drawn; all other prompts are lm-eval's, bit for bit.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Sequence
from typing import Any

from dlm_eval.harness.records import doc_key
from dlm_eval.noise import digest

log = logging.getLogger(__name__)


class LeftOut:
    """The prompts of one task that would have held their own document, once `watch` stands before its few-shot examples.

    Attributes:
        examples: document (by content) -> examples that were left out of its prompt, and how many could not be replaced.
    """

    def __init__(self, name: str, task: Any, seed: int | None) -> None:
        self.examples: dict[str, tuple[int, int]] = {}
        self._name = name
        self._task = task
        self._seed = seed
        self._questions: dict[int, tuple[Any, str]] = {}

    def watch(self) -> None:
        """Has the task's prompts built without the evaluated document. Tasks without a sampler of lm-eval's build theirs themselves."""
        sampler = getattr(self._task, "sampler", None)
        if sampler is None:
            return
        prompt, draw = self._task.fewshot_context, sampler.sample
        evaluated: list[Any] = []

        def fewshot_context(doc: Any, *args: Any, **options: Any) -> Any:
            evaluated[:] = [doc]
            try:
                return prompt(doc, *args, **options)
            finally:
                evaluated.clear()

        def sample(n: int, *args: Any, **options: Any) -> Any:
            drawn = draw(n, *args, **options)
            return self._without(evaluated[0], drawn, n) if evaluated and n else drawn

        self._task.fewshot_context, sampler.sample = fewshot_context, sample

    def overlap(self) -> int:
        """Returns how many evaluated documents are among the few-shot examples: every one of their prompts could hold itself."""
        pool = {self._question(example) for example in self._examples()}
        return sum(self._asks(doc) in pool for doc in self._task.eval_docs)

    def facts(self) -> dict[str, int]:
        """Returns how many prompts lost examples, and how many of these have fewer than asked for, for the result."""
        if not self.examples:
            return {}
        short = sum(1 for _, missing in self.examples.values() if missing)
        return {"fewshot_left_out": len(self.examples)} | ({"fewshot_too_few": short} if short else {})

    def _without(self, doc: Any, drawn: Sequence[Any], n: int) -> list[Any]:
        """Returns `drawn` without examples that ask what `doc` asks, others in their places. lm-eval's own stream of draws is not touched."""
        asked = self._asks(doc)
        kept = [example for example in drawn if self._question(example) != asked]
        if len(kept) == len(drawn):
            return list(drawn)
        if not self.examples:
            log.warning(
                "%s: some few-shot examples are the evaluated document itself; they are left out of its prompt",
                self._name,
            )
        used = {self._question(example) for example in kept} | {asked}
        spare = [example for example in self._examples() if self._question(example) not in used]
        if type(self._task.sampler).__name__ != "FirstNSampler":
            random.Random(f"{self._seed} {asked}").shuffle(spare)
        whole = iter([*spare[: n - len(kept)]])
        filled = [example if self._question(example) != asked else next(whole, None) for example in drawn]
        found = [example for example in filled if example is not None]
        self.examples[asked] = (len(drawn) - len(kept), n - len(found))
        return found

    def _examples(self) -> list[Any]:
        sampler = getattr(self._task, "sampler", None)
        return [] if sampler is None else list(sampler.fewshot_docs())

    def _question(self, example: Any) -> str:
        """Returns what an example asks; it is found out once, since examples are the same objects in every draw."""
        if id(example) not in self._questions:
            self._questions[id(example)] = (example, self._asks(example))  # the object is kept, and so its id
        return self._questions[id(example)][1]

    def _asks(self, doc: Any) -> str:
        """Returns the identity of a question: its text, choices and answer as the task renders them, whatever else the document's columns say."""
        task = self._task
        try:
            choices = task.doc_to_choice(doc) if task.config.doc_to_choice is not None else None
            text, target = task.doc_to_text(doc), task.doc_to_target(doc)
            if choices is not None:  # in whatever order they stand
                text, target = (choices[i] if _is_index(i, choices) else i for i in (text, target))
                choices = sorted(map(str, choices))
        except Exception:  # such a document errs when its own prompt is built
            return digest("document", doc_key(doc))
        return digest("question", text, choices, target)


def _is_index(value: Any, choices: Sequence[Any]) -> bool:
    return isinstance(value, int) and 0 <= value < len(choices)
