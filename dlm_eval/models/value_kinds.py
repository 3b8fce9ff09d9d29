"""Kinds of values that a key of config.json may have: what each is called, and the test of it."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Kind:
    """A kind of value: what it is called and the test of it."""

    called: str
    test: Callable[[Any], bool]


def is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _activations() -> Collection[str]:
    from transformers.activations import ACT2FN

    known: Collection[str] = ACT2FN
    return known


COUNT = Kind("a whole number above 0", lambda value: _whole(value) and value > 0)
INDEX = Kind("a whole number, 0 or more", lambda value: _whole(value) and value >= 0)
POSITION = Kind("a number, 0 or more", lambda value: is_number(value) and value >= 0)
NUMBER = Kind("a number above 0", lambda value: is_number(value) and value > 0)
FLAG = Kind("true or false", lambda value: isinstance(value, bool))
TEXT = Kind("text", lambda value: isinstance(value, str))
ACTIVATION = Kind(
    "an activation that transformers knows", lambda value: isinstance(value, str) and value in _activations()
)
LIST = Kind("a list", lambda value: isinstance(value, list))
OBJECT = Kind("an object", lambda value: isinstance(value, dict))
ANYTHING = Kind("anything", lambda value: True)


def all_of(kind: Kind, *keys: str) -> dict[str, Kind]:
    """Returns these keys with one kind."""
    return dict.fromkeys(keys, kind)
