"""Schedules: the number of tokens that a step writes.

Each schedule is a function of n (open positions of the block at its start), left (those still
open), step (from 0) and steps (of the block). The last step writes all remaining tokens. The number
is negative if earlier steps wrote more than planned.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray

Schedule = Callable[[int, int, int, int], int]


def even(n: int, left: int, step: int, steps: int) -> int:
    """Returns n // steps, and one more in the first n % steps steps (LLaDA, SDAR, LLaDA2)."""
    return min(left, n // steps + (step < n % steps))


def carry(n: int, left: int, step: int, steps: int) -> int:
    """Returns n // steps, and what earlier steps should have written (Fast-dLLM on Dream)."""
    return left - n + n // steps * (step + 1)


def linear(n: int, left: int, step: int, steps: int) -> int:
    """Returns the number that leaves floor(n t / T) positions open, t = T - 1 - step (DiffuLLaMA,
    RDM).

    The product is rounded to float32, as in the authors' code: n = 22, T = 22 and t = 13 leave 12,
    not 13.
    """
    return left - int(np.float32(n) * np.float32(kept_rate("linear", step, steps)))


def cosine(n: int, left: int, step: int, steps: int) -> int:
    """Returns what leaves floor(n cos(pi/2 (step + 1) / T)) positions open (RDM, MaskGIT)."""
    return left - int(np.float32(n) * np.float32(kept_rate("cosine", step, steps)))


def kept_rate(name: str, step: int, steps: int) -> float:
    """Returns the share of positions that 'linear' or 'cosine' leaves open after the step."""
    if name == "cosine":
        return float(np.cos((step + 1) / steps * np.pi * 0.5))
    return (steps - 1 - step) / steps


def timestep(eps: float) -> Schedule:
    """Returns Dream's schedule: floor(left (1 - s/t)) on the grid 1 = t_0 > ... > t_steps = eps.

    The last step writes all remaining tokens.
    """

    def quota(n: int, left: int, step: int, steps: int) -> int:
        if step >= steps - 1:
            return left
        return int(np.float32(left) * reveal_rates(eps, steps)[step])

    return quota


def batch_mean(eps: float, lengths: tuple[int, ...]) -> Schedule:
    """Returns Dream's schedule in a batch of holes of these lengths.

    The mean number of their open positions replaces `left`.
    """

    def quota(n: int, left: int, step: int, steps: int) -> int:
        # The last step writes all.
        return min(left, _batch_quotas(eps, lengths, steps)[min(step, steps - 1)])

    return quota


@lru_cache(maxsize=64)
def _batch_quotas(eps: float, lengths: tuple[int, ...], steps: int) -> list[int]:
    """Returns the quota of each step. A hole with fewer open positions is filled."""
    open_, quotas = np.array(lengths), []
    for step in range(steps):
        mean = np.float32(open_.sum() / len(open_))
        quotas.append(
            int(mean * reveal_rates(eps, steps)[step]) if step < steps - 1 else int(open_.max())
        )
        open_ = open_ - np.minimum(open_, quotas[-1])
    return quotas


@lru_cache(maxsize=64)
def reveal_grid(eps: float, steps: int) -> NDArray[np.float32]:
    """Returns the grid 1 = t_0 > ... > t_steps = eps in float32, as Dream and MDLM compute it."""
    return torch.linspace(1, eps, steps + 1).numpy()


def reveal_rates(eps: float, steps: int) -> NDArray[np.float32]:
    """Returns the probability 1 - s/t of each step on the grid; 1 for the last step."""
    grid = reveal_grid(eps, steps)
    rates: NDArray[np.float32] = 1 - grid[1:] / grid[:-1]
    rates[-1] = 1.0
    return rates


SCHEDULES = ("even", "carry", "linear", "cosine", "timestep")


def schedule(name: str, eps: float, lengths: tuple[int, ...] = ()) -> Schedule:
    """Returns the schedule `name` of `SCHEDULES`, or that of a batch of holes of `lengths`."""
    if lengths:
        return batch_mean(eps, lengths)
    return {
        "even": even,
        "carry": carry,
        "linear": linear,
        "cosine": cosine,
        "timestep": timestep(eps),
    }[name]
