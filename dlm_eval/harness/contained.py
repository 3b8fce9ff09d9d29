"""lm-eval, made quicker and quieter while a run of ours goes through it; everything is as it was afterwards."""

from __future__ import annotations

import functools
import json
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import torch.utils.collect_env
import tqdm

from dlm_eval.harness.saving import plain
from dlm_eval.printable import valid_unicode

_describe_machine: Callable[[], str] = torch.utils.collect_env.get_pretty_env_info


class _Silent(tqdm.tqdm):  # type: ignore[type-arg]
    """A progress bar that is not shown."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **{**kwargs, "disable": True})


def _hashable(text: Any) -> str:
    return valid_unicode(text if isinstance(text, str) else str(text))


def _dumped(value: Any, **options: Any) -> str:
    try:
        return json.dumps(value, **options)
    except (TypeError, ValueError, RecursionError):  # keys that are no text, a document inside itself, a thousand lists
        return json.dumps(plain(value))


@functools.cache
def _machine() -> str:
    """Returns what torch says of the machine, which lists packages in a process of its own: seconds, and the same in every run of a process."""
    return _describe_machine()


@contextmanager
def contained(chatty: bool = False) -> Iterator[None]:
    """Compiles each prompt template once (lm-eval does it for every document: most of the time before the first forward pass), keeps
    lm-eval's own progress bars and prints out of the output unless `chatty`, hashes documents and prompts that have no UTF-8 or JSON form, and asks
    what the machine is once."""
    import lm_eval.api.metrics
    import lm_eval.api.task
    import lm_eval.evaluator
    import lm_eval.loggers.utils
    import lm_eval.utils

    environment = lm_eval.utils.env
    with ExitStack() as stack:
        compiled = functools.lru_cache(maxsize=4096)(environment.from_string)
        stack.enter_context(patch.object(environment, "from_string", compiled))
        hashed = lm_eval.evaluator.hash_string
        stack.enter_context(patch.object(lm_eval.evaluator, "hash_string", lambda text: hashed(_hashable(text))))
        stack.enter_context(patch.object(lm_eval.evaluator, "json", SimpleNamespace(dumps=_dumped)))
        stack.enter_context(patch.object(torch.utils.collect_env, "get_pretty_env_info", _machine))
        if not chatty:
            # Outside a repository git would complain on the terminal.
            silent = functools.partial(subprocess.check_output, stderr=subprocess.DEVNULL)
            git = SimpleNamespace(check_output=silent, CalledProcessError=subprocess.CalledProcessError)
            stack.enter_context(patch.object(lm_eval.loggers.utils, "subprocess", git))
            stack.enter_context(patch.object(lm_eval.api.task, "tqdm", _Silent))
            stack.enter_context(patch.object(tqdm, "tqdm", _Silent))  # the bootstrap imports it when it runs
            stack.enter_context(patch.object(lm_eval.api.metrics, "print", lambda *args, **kwargs: None, create=True))
        yield
