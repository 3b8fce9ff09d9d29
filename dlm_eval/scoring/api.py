"""`score`: the likelihoods of many canvases on one model, in this process."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from dlm_eval.canvas import Canvas, Score
from dlm_eval.engine import Engine, Outcome
from dlm_eval.errors import SampleError
from dlm_eval.models.denoiser import Denoiser
from dlm_eval.noise import Noise
from dlm_eval.scoring.question import question_walk
from dlm_eval.scoring.registry import EstimatorSettings, parse_estimator


def score(
    model: Denoiser,
    canvases: Sequence[Canvas],
    estimator: str | EstimatorSettings = "auto",
    samples: int = 128,
    seed: int = 0,
    *,
    greedy: bool = False,
    engine: Engine | None = None,
    batch_tokens: int = 8192,
    on_done: Callable[[int, Outcome[Score]], None] | None = None,
    **options: Any,
) -> list[Score]:
    """Returns the score of each canvas: log-probability of its open tokens given the rest (nats), standard error, kind and cost.

    Args:
        model: a denoiser of `dlm_eval.load_model`.
        canvases: what to score. Canvases of one key (the choices of a question) share their random numbers.
        estimator: "name" or "name,k=v,..." (see `ESTIMATORS`), or settings.
        samples: forwards per canvas at most.
        seed: of the random numbers, which depend on it and on the canvas alone.
        greedy: also tell whether the target is what the model itself would have written.
        engine: runs the rows; its `cost` then tells what they were.
        batch_tokens: padded tokens in a batch, where no engine is given.
        on_done: called with (index, outcome) as each canvas ends.
        **options: further settings of the estimator, by name.

    Raises:
        UserError: unknown estimator or setting, a model without masked likelihood, blank positions.
        SampleError: a canvas that cannot be scored, by its index (`score_outcomes` goes on instead).
    """
    settings = estimator
    if not isinstance(settings, EstimatorSettings):
        settings = parse_estimator(settings, {"samples": samples, **options})
    outcomes = score_outcomes(
        engine or Engine(model, batch_tokens=batch_tokens), canvases, settings, seed, greedy, on_done
    )
    scores: list[Score] = []
    for index, outcome in enumerate(outcomes):
        if isinstance(outcome.answer, SampleError):
            raise SampleError(f"canvas {index}: {outcome.answer}")
        scores.append(outcome.answer)
    return scores


def score_outcomes(
    engine: Engine,
    canvases: Sequence[Canvas],
    settings: EstimatorSettings,
    seed: int = 0,
    greedy: bool = False,
    on_done: Callable[[int, Outcome[Score]], None] | None = None,
) -> list[Outcome[Score]]:
    """Returns the outcome of each canvas, a score or the error of that one sample, in the order given."""
    found: dict[int, Outcome[Score]] = {}

    def keep(index: int, answer: Score | SampleError, seconds: float) -> None:
        if isinstance(answer, Score):
            answer = replace(answer, seconds=seconds)
        found[index] = Outcome(answer, answer.rows if isinstance(answer, Score) else 0, seconds)
        if on_done is not None:
            on_done(index, found[index])

    def done(number: int, outcome: Outcome[list[Score]]) -> None:
        members, answer = questions[number], outcome.answer
        answers: Sequence[Score | SampleError] = [answer] * len(members) if isinstance(answer, SampleError) else answer
        for index, one in zip(members, answers, strict=True):
            keep(index, one, outcome.seconds / len(members))

    questions = _questions(canvases, together=settings.decide is not None)
    engine.drive(
        [
            question_walk(
                engine.model, [canvases[c] for c in members], settings, Noise.of(canvases[members[0]], seed), greedy
            )
            for members in questions
        ],
        done,
    )
    return [found[index] for index in range(len(canvases))]


def _questions(canvases: Sequence[Canvas], together: bool) -> list[list[int]]:
    """Returns which canvases are answered by one walk: the choices of a question (one key), or each on its own."""
    groups: dict[str, list[int]] = {}
    for index, canvas in enumerate(canvases):
        groups.setdefault(canvas.key if together and canvas.key else f"#{index}", []).append(index)
    return list(groups.values())
