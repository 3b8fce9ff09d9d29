"""Trap: documents that a task draws at random differ from look to look."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from dlm_eval.patching import replaced

if TYPE_CHECKING:
    from dlm_eval.harness.data import Seeds


DOCUMENTS = ("training_docs", "validation_docs", "test_docs")


@contextmanager
def documents_by_seed(seeds: Seeds) -> Iterator[None]:
    """Makes a task's documents depend only on the task, its data and the seeds (data.py).

    Upstream (lm-eval 0.4.13, datasets 5.2): `process_docs` of some tasks is random (GPQA shuffles
    choices). It runs at each access to documents, with generators in any state. `datasets` caches
    its results under a key that does not contain the seed.
    """
    import datasets
    from lm_eval.config.task import TaskConfig

    from dlm_eval.harness import data

    caching = datasets.is_caching_enabled()
    datasets.disable_caching()
    try:
        data.seed_generators(seeds)  # for classes that draw before they have a configuration
        with replaced(
            TaskConfig, "__post_init__", data.seeded_configuration(TaskConfig.__post_init__, seeds)
        ):
            yield
    finally:
        if caching:
            datasets.enable_caching()


def keep_documents(task: Any, seeds: Seeds) -> None:
    """Makes a task draw the documents of each kind once and then keep them.

    Upstream (lm-eval 0.4.13): a task class may draw in `training_docs` and similar methods, which
    lm-eval calls several times.
    """
    from dlm_eval.harness.data import drawn_once

    for name in DOCUMENTS:
        setattr(task, name, drawn_once(getattr(task, name), seeds))
