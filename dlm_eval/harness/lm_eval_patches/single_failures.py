"""Trap: one bad document, metric or push costs the results of the whole run, or is not told."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from dlm_eval.patching import replaced

if TYPE_CHECKING:
    from dlm_eval.harness.results import Record
    from dlm_eval.harness.sample_errors import SampleErrors


@contextmanager
def first_sound_document() -> Iterator[None]:
    """Makes a task derive its form from the first document with a valid target.

    Upstream (lm-eval 0.4.13): `ConfigurableTask.__init__` uses the first document. If its target is
    invalid, the run ends.
    """
    from lm_eval.api.task import ConfigurableTask

    from dlm_eval.harness.targets import from_first_sound

    class Documents:
        def __set__(self, task: Any, docs: Any) -> None:
            vars(task)["task_docs"] = docs

        def __get__(self, task: Any, owner: type) -> Any:
            docs = vars(task)["task_docs"]
            return from_first_sound(task, docs) if "features" in vars(task) else docs

    with replaced(ConfigurableTask, "task_docs", Documents()):
        yield


def guard_task(
    name: str, task: Any, errors: SampleErrors, records: Callable[[], Sequence[Record]]
) -> None:
    """Prevents errors of one document from ending the run, and removes bad examples from prompts
    (sample_errors.py, fewshot.py).

    Upstream (lm-eval 0.4.13): `Task.build_all_requests`, `Task.apply_filters` and
    `evaluator.evaluate` do not catch exceptions of a document's prompt, filter or scorer, and do
    not support samples without an answer. `api.samplers` excludes the evaluated document from its
    own examples only if the two splits have the same name.
    """
    if (sampler := getattr(task, "sampler", None)) is not None:
        examples = errors.examples(name, task)
        task.fewshot_context = examples.prompt(task.fewshot_context)
        sampler.sample = examples.sample(sampler.sample)
    task.doc_to_prefix = errors.prefix(task.doc_to_prefix)
    task.fewshot_context = errors.prompt(task.fewshot_context)
    task.construct_requests = errors.requests(name, task, task.construct_requests)
    task.doc_to_target = errors.target(name, task.doc_to_target)
    task.apply_filters = errors.filters(name, task, task.apply_filters)
    task.process_results = errors.scores(name, task, task.process_results, records)
    task.higher_is_better = errors.fact(f"{name}: higher_is_better", task.higher_is_better, {})
    task.dump_config = errors.fact(f"{name}: dump_config", task.dump_config, {"task": name})


@contextmanager
def hashes_of_anything() -> Iterator[None]:
    """Hashes documents and prompts that have no UTF-8 or JSON form.

    Upstream (lm-eval 0.4.13): `evaluator.evaluate` ends the run with a UnicodeEncodeError or
    TypeError after all requests are answered.
    """
    import lm_eval.evaluator as evaluator

    from dlm_eval.harness.results import json_value
    from dlm_eval.printable import valid_unicode

    hashed = evaluator.hash_string

    def hash_string(text: Any) -> str:
        return str(hashed(valid_unicode(text if isinstance(text, str) else str(text))))

    def dumps(value: Any, **options: Any) -> str:
        try:
            return json.dumps(value, **options)
        except (TypeError, ValueError, RecursionError):  # odd keys, or a cycle
            return json.dumps(json_value(value))

    with (
        replaced(evaluator, "hash_string", hash_string),
        replaced(evaluator, "json", SimpleNamespace(dumps=dumps)),
    ):
        yield


@contextmanager
def metrics_apart(errors: SampleErrors) -> Iterator[None]:
    """Aggregates each metric separately if one of them fails (sample_errors.py).

    Also drops pass@k of repeated answers whose metric is not always 0 or 1 (repeats.py).

    Upstream (lm-eval 0.4.13): all results are lost if one metric raises in
    `evaluator_utils._compute_task_aggregations` or `Group.aggregate`.
    """
    import lm_eval.evaluator_utils as utils
    from lm_eval.api.group import Group

    from dlm_eval.harness.repeats import without_fractions

    with (
        replaced(
            utils,
            "_compute_task_aggregations",
            errors.task_metrics(without_fractions(utils._compute_task_aggregations)),
        ),
        replaced(Group, "aggregate", errors.group_metrics(Group.aggregate)),
    ):
        yield


@contextmanager
def failed_pushes(missing: list[str]) -> Iterator[None]:
    """Adds failed pushes to the Hub to `missing`.

    Upstream (lm-eval 0.4.13): `loggers.evaluation_tracker` only logs them.
    """

    class Noting(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if record.levelno >= logging.WARNING and record.getMessage().startswith("Could not"):
                missing.append(f"on the hub ({record.getMessage()})")

    handler, logger = Noting(), logging.getLogger("lm_eval.loggers.evaluation_tracker")
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)
