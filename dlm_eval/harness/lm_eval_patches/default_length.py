"""Trap: every task without a generation length gets one of 256 tokens."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from dlm_eval.patching import replaced


@contextmanager
def no_default_length() -> Iterator[None]:
    """Leaves the generation length of a task unset if its YAML does not set it.

    Upstream (lm-eval 0.4.13): `config.task.default_gen_kwargs` writes `max_gen_toks: 256` into
    every task without generation settings.
    """
    import lm_eval.config.task as config

    original = config.default_gen_kwargs

    def default_gen_kwargs(until: Any, *length: int, **named: int) -> dict[str, Any]:
        kwargs = original(until, *length, **named)
        return (
            kwargs
            if length or named
            else {key: value for key, value in kwargs.items() if key != "max_gen_toks"}
        )

    with replaced(config, "default_gen_kwargs", default_gen_kwargs):
        yield
