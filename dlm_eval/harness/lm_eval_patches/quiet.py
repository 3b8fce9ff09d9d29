"""Trap: warnings, progress bars and prints that a user cannot use."""

from __future__ import annotations

import functools
import logging
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from types import SimpleNamespace

from dlm_eval.patching import replaced


@contextmanager
def quiet_index() -> Iterator[None]:
    """Suppresses two warnings about intended properties of our tasks.

    Upstream (lm-eval 0.4.13): `tasks._index` warns of a name that is defined twice (ours override
    lm-eval's). `api.task` warns of custom datasets.
    """

    def wanted(record: logging.LogRecord) -> bool:
        return (
            "overrides existing task" not in record.msg
            and "Custom kwargs can be passed" not in record.msg
        )

    with ExitStack() as stack:
        for logger in map(logging.getLogger, ("lm_eval.tasks._index", "lm_eval.api.task")):
            logger.addFilter(wanted)
            stack.callback(logger.removeFilter, wanted)
        yield


@contextmanager
def quiet_evaluator() -> Iterator[None]:
    """Hides lm-eval's progress bars and prints, and git's error messages.

    Upstream (lm-eval 0.4.13): `api.task` and `api.metrics` show their own progress bars,
    `api.metrics` prints, and `loggers.utils` shows git's errors.
    """
    import lm_eval.api.metrics as metrics
    import lm_eval.api.task as task
    import lm_eval.loggers.utils as logger_utils
    import tqdm

    from dlm_eval.workers.texts import silent_bar

    silent = silent_bar(tqdm.tqdm)
    output = functools.partial(subprocess.check_output, stderr=subprocess.DEVNULL)
    git = SimpleNamespace(check_output=output, CalledProcessError=subprocess.CalledProcessError)
    with (
        replaced(logger_utils, "subprocess", git),
        replaced(task, "tqdm", silent),
        replaced(tqdm, "tqdm", silent),  # the bootstrap imports it when it runs
        replaced(metrics, "print", lambda *args, **kwargs: None),
    ):
        yield
