"""Trap: the model waits for the last request, and scores follow the last answer at once."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

from dlm_eval.patching import replaced

# Requests that are passed on together: few at first, so that devices start at once, then more, since
# they are encoded and looked up together.
FIRST_PASSED, MOST_PASSED = 32, 512


@contextmanager
def requests_passed_on(
    tasks: Sequence[Any], ahead: Callable[[Sequence[Any]], None]
) -> Iterator[None]:
    """Calls `ahead` with the requests of some documents as soon as they are built, each once.

    A task class that builds its requests in its own way may change them until it is done; its
    requests are passed on together.

    Upstream (lm-eval 0.4.13): `evaluator.evaluate` builds the requests of all tasks before it calls
    the model.
    """
    from lm_eval.api.task import Task

    def whole(task: Any, build: Callable[..., None]) -> Callable[..., None]:
        def build_all_requests(**options: Any) -> None:
            build(**options)
            ahead(task.instances)

        return build_all_requests

    def by_document(task: Any, build: Callable[..., None]) -> Callable[..., None]:
        construct = task.construct_requests

        def build_all_requests(**options: Any) -> None:
            waiting: list[Any] = []
            size = FIRST_PASSED

            def construct_requests(*args: Any, **named: Any) -> Any:
                nonlocal size
                found = construct(*args, **named)
                waiting.extend(found if isinstance(found, list) else [found])
                if len(waiting) >= size:
                    ahead(waiting)
                    waiting.clear()
                    size = min(2 * size, MOST_PASSED)
                return found

            with replaced(task, "construct_requests", construct_requests):
                build(**options)
            ahead(waiting)

        return build_all_requests

    with ExitStack() as stack:
        for task in tasks:
            as_usual = type(task).build_all_requests is Task.build_all_requests
            passed = (by_document if as_usual else whole)(task, task.build_all_requests)
            stack.enter_context(replaced(task, "build_all_requests", passed))
        yield


def before_filters(tasks: Sequence[Any], answered: Callable[[], None]) -> None:
    """Calls `answered` once, after all requests are answered and before the first filter.

    Upstream (lm-eval 0.4.13): `evaluator.evaluate` has no step between answers and scores.
    """
    once = functools.cache(answered)

    def after(apply: Callable[[], Any]) -> Callable[[], Any]:
        def apply_filters() -> Any:
            once()
            return apply()

        return apply_filters

    for task in tasks:
        task.apply_filters = after(task.apply_filters)
