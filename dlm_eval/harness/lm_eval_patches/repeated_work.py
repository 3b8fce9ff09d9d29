"""Trap: lm-eval and its libraries do again, for every task or document, what has one result."""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from dlm_eval.packaged import task_folders
from dlm_eval.patching import replaced

_once = functools.cache(functools.cache)  # the same cached function for the same function


@contextmanager
def quick_index() -> Iterator[None]:
    """Reads the names of lm-eval's own tasks, and of ours, once in a process (task_index.py).

    Upstream (lm-eval 0.4.13): `TaskIndex.build` parses all files, and an included file for each
    that includes it.
    """
    import lm_eval.tasks
    from lm_eval.tasks._index import TaskIndex

    from dlm_eval.harness.task_index import names_below

    whole = TaskIndex.build
    installed = {Path(lm_eval.tasks.__file__).parent, *task_folders()}

    def build(paths: list[Path]) -> dict[str, Any]:
        index: dict[str, Any] = {}
        for path in paths:
            index |= names_below(path) if path in installed else whole([path])
        return index

    with replaced(TaskIndex, "build", staticmethod(build)):
        yield


@contextmanager
def cards_read_once() -> Iterator[None]:
    """Parses the card (README.md) of a local dataset once.

    Upstream (datasets 5.2): `datasets.load_dataset` parses it, in Python, for every configuration:
    57 times for MMLU's subjects, which took most of the time in which their tasks load.
    """
    import datasets.load

    original = datasets.load.DatasetCard

    class Card(original):  # type: ignore[misc, valid-type]
        @classmethod
        def load(cls, path: Any, *args: Any, **options: Any) -> Any:
            return copy.deepcopy(read(path, *args, **options))  # a caller may change it

    read = functools.cache(original.load)
    with replaced(datasets.load, "DatasetCard", Card):
        yield


@contextmanager
def templates_compiled_once() -> Iterator[None]:
    """Compiles each prompt template once.

    Upstream (lm-eval 0.4.13): `utils.apply_template` compiles the template for every document,
    which takes most of the time before the first forward.
    """
    from lm_eval.utils import env

    with replaced(env, "from_string", functools.lru_cache(maxsize=4096)(env.from_string)):
        yield


@contextmanager
def machine_described_once() -> Iterator[None]:
    """Collects torch's description of the machine once per process.

    Upstream (lm-eval 0.4.13, torch 2.13): `loggers.utils.add_env_info` collects it in every run.
    This takes seconds, since torch lists packages in a subprocess.
    """
    import torch.utils.collect_env as collect_env

    with replaced(collect_env, "get_pretty_env_info", _once(collect_env.get_pretty_env_info)):
        yield


@contextmanager
def rendered_once(task: Any) -> Iterator[None]:
    """Makes a task render the choices and the target of each document once.

    Upstream (lm-eval 0.4.13): `process_results` renders and parses their templates at each call.
    metric_errors.py calls it 30 times.
    """

    def by_document(read: Callable[..., Any]) -> Callable[..., Any]:
        known: dict[tuple[Any, ...], Any] = {}

        def once(doc: Any, *more: Any) -> Any:
            key = (id(doc), *map(repr, more))
            if key not in known:
                known[key] = read(doc, *more)
            return known[key]

        return once

    with ExitStack() as stack:
        for name in ("doc_to_choice", "doc_to_target"):
            if hasattr(task, name):
                stack.enter_context(replaced(task, name, by_document(getattr(task, name))))
        yield
