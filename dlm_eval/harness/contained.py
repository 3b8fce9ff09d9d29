"""lm-eval, made quicker and quieter while a run of ours goes through it; everything is as it was afterwards."""

from __future__ import annotations

import functools
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import tqdm


class _Silent(tqdm.tqdm):  # type: ignore[type-arg]
    """A progress bar that is not shown."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **{**kwargs, "disable": True})


@contextmanager
def contained(chatty: bool = False) -> Iterator[None]:
    """Compiles each prompt template once (lm-eval does it for every document: most of the time before the first forward pass), and keeps
    lm-eval's own progress bars and prints out of the output unless `chatty`."""
    import lm_eval.api.metrics
    import lm_eval.api.task
    import lm_eval.loggers.utils
    import lm_eval.utils

    environment = lm_eval.utils.env
    with ExitStack() as stack:
        compiled = functools.lru_cache(maxsize=4096)(environment.from_string)
        stack.enter_context(patch.object(environment, "from_string", compiled))
        if not chatty:
            # Outside a repository git would complain on the terminal.
            silent = functools.partial(subprocess.check_output, stderr=subprocess.DEVNULL)
            git = SimpleNamespace(check_output=silent, CalledProcessError=subprocess.CalledProcessError)
            stack.enter_context(patch.object(lm_eval.loggers.utils, "subprocess", git))
            stack.enter_context(patch.object(lm_eval.api.task, "tqdm", _Silent))
            stack.enter_context(patch.object(tqdm, "tqdm", _Silent))  # the bootstrap imports it when it runs
            stack.enter_context(patch.object(lm_eval.api.metrics, "print", lambda *args, **kwargs: None, create=True))
        yield
