"""From a canvas to its score: checks, blocks, the estimator, and lm-eval's `is_greedy` beside it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from dlm_eval.canvas import Canvas, Score
from dlm_eval.engine import Walk
from dlm_eval.errors import SampleError, UserError
from dlm_eval.models.denoiser import Denoiser
from dlm_eval.noise import Noise
from dlm_eval.scoring.flow import together, with_rows
from dlm_eval.scoring.registry import EstimatorSettings
from dlm_eval.scoring.reveal import reveal
from dlm_eval.scoring.rounds import in_rounds
from dlm_eval.scoring.score_entropy import check_log_scores
from dlm_eval.scoring.target import Target, check_canvas, check_model, targets


def score_walk(
    model: Denoiser, canvas: Canvas, settings: EstimatorSettings, noise: Noise, greedy: bool = False
) -> Walk[Score]:
    """Returns the walk that scores `canvas`.

    Args:
        model: for its ids and attention; the engine runs it.
        canvas: the question. No open token: log-likelihood 0 at no cost.
        settings: of the estimator.
        noise: random numbers of the question; its choices should share them.
        greedy: also tell whether the model itself, unmasking by confidence, would have written the target (ends at the first other token).

    Raises:
        UserError: a model without masked likelihood, or a canvas without truth.
        SampleError: in the walk: a canvas that this model cannot score, NaN.
    """
    check_model(model)
    if settings.decide is not None:
        raise UserError(
            "estimator decide needs all choices of a question: it is for multiple choice, not for single texts"
        )
    if settings.name == "sedd":
        check_log_scores(model)
    canvas = _as_asked(model, canvas, settings)
    check = check_canvas(model, canvas)
    return _score(model, canvas, settings, noise, greedy, check)


def _as_asked(model: Denoiser, canvas: Canvas, settings: EstimatorSettings) -> Canvas:
    """Returns the canvas that the estimator scores: Dream's own puts a visible EOS behind the target."""
    if settings.name == "dream" and settings.eos:
        if not model.eos_ids:
            raise UserError(
                f"estimator 'dream' ends the text with EOS, which {model.name} does not have: use dream,eos=false"
            )
        return replace(canvas, tokens=(*canvas.tokens, model.eos_ids[0]), open=(*canvas.open, False))
    return canvas


def _score(
    model: Denoiser, canvas: Canvas, settings: EstimatorSettings, noise: Noise, greedy: bool, fault: SampleError | None
) -> Walk[Score]:
    if fault is not None:
        raise fault
    if not any(canvas.open):
        return Score(0.0, 0.0, "exact", 0, True if greedy else None, settings.name, 0.0, 0.0, bracket=(0.0, 0.0))
    parts = targets(model, canvas, settings.cfg_scale)
    walks: list[Walk[Any]] = [in_rounds(parts, settings, noise)]
    if greedy:
        walks.append(_greedy(parts))
    answers, rows = yield from with_rows(together(walks))
    score: Score = answers[0]
    return replace(score, rows=score.rows + rows, greedy=answers[1] if greedy else None)


def _greedy(parts: Sequence[Target]) -> Walk[bool]:
    """Returns whether the model would have written the target, block after block."""
    for part in parts:
        _, same = yield from reveal(part, "confidence", stop_at_mismatch=True)
        if not same:
            return False
    return True
