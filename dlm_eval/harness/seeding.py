"""Tasks whose documents are drawn: the same under the same seeds, whatever ran before and whatever
is cached.

Some tasks shuffle choices while their documents are made (`process_docs` of GPQA). Here every task
begins with all generators as its seeds say, and `process_docs` is called once for each split.
`lm_eval_patches.documents_by_seed` puts it in place.
"""

from __future__ import annotations

import functools
import random
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

Seeds = Sequence[int | None]  # python, numpy, torch, few-shot

# Generators that task modules keep beside their functions, and their states before any task drew
# from them.
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


def seeded_configuration(begin: Callable[[Any], None], seeds: Seeds) -> Callable[[Any], None]:
    """Wraps the `__post_init__` of a task's configuration, behind which lm-eval makes the task's
    documents.
    """

    def seeded(config: Any) -> None:
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

    return seeded


def drawn_once(make: Callable[[], Any], seeds: Seeds) -> Callable[[], Any]:
    """Returns `make`, which gives a task's documents, called once with all generators as the seeds
    say.
    """

    @functools.cache
    def made() -> Any:
        seed_generators(seeds)
        return _fixed(make())

    return made


def once_per_split(process_docs: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """Returns `process_docs` called once for each split: where it draws, another call would give
    other documents.
    """
    made: dict[int, tuple[Any, Any]] = {}  # the split is kept, so that no other object gets its id

    @functools.wraps(process_docs)
    def once(split: Any) -> Any:
        if id(split) not in made:
            made[id(split)] = (split, _fixed(process_docs(split)))
        return made[id(split)][1]

    return once


def _fixed(documents: Any) -> Any:
    """Returns documents that are the same each time they are read: a transform on reading is run
    once and for all.
    """
    import datasets

    if isinstance(documents, datasets.Dataset) and documents.format["type"] == "custom":
        return datasets.Dataset.from_list(list(documents))
    return documents


def _rewind(functions: Sequence[Callable[..., Any]]) -> None:
    """Puts generators that the functions' modules keep back to where they were before any task drew
    from them.
    """
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
