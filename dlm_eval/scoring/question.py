"""Decide the question, not the digit: sample the choices of a question in rounds until the best one is settled.

A choice is beaten when it lies below the best one by more than z standard errors of the difference, z the normal quantile at
ALPHA / (looks * rivals * orders). By the union bound a question errs with probability ALPHA at most, at whichever look it
stops ("errs": stops on a choice that is not the best by its exact score). Beaten choices are sampled no further, and a question ends once
one choice is left. The standard errors add as if the choices were independent, which overstates where they share noise.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from statistics import NormalDist
from typing import Any

from dlm_eval.canvas import Canvas, Score
from dlm_eval.engine import Walk
from dlm_eval.errors import UserError
from dlm_eval.models.denoiser import Denoiser
from dlm_eval.noise import Noise
from dlm_eval.scoring.flow import counted, together
from dlm_eval.scoring.registry import EstimatorSettings
from dlm_eval.scoring.rounds import Rounds, sizes
from dlm_eval.scoring.target import check_canvas, check_model, targets
from dlm_eval.scoring.walk import score_walk


def question_walk(
    model: Denoiser,
    canvases: Sequence[Canvas],
    settings: EstimatorSettings,
    noise: Noise,
    greedy: bool = False,
    lengths: Sequence[float] | None = None,
) -> Walk[list[Score]]:
    """Returns the walk that scores the choices of one question together; with `decide`, it ends once the best one is settled.

    Args:
        model: for its ids and attention.
        canvases: the choices.
        settings: of the estimator.
        noise: random numbers of the question, common to its choices.
        greedy: also tell for each choice whether the model would have written it.
        lengths: what `acc_norm` divides each choice's score by; when given, the order by score per length must be settled too.

    Raises:
        UserError: a model without masked likelihood, a canvas without truth, lengths that do not match.
        SampleError: in the walk: a choice that this model cannot score; the question then has no answer.
    """
    check_model(model)
    if lengths is not None and (len(lengths) != len(canvases) or min(lengths, default=1) <= 0):
        raise UserError(
            f"lengths {list(lengths)} are not allowed; one above 0 is needed for each of {len(canvases)} choices"
        )
    if settings.decide is None or len(canvases) < 2 or not all(any(canvas.open) for canvas in canvases):
        plain = replace(settings, decide=None)
        return together([score_walk(model, canvas, plain, noise, greedy) for canvas in canvases])
    return _race(model, canvases, settings, noise, greedy, lengths)


def _race(
    model: Denoiser,
    canvases: Sequence[Canvas],
    settings: EstimatorSettings,
    noise: Noise,
    greedy: bool,
    lengths: Sequence[float] | None,
) -> Walk[list[Score]]:
    for canvas in canvases:
        fault = check_canvas(model, canvas)
        if fault is not None:
            raise fault
    plain = replace(settings, decide=None, target_stderr=None)
    choices = [Rounds(targets(model, canvas, settings.cfg_scale), plain) for canvas in canvases]
    rows = [0] * len(choices)
    running = list(range(len(choices)))
    while running:
        found: list[Any] = yield from together([counted(choices[c].next(noise)) for c in running])
        for c, (_, asked) in zip(running, found, strict=True):
            rows[c] += asked
        open_choices = _unbeaten(choices, settings, lengths)
        running = [
            c for c in open_choices if len(open_choices) > 1 and not choices[c].over and not _fine(choices[c], settings)
        ]
    scores = [replace(choice.score(), rows=n) for choice, n in zip(choices, rows, strict=True)]
    if not greedy:
        return scores
    # is_greedy is a question of its own: the walk without any sampling finds it.
    exact = EstimatorSettings("duel", policy="left_to_right", tokens=2**20, cfg_scale=settings.cfg_scale)
    sames = yield from together([score_walk(model, canvas, exact, noise, greedy=True) for canvas in canvases])
    return [replace(s, greedy=same.greedy, rows=s.rows + same.rows) for s, same in zip(scores, sames, strict=True)]


def _fine(choice: Rounds, settings: EstimatorSettings) -> bool:
    return settings.target_stderr is not None and choice.error <= settings.target_stderr


def _unbeaten(choices: Sequence[Rounds], settings: EstimatorSettings, lengths: Sequence[float] | None) -> list[int]:
    """Returns the choices that may still be the best one, by score or, where lengths are given, by score per length."""
    orders = [[1.0] * len(choices)] + ([] if lengths is None else [list(lengths)])
    assert settings.decide is not None
    looks = len(sizes(settings.samples))
    z = NormalDist().inv_cdf(1 - settings.decide / (looks * (len(choices) - 1) * len(orders)))
    alive: set[int] = set()
    for scale in orders:
        values = [choice.score().logprob / d for choice, d in zip(choices, scale, strict=True)]
        errors = [choice.error / d for choice, d in zip(choices, scale, strict=True)]
        best = max(range(len(choices)), key=values.__getitem__)
        for c in range(len(choices)):
            gap, width = values[best] - values[c], z * math.hypot(errors[best], errors[c])
            if c == best or math.isnan(width) or not gap > width:
                alive.add(c)
    return sorted(alive)
