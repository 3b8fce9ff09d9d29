"""Strategies that rewrite: tokens already written can become masks again, or other tokens.

Their look holds all positions of the block that were open at the start. Decoding cannot end early: nothing is final
before the last step.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from dlm_eval.decoding.schedules import kept_rate, reveal_grid
from dlm_eval.decoding.strategies import Bools, Floats, Look, gumbel, highest, lowest

LOWEST = float(np.finfo(np.float64).min)

if TYPE_CHECKING:
    from dlm_eval.decoding.settings import DecodeSettings


# -- RDM: reparameterised discrete diffusion (Zheng et al. 2023), as DiffusionLLM decodes ---------------------------------


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


# -- P2: path planning with the model as its own planner (Peng et al. 2025, arXiv 2502.03540) ------------------------------


def _p2_masked(look: Look, settings: DecodeSettings) -> Bools:
    """Returns [W] bool, true at the floor(n (1 - kappa)) lowest scores; a written position's log-probability counts `p2_eta` times."""
    score = np.where(look.open, look.score, look.score * settings.p2_eta)
    return highest(-score, look.kept)


def p2_write(look: Look, settings: DecodeSettings) -> Bools:
    """Writes open positions that the planner does not keep masked."""
    return look.open & ~_p2_masked(look, settings)


def p2_erase(look: Look, settings: DecodeSettings) -> Bools:
    """Masks written positions that it does."""
    return ~look.open & _p2_masked(look, settings)


# -- ReMDM (Wang et al. 2025, arXiv 2503.00307): remasking by chance ------------------------------------------------------


def _chances(look: Look, settings: DecodeSettings) -> tuple[float, Floats]:
    """Returns the chance of an open position to be written, and [W] that of a written one to be masked again.

    alpha = 1 - t is the share of clean tokens; sigma = `eta` cut off at its largest value ('cap') or a share of that
    ('rescale'); under 'conf' the largest value is shared out by how improbable a token was when it was written. 'loop' stops
    the clock at alpha = `alpha_on` while t is between `t_on` and `t_off`, and masks only there.
    """
    grid = reveal_grid(settings.eps, look.steps)
    t, s = float(grid[look.step]), float(grid[look.step + 1])
    none = np.zeros(len(look.open))
    if settings.remask == "loop":
        before, after = _looped(t, t, settings), _looped(s, t, settings)
        inside = settings.t_off < t <= settings.t_on
        return _written(before, after, settings.eta * inside), none + settings.eta * inside
    before, after = 1 - t, 1 - s
    largest = min(1.0, (1 - after) / before) if before > 0 else 1.0
    if settings.remask == "conf":
        doubt = np.where(look.open, 0.0, np.exp(-np.exp(look.was)))
        return _written(before, after, 0.0), largest * doubt / max(float(doubt.sum()), 1e-300)
    sigma = min(settings.eta, largest) if settings.remask == "cap" else settings.eta * largest
    return _written(before, after, sigma), none + sigma


def _looped(t: float, phase: float, settings: DecodeSettings) -> float:
    """Returns alpha at `t` by the rule of the phase that time `phase` lies in (their section 4.3)."""
    if phase > settings.t_on:
        return (1 - t) * settings.alpha_on / (1 - settings.t_on)
    return settings.alpha_on if phase > settings.t_off else 1 - t * (1 - settings.alpha_on) / settings.t_off


def _written(before: float, after: float, sigma: float) -> float:
    return (after - (1 - sigma) * before) / (1 - before)


def remask_write(look: Look, settings: DecodeSettings) -> Bools:
    """Writes each open position with probability (alpha_s - (1 - sigma) alpha_t) / (1 - alpha_t); all when the steps are done."""
    done = look.step >= look.steps
    return look.open if done else look.open & (look.uniform("order") < _chances(look, settings)[0])


def remask_erase(look: Look, settings: DecodeSettings) -> Bools:
    """Masks each written position with probability sigma; none when the steps are done."""
    if look.step >= look.steps:
        return np.zeros(len(look.open), dtype=bool)
    return ~look.open & (look.uniform("order") < _chances(look, settings)[1])


# -- LLaDA2.1: token editing ---------------------------------------------------------------------------------------------


def edit(look: Look, settings: DecodeSettings) -> Bools:
    """Writes open positions as `threshold` does, and replaces written tokens by others above `editing_threshold`."""
    assert settings.threshold is not None and settings.editing_threshold is not None
    probability = np.exp(look.score)
    sure: Bools = look.open & (probability > settings.threshold)
    if look.open.any() and sure.sum() < settings.num_to_transfer:
        # an open position counts more than any written one, even if its candidate has probability 0 (end tokens that are doubted)
        sure = look.open & highest(
            np.where(look.open, np.maximum(look.score, LOWEST), -np.inf), settings.num_to_transfer
        )
    better: Bools = (probability > settings.editing_threshold) & (look.token != look.current)
    return sure | (~look.open & better)


# -- SUNDAE, AR2Diff (`decoding.uniform`) and embedding diffusion (`decoding.gaussian`): no choice at all -------------------


def rewrite_all(look: Look, settings: DecodeSettings) -> Bools:
    """Writes every position, again and again."""
    return np.ones(len(look.position), dtype=bool)
