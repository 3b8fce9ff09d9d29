"""What is changed of lm-eval while tasks load: time limits of templates, errors that name their field, lengths that are a task's own, less talk."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any
from unittest.mock import patch

from dlm_eval.errors import UserError
from dlm_eval.harness.bounded import PROMPT_SECONDS, bounded
from dlm_eval.harness.guard import reason_of
from dlm_eval.harness.targets import from_first_sound


@contextlib.contextmanager
def bounded_templates() -> Iterator[None]:
    """Limits the time of each template that a task renders while it loads (lm-eval tries the first document's), and names the field of one that fails."""
    from lm_eval import utils
    from lm_eval.api.task import ConfigurableTask

    plain = utils.apply_template

    def apply_template(*args: Any, **options: Any) -> Any:
        with bounded("a template", PROMPT_SECONDS):
            return plain(*args, **options)

    with ExitStack() as stack:
        stack.enter_context(patch.object(utils, "apply_template", apply_template))
        for field in ("doc_to_text", "doc_to_target", "doc_to_choice"):
            stack.enter_context(patch.object(ConfigurableTask, field, _named(field)))
        stack.enter_context(patch.object(ConfigurableTask, "task_docs", _SoundFirst(), create=True))
        yield


class _SoundFirst:
    """A task's `task_docs` while it loads, when lm-eval looks at nothing of them but the columns and the first document."""

    def __set__(self, task: Any, docs: Any) -> None:
        vars(task)["task_docs"] = docs

    def __get__(self, task: Any, owner: type) -> Any:
        docs = vars(task)["task_docs"]
        return from_first_sound(task, docs) if "features" in vars(task) else docs


def _named(field: str) -> Callable[..., Any]:
    """Returns a task's method that reads a field of a document; its errors say which field of which document."""
    from lm_eval.api.task import ConfigurableTask

    read = getattr(ConfigurableTask, field)

    def named(self: Any, doc: Any, *args: Any, **options: Any) -> Any:
        try:
            return read(self, doc, *args, **options)
        except UserError:
            raise
        except Exception as error:
            raise UserError(f"{field} of document 0 fails: {reason_of(error)}") from error

    return named


@contextlib.contextmanager
def lengths_of_tasks_alone() -> Iterator[None]:
    """Keeps lm-eval from writing `max_gen_toks: 256` into tasks without generation settings: no task asked for that length."""
    import lm_eval.config.task as config

    original = config.default_gen_kwargs

    def default_gen_kwargs(until: Any, *length: int, **named: int) -> dict[str, Any]:
        kwargs = original(until, *length, **named)
        return kwargs if length or named else {key: value for key, value in kwargs.items() if key != "max_gen_toks"}

    config.default_gen_kwargs = default_gen_kwargs
    try:
        yield
    finally:
        config.default_gen_kwargs = original


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Drops two notes of lm-eval's that are true of our tasks by design: overridden names, and custom datasets."""

    def wanted(record: logging.LogRecord) -> bool:
        return "overrides existing task" not in record.msg and "Custom kwargs can be passed" not in record.msg

    loggers = [logging.getLogger(name) for name in ("lm_eval.tasks._index", "lm_eval.api.task")]
    for logger in loggers:
        logger.addFilter(wanted)
    try:
        yield
    finally:
        for logger in loggers:
            logger.removeFilter(wanted)
