"""Made-up models whose log-probabilities are quick functions of what is shown, for coverage.py and its tests.

    smooth   level + slope * share shown + a little of each token shown and of each pair
    peaked   a token is likely only if one to three others are shown: few orders carry most of the likelihood
    gated    one token decides how likely all others are
    dense    interactions of any number of tokens, each of low amplitude
    rough    white noise, half of its variance common to all tokens of a pattern

Levels differ between tokens by a factor of about ten. Shape letters: n = open tokens, ... = any number of patterns.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from dlm_eval.likelihood.patterns import Bools, Floats, subsets

KINDS = ("smooth", "peaked", "gated", "dense", "rough")
TABULATED = 12  # open tokens up to which all patterns are tabulated


@dataclass(frozen=True, eq=False)
class Contexts:
    """A model of n tokens: kind, numbers drawn for it, and its table where it is small."""

    kind: str
    n: int
    drawn: dict[str, Any]
    table: Floats | None = None

    @classmethod
    def draw(cls, kind: str, n: int, seed: int = 0) -> Contexts:
        """Returns the model of `kind` for n tokens with this seed."""
        rng = np.random.default_rng([KINDS.index(kind), n, seed])
        drawn: dict[str, Any] = {
            "level": -np.exp(rng.normal(0.7, 0.8, n)),
            "slope": rng.uniform(0.2, 0.8, n),
        }
        if kind == "smooth":
            drawn["single"] = rng.normal(0, 1 / math.sqrt(n), (n, n))
            drawn["pairs"] = rng.normal(0, 1 / math.sqrt(n), (3, n, n))
        if kind == "peaked":
            others = [[j for j in range(n) if j != i] for i in range(n)]
            drawn["keys"] = [
                rng.choice(own, min(n - 1, int(rng.integers(1, 4))), replace=False)
                for own in others
            ]
        if kind == "gated":
            drawn["gate"], drawn["open"] = int(rng.integers(n)), rng.uniform(0.05, 0.4, n)
        if kind == "dense":
            drawn["sets"] = np.stack([rng.random(n) < rng.random() for _ in range(4 * n)])
            drawn["amplitude"] = rng.normal(0, 0.3 / math.sqrt(4 * n), (4 * n, n))
        if kind == "rough":
            drawn["tokens"], drawn["salt"] = (
                _mixed(rng.integers(0, 2**62, n)),
                _mixed(rng.integers(0, 2**62, n + 1)),
            )
        model = cls(kind, n, drawn)
        return model if n > TABULATED else cls(kind, n, drawn, model._values(subsets(n)))

    def logs(self, hidden: Bools) -> Floats:
        """Returns log p of each token [..., n] (nats) given what `hidden` [..., n] shows of the others; of shown tokens nothing that means anything."""
        return (
            self._values(hidden)
            if self.table is None
            else np.asarray(self.table[hidden @ (1 << np.arange(self.n))])
        )

    def _values(self, hidden: Bools) -> Floats:
        shown, drawn = ~hidden, self.drawn
        level = drawn["level"]
        share = shown.sum(-1, keepdims=True) / max(1, self.n - 1)
        base = level * (1 - drawn["slope"] * share)
        sign = 2.0 * shown - 1
        if self.kind == "smooth":
            found = base + 0.175 * np.abs(level) * (sign @ drawn["single"].T)
            found = found + 0.05 * sum((sign @ pair.T) ** 2 - 1 for pair in drawn["pairs"])
        elif self.kind == "peaked":
            open_ = [shown[..., keys].all(-1) for keys in drawn["keys"]]
            found = np.where(np.stack(open_, -1), 0.05, 1.5) * level
        elif self.kind == "gated":
            found = np.where(shown[..., [drawn["gate"]]], drawn["open"], 1.2) * level
            found[..., drawn["gate"]] = level[drawn["gate"]]
        elif self.kind == "dense":
            parity = 1 - 2.0 * ((shown.astype(np.float64) @ drawn["sets"].T) % 2)
            found = base + np.abs(level) * (parity @ drawn["amplitude"])
        else:
            name = np.bitwise_xor.reduce(np.where(shown, drawn["tokens"], np.uint64(0)), axis=-1)
            own, common = (
                _normal(name[..., None] ^ drawn["salt"][: self.n]),
                _normal(name ^ drawn["salt"][self.n]),
            )
            found = base + 0.5 * (own + common[..., None]) / math.sqrt(2)
        return np.asarray(np.minimum(found, -1e-3))


def _mixed(numbers: Any) -> Any:
    """Returns numbers that look random (the finaliser of splitmix64)."""
    mixed = np.asarray(numbers).astype(np.uint64)
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        mixed = (mixed ^ (mixed >> np.uint64(shift))) * np.uint64(factor)
    return mixed ^ (mixed >> np.uint64(31))


def _normal(numbers: Any) -> Floats:
    """Returns a standard normal number for each (Box and Muller)."""
    first, second = (
        (_mixed(numbers + np.uint64(step)) >> np.uint64(11)).astype(np.float64) / 2**53
        for step in (0, 1)
    )
    return np.asarray(np.sqrt(-2 * np.log(first + 1e-300)) * np.cos(2 * math.pi * second))
