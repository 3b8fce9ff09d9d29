"""How scoring functions find the answer in a text, for votes over texts (`--vote`).

lm-eval's filters find the answer before it is scored. A function of `process_results` that finds it
by itself says how with `finds_answer`.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Any, TypeVar

Find = Callable[[str], Hashable | None]
S = TypeVar("S", bound=Callable[..., Any])
FINDERS: dict[Any, Find] = {}  # scoring function -> how it finds the answer


def finds_answer(find: Find) -> Callable[[S], S]:
    """Returns a decorator of scoring functions (`process_results`).

    Args:
        find: returns the answer in a text, None if there is none. Texts with equal answers are
            scored alike.
    """

    def declared(score: S) -> S:
        FINDERS[score] = find
        return score

    return declared
