"""Values of untrusted JSON: what does not have the expected type counts as missing."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from dlm_eval.printable import valid_unicode


def nested(outer: Mapping[str, Any], *keys: str) -> dict[str, Any]:
    """Returns the nested object, or an empty one if the file has something else."""
    inner: Any = outer
    for key in keys:
        inner = inner.get(key) if isinstance(inner, Mapping) else None
    return inner if isinstance(inner, dict) else {}


def listed(value: Any) -> list[Any]:
    """Returns a list, or an empty one if the file has something else."""
    return value if isinstance(value, list) else []


def first_text(*values: object) -> str | None:
    """Returns the first value that is a number or a non-empty text, as text."""
    scalars = (v for v in values if isinstance(v, (str, int, float)) and not isinstance(v, bool))
    return next((str(value) for value in scalars if value != ""), None)


def number(value: object) -> float | None:
    """Returns a number as a float; None for booleans and numbers that no float can hold."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    try:
        return float(value)
    except OverflowError:
        return None


def count(value: object) -> int | None:
    """Returns a whole number from 0."""
    found = number(value)
    whole = found is not None and 0 <= found < 2**63 and found == int(found)
    return int(found) if whole and found is not None else None


def digest(value: Any) -> str:
    """Returns the SHA-256 of JSON data in hexadecimal digits."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def valid(value: Any) -> Any:
    """Returns JSON data with valid Unicode in all texts.

    JSON can contain half of a surrogate pair, which cannot be written to a file.
    """
    if isinstance(value, str):
        return valid_unicode(value)
    if isinstance(value, dict):
        return {valid_unicode(key): valid(item) for key, item in value.items()}
    return [valid(item) for item in value] if isinstance(value, list) else value
