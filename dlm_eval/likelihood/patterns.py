"""Mask patterns (the open tokens that a forward hides), and plans that weight what it reads.

Shape letters: n = open tokens, R = mask patterns, P = replicates.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from dlm_eval.rng import Noise

Bools = NDArray[np.bool_]
Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
MAX_EXACT = 14  # maximum number of open tokens that are enumerated: 2^14 - 1 rows


@dataclass(frozen=True, eq=False)
class Plan:
    """Mask patterns with weights: the score is the mean over P replicates of their weighted sums.

    Attributes:
        hidden: [R, n] which tokens each pattern hides.
        weight: [R, n] weight of each log-probability (0.0 if it is not read).
        replicate: [R] the replicate that each pattern belongs to.
        stratum: [P] a number for each replicate. Replicates with the same number have the same
            distribution, and the standard error comes from their spread. Empty if nothing is drawn.
    """

    hidden: Bools
    weight: Floats
    replicate: Ints
    stratum: Ints

    @classmethod
    def fixed(cls, hidden: Bools, weight: Floats) -> Plan:
        """Returns a plan in which nothing is drawn."""
        return cls(
            hidden, weight, np.zeros(len(hidden), dtype=np.int64), np.zeros(0, dtype=np.int64)
        )

    def replicates(self, logs: Floats) -> Floats:
        """Returns the [P] values of the replicates from log-probabilities [R, n].

        Tokens that are not read are left out, since 0 * -inf would be nan.
        """
        terms = np.where(
            self.weight != 0, self.weight * np.where(self.weight != 0, logs, 0.0), 0.0
        ).sum(1)
        count = max(1, len(self.stratum))
        return np.asarray(
            np.bincount(self.replicate, weights=terms, minlength=count)[:count], dtype=np.float64
        )


def subsets(n: int) -> Bools:
    """Returns all 2^n mask patterns [2^n, n].

    Bit i of a row's number says whether it hides token i.
    """
    return (np.arange(2**n)[:, None] >> np.arange(n) & 1).astype(bool)


def enumerable(n: int, forwards: int) -> bool:
    """Returns whether all mask patterns of n tokens fit into `forwards`."""
    return n <= MAX_EXACT and 2**n - 1 <= forwards


def uniforms(noise: Noise, stream: str, count: int, n: int) -> Floats:
    """Returns uniforms [count, n] in [0, 1), one row per draw."""
    return np.stack([noise.uniforms(stream, draw, n) for draw in range(count)])


def smallest(uniforms: Floats, sizes: Ints) -> Bools:
    """Returns [R, n] bool, true at the `sizes` [R] smallest entries of each row of `uniforms`.

    Rows of different n but equal noise order their common positions alike. This correlates the
    choices of a question.
    """
    ranks = uniforms.argsort(1).argsort(1)
    return np.asarray(ranks < sizes[:, None])


def grid_sizes(n: int, count: int, shift: float) -> Ints:
    """Returns [count] sizes in 1..n on a systematic grid; each one alone is uniform."""
    return np.floor(n * (np.arange(count) + shift) / count).astype(np.int64).clip(0, n - 1) + 1
