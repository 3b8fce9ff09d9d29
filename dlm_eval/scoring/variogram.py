"""The standard error of a cubature rule, from the spread of the log-probabilities that it reads.

How much two patterns differ in what they say of a token tells how the token's log-probability varies with its context. Four sorts of variation are told
apart: smooth (the kernel of prior.py, of longer range, and a slope) and rough (noise), each once of equal size for all contexts and once falling with
what is shown. Squared differences of four sorts of pairs are known for a unit of each (distant and near pairs, with much and with little shown), and
so is the rule's variance. Non-negative least squares finds the amounts; no second run is needed.

Shape letters: n = open tokens, R = mask patterns.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from scipy.optimize import nnls

from dlm_eval.scoring.prior import SLOPE, kernel, similarity
from dlm_eval.scoring.target import Bools, Floats
from dlm_eval.uncertainty import FEWEST, UNKNOWN, Error

TINY = 1e-9  # nats: smaller errors are rounding
DECAY = 3.0  # half the prior's: what matters for the error of spread-out patterns is variation of long range
GAINS = (0.0, 4.0)  # of variation that does not, and that does, fall with what is shown


@dataclass(frozen=True, eq=False)
class Variogram:
    """What a rule makes of variation.

    Attributes:
        near: [R, R] bool, pairs of patterns that are alike.
        expected: [4, 4] squared differences of the four sorts of pairs (rows) for a unit of each sort of variation (columns).
        variance: [4] of the estimate, for a unit of each sort of variation: smooth and smooth falling, rough and rough falling.
    """

    near: Bools
    expected: Floats
    variance: Floats

    def error(self, hidden: Bools, logs: Floats) -> Error:
        """Returns the error (nats) of the estimate from log-probabilities [R, n] of the patterns `hidden`; unknown of few patterns.

        Few patterns know little of their own spread; K / (K - 1) makes the error rather too large than too small.
        """
        count = len(hidden)
        if count < FEWEST:
            return UNKNOWN
        found = np.array([_differences(hidden, logs, pairs) for pairs in _pairs(hidden, self.near)])
        if (self.near | np.eye(count, dtype=bool)).all():
            # One sort of pairs cannot tell one sort of variation from another: the one that harms most.
            variance = float(np.max(self.variance / self.expected.sum(0))) * max(0.0, found.sum())
            return self._error(variance * count / (count - 1), count)
        scale = 1 / np.maximum(self.expected.sum(1), 1e-300)
        amounts, _ = nnls(self.expected * scale[:, None], np.maximum(0.0, found) * scale)
        return self._error(float(amounts @ self.variance) * count / (count - 1), count)

    def _error(self, variance: float, count: int) -> Error:
        return UNKNOWN if variance < TINY**2 else Error(math.sqrt(variance), float(count - 1))


def variogram(hidden: Bools, weight: Floats) -> Variogram:
    """Returns the variogram of the rule with patterns `hidden` [R, n] and weights [R, n]."""
    n = hidden.shape[1]
    inside = hidden.astype(np.float64)
    shown = n - inside.sum(1)
    shared = inside @ inside.T  # tokens that both patterns hide
    apart = inside.sum(1)[:, None] + inside.sum(1)[None] - 2 * shared
    closest = np.min(np.where(apart == 0, n + 1, apart), axis=1)
    near = (apart > 0) & (apart <= np.maximum(closest[:, None], closest[None]) + 1)
    place = 2 * shown / max(1, n - 1) - 1
    differences: list[Floats] = []
    variances: list[float] = []
    for gain in GAINS:
        smooth = similarity(hidden, DECAY, gain)
        among = smooth.among + SLOPE * np.outer(place, place)
        differences.append((np.diag(among)[:, None] + np.diag(among)[None] - 2 * among) / 2)
        spread = (weight * (among @ weight)).sum() - 2 * (weight.T @ smooth.mean).sum() + n * smooth.variance
        variances.append(max(0.0, float(spread)))
    for gain in GAINS:
        noise = kernel(shown, shown, 0, n, DECAY, gain)
        differences.append((noise[:, None] + noise[None]) / 2)
        variances.append(_rough_variance(hidden, weight, gain))
    expected = [[float((pairs * shared * one).sum()) for one in differences] for pairs in _pairs(hidden, near)]
    return Variogram(near, np.array(expected), np.array(variances))


def _pairs(hidden: Bools, near: Bools) -> list[Floats]:
    """Returns the weights [R, R] of all pairs and of near ones, by how much they show and by how little."""
    share = 1 - hidden.mean(1)
    shown = (share[:, None] + share[None]) / 2
    far = ~np.eye(len(near), dtype=bool)
    return [far * shown, near * shown, far * (1 - shown), near * (1 - shown)]


def _differences(hidden: Bools, logs: Floats, pairs: Floats) -> float:
    """Returns the weighted sum, over tokens and over the pairs of patterns that hide them, of half their squared difference (nats squared)."""
    read = hidden.astype(np.float64)
    centre = np.where(hidden, logs, 0.0).sum(0) / np.maximum(1, hidden.sum(0))
    values = np.where(hidden, logs - centre, 0.0)
    return float((values**2 * (pairs @ read)).sum() - (values * (pairs @ values)).sum())


def _rough_variance(hidden: Bools, weight: Floats, gain: float) -> float:
    """Returns the variance of the estimate where every log-probability has noise of its own (the ELBO holds its share of it)."""
    n = hidden.shape[1]
    revealed = np.arange(n)
    share = np.array([1 / (n * math.comb(n - 1, k)) for k in range(n)])  # of a context of k tokens in a token's mean
    noise = kernel(revealed, revealed, 0, n, DECAY, gain)
    own = n - hidden.sum(1)
    mixed = (weight.sum(1) * (share * noise)[own]).sum()
    return max(0.0, float((weight**2 * noise[own, None]).sum() - 2 * mixed + (share * noise).sum()))
