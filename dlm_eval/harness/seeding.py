"""Documents that are drawn at random depend only on the seeds, not on earlier tasks or caches.

Some tasks shuffle choices while their documents are made (`process_docs` of GPQA). All generators
are seeded before each task, and `process_docs` is called once per split.
`lm_eval_patches.documents_by_seed` installs this.
"""

from __future__ import annotations

import functools
import random
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

Seeds = Sequence[int | None]  # python, numpy, torch, few-shot

# Generators in task modules, and their states before their first use.
_states: dict[int, tuple[Any, Any]] = {}


def seed_generators(seeds: Seeds) -> None:
    """Seeds the generators of python, numpy and torch; None leaves a generator unchanged."""
    import torch

    python, of_numpy, of_torch, *_ = seeds
    if python is not None:
        random.seed(python)
    if of_numpy is not None:
        np.random.seed(of_numpy)
    if of_torch is not None:
        torch.manual_seed(of_torch)


def seeded_configuration(begin: Callable[[Any], None], seeds: Seeds) -> Callable[[Any], None]:
    """Wraps the `__post_init__` of a task's configuration, after which lm-eval makes the task's
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
    """Returns a function that calls `make` once, with seeded generators, and keeps the documents."""

    @functools.cache
    def made() -> Any:
        seed_generators(seeds)
        return _fixed(make())

    return made


def once_per_split(process_docs: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """Returns a function that calls `process_docs` once per split; another call could draw other
    documents.
    """
    made: dict[int, tuple[Any, Any]] = {}  # keeping the split keeps its id unique

    @functools.wraps(process_docs)
    def once(split: Any) -> Any:
        if id(split) not in made:
            made[id(split)] = (split, _fixed(process_docs(split)))
        return made[id(split)][1]

    return once


def _fixed(documents: Any) -> Any:
    """Returns documents that do not change between reads: a transform on reading is run once."""
    import datasets

    if isinstance(documents, datasets.Dataset) and documents.format["type"] == "custom":
        return datasets.Dataset.from_list(list(documents))
    return documents


def _rewind(functions: Sequence[Callable[..., Any]]) -> None:
    """Resets generators in the functions' modules to their states before their first use."""
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
