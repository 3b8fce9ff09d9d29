"""Tasks whose documents are drawn: the same under the same seeds, whatever ran before and whatever is cached.

Some tasks shuffle choices while their documents are made (`process_docs` of GPQA). lm-eval lets `datasets` cache what came of it, under a key that knows no
seed, and calls `process_docs` anew each time that documents are wanted. Inside `steady_documents` every task begins with all generators as its seeds say,
nothing that a function made of a dataset is read from a cache, and `process_docs` is called once for each split.
"""

from __future__ import annotations

import functools
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import numpy as np

Seeds = Sequence[int | None]  # python, numpy, torch, few-shot

# Generators that task modules keep beside their functions, and their states before any task drew from them.
_states: dict[int, tuple[Any, Any]] = {}


def seed_generators(seeds: Seeds) -> None:
    """Seeds the generators of python, numpy and torch; None leaves one as it is."""
    import torch

    python, of_numpy, of_torch, *_ = seeds
    if python is not None:
        random.seed(python)
    if of_numpy is not None:
        np.random.seed(of_numpy)
    if of_torch is not None:
        torch.manual_seed(of_torch)


@contextmanager
def steady_documents(seeds: Seeds) -> Iterator[None]:
    """Makes the documents of every task that is built inside a function of the task, its data and the seeds alone."""
    import datasets
    from lm_eval.config.task import TaskConfig

    begin = TaskConfig.__post_init__

    def seeded(config: Any) -> None:
        """Stands at the beginning of a task: the next thing that lm-eval does is to make its documents."""
        functions = [value for value in vars(config).values() if callable(value)]
        if config.process_docs is not None:
            config.process_docs = once_per_split(config.process_docs)
        if isinstance(config.fewshot_config, Mapping):
            functions += [value for value in config.fewshot_config.values() if callable(value)]
            if config.fewshot_config.get("process_docs") is not None:
                own = once_per_split(config.fewshot_config["process_docs"])
                config.fewshot_config = {**config.fewshot_config, "process_docs": own}
        begin(config)
        _rewind(functions)
        seed_generators(seeds)

    caching = datasets.is_caching_enabled()
    datasets.disable_caching()
    try:
        seed_generators(seeds)  # for classes that draw before they have a configuration
        with patch.object(TaskConfig, "__post_init__", seeded):
            yield
    finally:
        if caching:
            datasets.enable_caching()


def hold_documents(task: Any, seeds: Seeds) -> None:
    """Has a built task make the documents of each kind once more and then keep them: a class of its own may make them without `process_docs`."""
    for name in ("training_docs", "validation_docs", "test_docs"):
        make = getattr(task, name)

        @functools.cache
        def made(make: Callable[[], Any] = make) -> Any:
            seed_generators(seeds)
            return _fixed(make())

        setattr(task, name, made)


def once_per_split(process_docs: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """Returns `process_docs` called once for each split: where it draws, another call would give other documents."""
    made: dict[int, tuple[Any, Any]] = {}  # the split is kept, so that no other object gets its id

    @functools.wraps(process_docs)
    def once(split: Any) -> Any:
        if id(split) not in made:
            made[id(split)] = (split, _fixed(process_docs(split)))
        return made[id(split)][1]

    return once


def _fixed(documents: Any) -> Any:
    """Returns documents that are the same each time they are read: a transform on reading is run once and for all."""
    import datasets

    if isinstance(documents, datasets.Dataset) and documents.format["type"] == "custom":
        return datasets.Dataset.from_list(list(documents))
    return documents


def _rewind(functions: Sequence[Callable[..., Any]]) -> None:
    """Puts generators that the functions' modules keep back to where they were before any task drew from them."""
    for function in functions:
        for value in list(getattr(function, "__globals__", {}).values()):
            if not isinstance(value, (random.Random, np.random.Generator, np.random.RandomState)):
                continue
            if id(value) not in _states:
                _states[id(value)] = (value, _state(value))
            elif isinstance(value, random.Random):
                value.setstate(_states[id(value)][1])
            elif isinstance(value, np.random.RandomState):
                value.set_state(_states[id(value)][1])
            else:
                value.bit_generator.state = _states[id(value)][1]


def _state(generator: Any) -> Any:
    if isinstance(generator, random.Random):
        return generator.getstate()
    return generator.get_state() if isinstance(generator, np.random.RandomState) else generator.bit_generator.state
