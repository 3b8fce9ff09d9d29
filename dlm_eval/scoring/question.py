"""Decide the question, not the digit: sample the choices of a question in rounds until the best one is settled.

A choice is beaten if it lies below the best one by more than t standard errors of the difference, t the quantile of Student's distribution at
ALPHA / (looks * rivals * orders). By the union bound a question ends early on a choice that is not the best by its exact score with probability ALPHA
at most, whenever it ends. Beaten choices are sampled no further, and a question ends once one choice is left. Rounds extend each other (nested.py), so
a question that is settled by none of them has the scores of the full budget.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from dlm_eval.canvas import Canvas, Score
from dlm_eval.engine import Walk
from dlm_eval.errors import UserError
from dlm_eval.models.denoiser import Denoiser
from dlm_eval.noise import Noise
from dlm_eval.scoring.flow import together, with_rows
from dlm_eval.scoring.registry import EstimatorSettings
from dlm_eval.scoring.rounds import Rounds
from dlm_eval.scoring.target import check_canvas, check_model, targets
from dlm_eval.scoring.walk import score_walk
from dlm_eval.uncertainty import half_width


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
    if settings.alpha is None or len(canvases) < 2 or not all(any(canvas.open) for canvas in canvases):
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
    choices = [Rounds(targets(model, canvas, settings.cfg_scale), settings, noise) for canvas in canvases]
    orders = [[1.0] * len(choices)] + ([] if lengths is None else [list(lengths)])
    looks = max(1, max(choice.total for choice in choices) - 1)  # nothing is left to decide after the last round
    assert settings.alpha is not None
    alpha = settings.alpha / (looks * (len(choices) - 1) * len(orders))
    rows = [0] * len(choices)
    running = list(range(len(choices)))
    while running:
        found: list[Any] = yield from together([with_rows(choices[c].next()) for c in running])
        for c, (_, asked) in zip(running, found, strict=True):
            rows[c] += asked
        left = sorted(set().union(*[_unbeaten(choices, lengths, alpha) for lengths in orders]))
        running = [c for c in left if len(left) > 1 and not choices[c].over]
    scores = [replace(choice.score(), rows=n) for choice, n in zip(choices, rows, strict=True)]
    if not greedy:
        return scores
    # is_greedy is a question of its own: the walk without any sampling finds it.
    exact = EstimatorSettings("duel", policy="left_to_right", tokens=2**20, cfg_scale=settings.cfg_scale)
    sames = yield from together([score_walk(model, canvas, exact, noise, greedy=True) for canvas in canvases])
    return [replace(s, greedy=same.greedy, rows=s.rows + same.rows) for s, same in zip(scores, sames, strict=True)]


def _unbeaten(choices: Sequence[Rounds], lengths: Sequence[float], alpha: float) -> set[int]:
    """Returns the choices that may still have the best score per length."""
    values = [choice.score().logprob / length for choice, length in zip(choices, lengths, strict=True)]
    best = max(range(len(choices)), key=values.__getitem__)
    return {c for c in range(len(choices)) if c == best or not _beats(choices, lengths, best, c, alpha)}


def _beats(choices: Sequence[Rounds], lengths: Sequence[float], best: int, other: int, alpha: float) -> bool:
    gap, error = choices[best].lead(choices[other], lengths[best], lengths[other])
    width = half_width(error, 1 - 2 * alpha)
    return width is not None and gap > width
