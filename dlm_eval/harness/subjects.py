"""Tasks whose documents come from several configurations of a data set: the subjects of MMLU, the
tasks of BIG-bench, the languages of TyDiQA.

    class: !function dlm_eval.harness.subjects.SubjectInfillTask
    custom_dataset: !function dlm_eval.harness.subjects.documents
    dataset_kwargs:
      dataset: cais/mmlu
      subjects: [abstract_algebra, anatomy, ...]      # configurations of the data set
      splits: {test: validation, examples: dev}       # split of the task -> split of the data set

Every document has the column `subject`. Few-shot examples are of the evaluated document's subject.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import Any

from lm_eval.api.task import ConfigurableTask

from dlm_eval.harness.choices import ChoiceTask
from dlm_eval.harness.infill import InfillTask


def documents(
    *, dataset: str, subjects: Sequence[str], splits: Mapping[str, str], **_: Any
) -> dict[str, Any]:
    """Returns the splits of a task, each with the documents of all subjects in their order.

    Args:
        dataset: hub id, or folder of ``--data_dir``.
        subjects: configurations of the data set.
        splits: split of the task -> split of the data set.
        _: the task's metadata and the model's arguments, which lm-eval passes too.
    """
    import datasets

    found: dict[str, list[dict[str, Any]]] = {split: [] for split in splits}
    for subject in subjects:
        for split, stored in splits.items():
            rows = datasets.load_dataset(dataset, subject, split=stored)
            found[split] += [{**row, "subject": subject} for row in rows]
    return {split: datasets.Dataset.from_list(rows) for split, rows in found.items()}


class SubjectTask(ConfigurableTask):  # type: ignore[misc]
    """A task whose few-shot examples have the document's `subject`."""

    def __init__(self, config: Mapping[str, Any] | None = None, **_: Any) -> None:
        super().__init__(config={k: v for k, v in dict(config or {}).items() if k != "class"})

    def fewshot_context(self, doc: dict[str, Any], num_fewshot: int, *args: Any, **kw: Any) -> Any:
        """Returns the prompt; examples are drawn from those of the document's subject."""
        if not num_fewshot:
            return super().fewshot_context(doc, num_fewshot, *args, **kw)
        everything = self.sampler.df
        self.sampler.replace_df(self._examples[doc["subject"]])
        try:
            return super().fewshot_context(doc, num_fewshot, *args, **kw)
        finally:
            self.sampler.replace_df(everything)

    @functools.cached_property
    def _examples(self) -> dict[str, list[dict[str, Any]]]:
        found: dict[str, list[dict[str, Any]]] = {}
        for example in self.sampler.fewshot_docs():
            found.setdefault(example["subject"], []).append(example)
        return found


class SubjectInfillTask(SubjectTask, InfillTask):
    """The same with a hole of a set length (`harness.infill`)."""


class SubjectChoiceTask(SubjectTask, ChoiceTask):
    """The same with choices that are encoded apart (`harness.choices`)."""
