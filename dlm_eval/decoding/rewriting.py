"""Strategies that rewrite: tokens already written can become masks again, or other tokens.

Their look holds all positions of the block that were open at the start. Decoding cannot end early: nothing is final
before the last step.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from dlm_eval.decoding.schedules import kept_rate, reveal_grid
from dlm_eval.decoding.strategies import Bools, Floats, Look, gumbel, highest, lowest

if TYPE_CHECKING:
    from dlm_eval.decoding.settings import DecodeSettings


# -- RDM: reparameterised discrete diffusion (Zheng et al. 2023), as DiffusionLLM decodes; P2 with its own scores
# --------


def _lowest_kept(look: Look, settings: DecodeSettings) -> Bools:
    score = look.score
    if settings.rdm_noise > 0:
        rate = kept_rate(settings.schedule or "cosine", look.step, look.steps)
        score = score + settings.rdm_noise * rate * gumbel(look.uniform("order"))
    return lowest(score, look.kept)


def rdm_write(look: Look, settings: DecodeSettings) -> Bools:
    """Writes open positions that are not among the lowest scores of all."""
    return look.open & ~_lowest_kept(look, settings)


def rdm_erase(look: Look, settings: DecodeSettings) -> Bools:
    """Masks written positions that are; under 'cond' only where the same token has become less probable."""
    erased = ~look.open & _lowest_kept(look, settings)
    if settings.rdm_condition == "cond":
        erased &= (look.token == look.current) & (look.score < look.was)
    return erased


# -- ReMDM (Wang et al. 2025, arXiv 2503.00307): remasking by chance
# -----------------------------------------------------


def _chances(look: Look, settings: DecodeSettings) -> tuple[float, Floats]:
    """Returns the chance of an open position to be written, and [W] that of a written one to be masked again.

    alpha = 1 - t is the share of clean tokens; sigma = `eta` cut off at its largest value ('cap') or a share of that
    ('rescale'); under 'conf' the largest value is shared out by how improbable a token was when it was written.
    """
    grid = reveal_grid(settings.eps, look.steps)
    before, after = 1 - float(grid[look.step]), 1 - float(grid[look.step + 1])
    largest = min(1.0, (1 - after) / before) if before > 0 else 1.0
    if settings.remask == "conf":
        doubt = np.where(look.open, 0.0, np.exp(-np.exp(look.was)))
        return (after - before) / (1 - before), largest * doubt / max(float(doubt.sum()), 1e-300)
    sigma = min(settings.eta, largest) if settings.remask == "cap" else settings.eta * largest
    return (after - (1 - sigma) * before) / (1 - before), np.full(len(look.open), sigma)


def remask_write(look: Look, settings: DecodeSettings) -> Bools:
    """Writes each open position with probability (alpha_s - (1 - sigma) alpha_t) / (1 - alpha_t); all in the last
    step."""
    last = look.step >= look.steps - 1
    return look.open if last else look.open & (look.uniform("order") < _chances(look, settings)[0])


def remask_erase(look: Look, settings: DecodeSettings) -> Bools:
    """Masks each written position with probability sigma; none in the last step."""
    last = look.step >= look.steps - 1
    return (
        np.zeros(len(look.open), dtype=bool)
        if last
        else ~look.open & (look.uniform("order") < _chances(look, settings)[1])
    )


# -- LLaDA2.1: token editing
# ---------------------------------------------------------------------------------------------


def edit(look: Look, settings: DecodeSettings) -> Bools:
    """Writes open positions as `threshold` does, and replaces written tokens by others above `editing_threshold`."""
    assert settings.threshold is not None and settings.editing_threshold is not None
    probability = np.exp(look.score)
    sure: Bools = look.open & (probability > settings.threshold)
    if look.open.any() and sure.sum() < settings.num_to_transfer:
        sure = look.open & highest(np.where(look.open, look.score, -np.inf), settings.num_to_transfer)
    better: Bools = (probability > settings.editing_threshold) & (look.token != look.current)
    return sure | (~look.open & better)


# -- SUNDAE, AR2Diff (`decoding.uniform`) and embedding diffusion (`decoding.gaussian`): no choice at all -------------------


def rewrite_all(look: Look, settings: DecodeSettings) -> Bools:
    """Writes every position, again and again."""
    return np.ones(len(look.position), dtype=bool)
