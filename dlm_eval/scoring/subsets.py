"""The exact likelihood of the random-order sampler, from the same forwards as the exact ELBO.

The sampler reveals the open tokens one at a time in a uniformly random order. With S the tokens revealed so far,

    f(S) = mean over i not in S of p(x_i | x_S) f(S + i),   f(all) = 1,   and the text's likelihood is f(nothing).

Shape letters: n = open tokens.
"""

from __future__ import annotations

import numpy as np

from dlm_eval.scoring.patterns import subsets
from dlm_eval.scoring.target import Floats


def sampler_log_likelihood(logs: Floats) -> float:
    """Returns log f(nothing), nats.

    Args:
        logs: [2^n - 1, n] log p(x_i | all but the pattern), rows in the order of `subsets` without its first (empty) one; nan where not hidden.
    """
    n = logs.shape[1]
    hidden = subsets(n)
    sizes = hidden.sum(1)
    log_f = np.zeros(2**n)  # by what is still hidden; nothing hidden: f = 1
    for size in range(1, n + 1):
        rows = np.flatnonzero(sizes == size)
        after = rows[:, None] & ~(1 << np.arange(n))  # hidden once token i is revealed
        steps = np.where(hidden[rows], logs[rows - 1] + log_f[after], -np.inf)
        log_f[rows] = np.logaddexp.reduce(steps, axis=1) - np.log(size)
    return float(log_f[-1])
