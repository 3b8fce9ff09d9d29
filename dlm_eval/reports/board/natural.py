"""The natural order of names."""

from __future__ import annotations

import re
from collections.abc import Sequence


def natural(text: str) -> tuple[tuple[bool, int, str], ...]:
    """Returns a sort key in which steps=64 comes before steps=128."""
    parts = re.split(r"([0-9]{1,18})", text)
    return tuple(
        (bool(index % 2), int(part) if index % 2 else 0, part) for index, part in enumerate(parts)
    )


def natural_all(texts: Sequence[str]) -> tuple[object, ...]:
    """Returns a sort key of several texts."""
    return tuple(natural(text) for text in texts)
