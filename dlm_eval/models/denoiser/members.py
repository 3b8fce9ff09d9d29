"""Whether a model has the members of an optional protocol."""

from __future__ import annotations

import inspect
from functools import cache
from typing import Any


@cache
def _members(protocol: Any) -> tuple[str, ...]:
    named = [*inspect.get_annotations(protocol), *vars(protocol)]
    return tuple(name for name in named if not name.startswith("_"))


def missing_members(model: object, protocol: Any) -> list[str]:
    """Returns the members of a protocol that `model` lacks.

    `isinstance` does not see members of a wrapper's `__getattr__` from Python 3.12 on; this does.
    """
    return [name for name in _members(protocol) if not hasattr(model, name)]


def offers(model: object, protocol: Any) -> bool:
    """Returns whether `model` has all members of a protocol."""
    return not missing_members(model, protocol)
