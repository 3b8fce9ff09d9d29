"""How frequent each token is in a corpus: counts of token ids, as a JSON file.

    {"num_token": 4, "p_baseline_dict": {"17": 3, "250": 1}}

It is the format of PC-Sampler's authors, whose files can be read. `scripts/count_tokens.py` writes
such a file for a tokenizer and a corpus.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from dlm_eval.decoding.step import Floats, Ints
from dlm_eval.errors import UserError
from dlm_eval.file_state import once_per_state


@dataclass(frozen=True, eq=False)
class TokenPrior:
    """Relative frequencies of tokens.

    Attributes:
        frequency: [largest id + 1] share of each token in the corpus; 1 / `total` if it is absent.
        total: number of tokens of the corpus.
        sha256: digest of the file.
    """

    frequency: Floats
    total: int
    sha256: str

    def of(self, tokens: Ints) -> Floats:
        """Returns [W] the frequencies of `tokens` [W]."""
        known = tokens < len(self.frequency)
        return np.where(known, self.frequency[np.where(known, tokens, 0)], 1 / self.total)


@once_per_state
def read_prior(path: str) -> TokenPrior:
    """Returns the prior in the file `path`, which is read once.

    Raises:
        UserError: the file cannot be read, or holds no counts.
    """
    try:
        content = Path(path).read_bytes()
        counts, total = _counts(json.loads(content))
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise UserError(
            f"decode prior '{path}' cannot be read: {reason}; it must be a JSON file "
            '{"num_token": NUMBER, "p_baseline_dict": {"ID": COUNT, ...}}'
        ) from error
    frequency = np.full(max(counts) + 1, 1 / total)
    frequency[list(counts)] = np.array(list(counts.values())) / total
    return TokenPrior(frequency, total, hashlib.sha256(content).hexdigest())


def _counts(found: Any) -> tuple[dict[int, int], int]:
    """Returns count of each id, and the number of tokens.

    Raises:
        ValueError: `found` is not of this format.
    """
    if not isinstance(found, dict) or not isinstance(found.get("p_baseline_dict"), dict):
        raise ValueError("it has no p_baseline_dict")
    total = found.get("num_token")
    counts = found["p_baseline_dict"]
    if not counts or not all(key.isascii() and key.isdecimal() for key in counts):
        raise ValueError("the keys of p_baseline_dict are not token ids")
    if max(map(int, counts)) >= 2**24:
        raise ValueError("an id of p_baseline_dict is larger than any vocabulary")
    if type(total) is not int or not all(
        type(count) is int and 0 < count <= total for count in counts.values()
    ):
        raise ValueError("num_token and all counts must be whole numbers from 1 to num_token")
    return {int(key): count for key, count in counts.items()}, total


def count_tokens(encode: Callable[[str], Sequence[int]], texts: Iterable[str]) -> dict[str, Any]:
    """Returns the content of a prior's file for `texts`.

    Args:
        encode: returns the token ids of a text, without special tokens.
        texts: the corpus.

    Raises:
        UserError: the texts have no tokens.
    """
    counts = Counter(token for text in texts for token in encode(text))
    if not counts:
        raise UserError("the texts have no tokens to count")
    return {
        "num_token": counts.total(),
        "p_baseline_dict": {str(token): counts[token] for token in sorted(counts)},
    }
