"""How much longer a tokenizer.json can make a text: a few replacements, one after the other, multiply
it without end.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

LONGEST_GROWTH = 1000  # times; of published tokenizers, the most is below 40
PARTS = ("normalizers", "pretokenizers", "decoders", "processors")
STEPS = ("normalizer", "pre_tokenizer", "post_processor", "decoder")
UNICODE = 18  # times, which is what NFKC makes of U+FDFA
LONGER = {"NFC": 3, "NFD": 4, "NFKC": UNICODE, "NFKD": UNICODE, "Precompiled": UNICODE, "BertNormalizer": 4, "ByteLevel": 4}  # fmt: skip


def check_growth(tokenizer: Any) -> None:
    """Raises ValueError if a step of a tokenizer.json makes texts too much longer."""
    if not isinstance(tokenizer, Mapping):
        raise ValueError("tokenizer.json is no mapping")
    for step in STEPS:
        if _growth(tokenizer.get(step)) > LONGEST_GROWTH:
            raise ValueError(
                f"tokenizer.json has a {step} that makes a text more than {LONGEST_GROWTH} times "
                "longer"
            )


def _growth(part: Any) -> float:
    """Returns the most by which one step multiplies the length of a text."""
    if not isinstance(part, Mapping):
        return 1
    inner = [each for name in PARTS if isinstance(part.get(name), list) for each in part[name]]
    own = LONGER.get(str(part.get("type")), 1)
    return math.prod([own, *map(_growth, inner)], start=_written(part))


def _written(part: Mapping[str, Any]) -> float:
    content, pattern = part.get("content"), part.get("pattern")
    if isinstance(content, str) and isinstance(pattern, Mapping):
        # an empty one is found everywhere, and so may a regular expression be
        found = pattern.get("String")
        return (
            max(1, len(content) / len(found))
            if isinstance(found, str) and found
            else len(content) + 1
        )
    if isinstance(part.get("prepend"), str):
        return len(part["prepend"]) + 1
    single = part.get("single")
    return max(1, sum("Sequence" in piece for piece in single)) if isinstance(single, list) else 1
