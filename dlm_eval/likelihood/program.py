"""`score`: the likelihoods of canvases.

A program checks a canvas, splits it into blocks, estimates each block, and adds up their scores. On
request it also computes lm-eval's `is_greedy`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from dlm_eval.bars import counting
from dlm_eval.canvas import Canvas, Score
from dlm_eval.engine import Engine
from dlm_eval.engine.rows import Outcome, Program, together
from dlm_eval.errors import SampleError, UserError
from dlm_eval.likelihood.duel import read_ahead, reveal
from dlm_eval.likelihood.early import Rounds, race
from dlm_eval.likelihood.estimator import (
    MAX_FORWARDS,
    EarlyStopping,
    Estimator,
    is_told_noise,
    parse_estimator,
)
from dlm_eval.likelihood.target import Target, block_noise, check_canvas, merge, targets
from dlm_eval.likelihood.uniform import written_greedily
from dlm_eval.models.denoiser import Denoiser, tokens_ahead
from dlm_eval.rng import Noise


def score(
    model: Denoiser,
    canvases: Sequence[Canvas],
    estimator: str | Estimator = "auto",
    max_forwards: int = MAX_FORWARDS,
    seed: int = 0,
    *,
    greedy: bool = False,
    engine: Engine | None = None,
    batch_tokens: int = 8192,
    on_done: Callable[[int, Outcome[Score]], None] | None = None,
    progress: bool | None = None,
    **options: Any,
) -> list[Score]:
    """Returns the score of each canvas: log-probability of its open tokens given the rest (nats).

    Args:
        model: a denoiser from `dlm_eval.load_model`.
        canvases: what to score. Canvases with the same key (the choices of a question) share their
            random numbers.
        estimator: "name" or "name,k=v,..." (`dlm-eval ls estimators` lists them),
            "path/to/file.py:Class", or an instance.
        max_forwards: maximum forwards per canvas, if the estimator is given by name.
        seed: seed of the random numbers, which depend only on it and on the canvas.
        greedy: also compute whether the model itself would have written the target.
        engine: runs the rows; its `cost` counts them.
        batch_tokens: padded tokens in a batch, if no engine is given.
        on_done: called with (index, outcome) when a canvas ends.
        progress: whether to show a bar of the canvases that are done; None: in notebooks, if there
            are several.
        **options: further settings of the estimator, by name.

    Raises:
        UserError: unknown estimator or setting, a model without masked likelihood, blank positions.
        SampleError: a canvas cannot be scored; the message has its index. `score_outcomes`
            continues instead.
    """
    if not isinstance(estimator, Estimator):
        estimator = parse_estimator(estimator, {"max_forwards": max_forwards, **options})
    drawn, done = counting("score", len(canvases), progress, on_done)
    with drawn:
        outcomes = score_outcomes(
            engine or Engine(model, batch_tokens=batch_tokens),
            canvases,
            estimator,
            seed,
            greedy,
            done,
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
    estimator: Estimator,
    seed: int = 0,
    greedy: bool = False,
    on_done: Callable[[int, Outcome[Score]], None] | None = None,
) -> list[Outcome[Score]]:
    """Returns the outcome of each canvas, in order: its score or its error."""
    found: dict[int, Outcome[Score]] = {}

    def keep(index: int, answer: Score | SampleError, seconds: float) -> None:
        if isinstance(answer, Score):
            answer = replace(answer, seconds=seconds)
        found[index] = Outcome(answer, answer.rows if isinstance(answer, Score) else 0, seconds)
        if on_done is not None:
            on_done(index, found[index])

    def done(number: int, outcome: Outcome[list[Score]]) -> None:
        members, answer = questions[number], outcome.answer
        answers: Sequence[Score | SampleError] = (
            [answer] * len(members) if isinstance(answer, SampleError) else answer
        )
        for index, one in zip(members, answers, strict=True):
            keep(index, one, outcome.seconds / len(members))

    def alone(index: int, outcome: Outcome[Score]) -> None:
        keep(index, outcome.answer, outcome.seconds)

    if estimator.needs_question:
        questions = _questions(canvases)
        engine.drive(
            [
                _asked(engine, [canvases[c] for c in one], estimator, seed, greedy)
                for one in questions
            ],
            done,
        )
    else:
        noises = [Noise.of(canvas, seed) for canvas in canvases]
        engine.drive(
            [
                score_program(engine.model, canvas, estimator, noise, greedy)
                for canvas, noise in zip(canvases, noises, strict=True)
            ],
            alone,
        )
    return [found[index] for index in range(len(canvases))]


def _questions(canvases: Sequence[Canvas]) -> list[list[int]]:
    """Returns groups of canvases (by index) with the same key: the choices of a question."""
    groups: dict[str, list[int]] = {}
    for index, canvas in enumerate(canvases):
        groups.setdefault(canvas.key or f"#{index}", []).append(index)
    return list(groups.values())


def _asked(
    engine: Engine, choices: Sequence[Canvas], estimator: Estimator, seed: int, greedy: bool
) -> Program[list[Score]]:
    return question_program(engine.model, choices, estimator, Noise.of(choices[0], seed), greedy)


def score_program(
    model: Denoiser, canvas: Canvas, estimator: Estimator, noise: Noise, greedy: bool = False
) -> Program[Score]:
    """Returns the program that scores `canvas`.

    Args:
        model: gives ids and attention; the engine runs it.
        canvas: what to score. Without open tokens the log-likelihood is 0, without a forward.
        estimator: the estimator.
        noise: random numbers of the canvas; the choices of a question should share them.
        greedy: also compute whether the model itself, unmasking by confidence, would have written
            the target (this ends at the first token that differs).

    Raises:
        UserError: the estimator does not support the model, or the canvas has blank positions.
        SampleError: in the program: the model cannot score the canvas, or it returned NaN.
    """
    estimator.check_model(model)
    estimator = estimator.for_process(model)
    if estimator.needs_question:
        raise UserError(
            "estimator stop_at_error_rate needs all choices of a question: it is for multiple "
            "choice, not for single texts"
        )
    canvas = estimator.prepare(model, canvas)
    return _score(model, canvas, estimator, noise, greedy, check_canvas(model, canvas))


def _score(
    model: Denoiser,
    canvas: Canvas,
    estimator: Estimator,
    noise: Noise,
    greedy: bool,
    fault: SampleError | None,
) -> Program[Score]:
    if fault is not None:
        raise fault
    if not any(canvas.open):
        nothing = Score(
            0.0,
            0.0,
            "exact",
            0,
            True if greedy else None,
            estimator.name,
            0.0,
            0.0,
            bracket=(0.0, 0.0),
        )
        return replace(nothing, lower_stderr=0.0, upper_stderr=0.0)
    parts = targets(model, canvas, estimator.guidance)
    program = _estimate(parts, estimator, noise)
    if not greedy:
        return replace((yield from program), rows=sum(part.rows for part in parts))
    programs: list[Program[Any]] = [program, _greedy(parts, noise)]
    found: Score
    found, same = yield from together(programs)
    return replace(found, rows=sum(part.rows for part in parts), greedy=same)


def most_rows(model: Denoiser, canvas: Canvas, estimator: Estimator, greedy: bool = False) -> int:
    """Returns the maximum number of rows that `score_program` runs for `canvas`.

    Raises:
        SampleError, UserError: as `score_program`.
    """
    estimator.check_model(model)
    estimator = estimator.for_process(model)
    canvas = estimator.prepare(model, canvas)
    if (fault := check_canvas(model, canvas)) is not None:
        raise fault
    return _budget(model, canvas, estimator, greedy)


def budget(model: Denoiser, canvas: Canvas, estimator: Estimator) -> int:
    """Returns the forwards of the estimator's whole budget for `canvas`, two for each row under
    guidance.

    A block-causal model has a budget for each block: an equal share of the canvas' own, and never
    more than the ways to hide the block's open tokens.

    Raises:
        UserError: the estimator does not support the model.
    """
    estimator.check_model(model)
    estimator = estimator.for_process(model)
    return _budget(model, estimator.prepare(model, canvas), estimator)


def _budget(model: Denoiser, canvas: Canvas, estimator: Estimator, greedy: bool = False) -> int:
    if not any(canvas.open):
        return 0
    parts = targets(model, canvas, estimator.guidance)
    share = estimator.share(len(parts))
    rows = sum(share.budget(part.n) + greedy * part.n for part in parts)
    return rows * (2 if estimator.guidance else 1)


def _estimate(parts: Sequence[Target], estimator: Estimator, noise: Noise) -> Program[Score]:
    """Returns the program that estimates the sum of the blocks' log-likelihoods in one budget."""
    enough = estimator.enough(sum(part.n for part in parts))
    if enough is not None:
        assert isinstance(estimator, EarlyStopping)
        return Rounds(parts, estimator, noise).until(enough)
    share = estimator.share(len(parts))
    programs = [
        _checked(share.estimate(part, own), estimator)
        for part, own in zip(parts, block_noise(noise, len(parts)), strict=True)
    ]
    return programs[0] if len(programs) == 1 else _sum(programs)


def _checked(program: Program[Score], estimator: Estimator) -> Program[Score]:
    """Returns the program's answer.

    Raises SampleError if it is not a score.
    """
    found = yield from program
    if not isinstance(found, Score):
        raise SampleError(
            f"estimator {estimator.name} returned {type(found).__name__}; it must return "
            "self.score(...)"
        )
    return found


def _sum(programs: Sequence[Program[Score]]) -> Program[Score]:
    return merge((yield from together(programs)))


def _greedy(parts: Sequence[Target], noise: Noise) -> Program[bool]:
    """Returns whether the model would have written the target, block after block."""
    for part, own in zip(parts, block_noise(noise, len(parts)), strict=True):
        if part.model is not None and is_told_noise(part.model):
            if not (yield from written_greedily(part, own)):
                return False
            continue
        many = None if part.model is None else tokens_ahead(part.model)
        if many is not None:
            _, likeliest = yield from read_ahead(part, many)
            if not likeliest.all():
                return False
            continue
        _, same = yield from reveal(part, "confidence", stop_at_mismatch=True)
        if not same:
            return False
    return True


def question_program(
    model: Denoiser,
    canvases: Sequence[Canvas],
    estimator: Estimator,
    noise: Noise,
    greedy: bool = False,
    lengths: Sequence[float] | None = None,
) -> Program[list[Score]]:
    """Returns the program that scores the choices of one question.

    If the estimator has an error rate, the program ends when the best choice is known.

    Args:
        model: gives ids and attention.
        canvases: the choices.
        estimator: the estimator.
        noise: random numbers of the question, shared by its choices.
        greedy: also compute for each choice whether the model would have written it.
        lengths: divisors of each choice's score in `acc_norm`; if given, the best choice by score
            per length must be known too.

    Raises:
        UserError: the estimator does not support the model, a canvas has blank positions, or
            `lengths` does not match.
        SampleError: in the program: the model cannot score a choice; the question then has no
            answer.
    """
    estimator.check_model(model)
    estimator = estimator.for_process(model)
    if lengths is not None and (len(lengths) != len(canvases) or min(lengths, default=1) <= 0):
        raise UserError(
            f"lengths {list(lengths)} are not allowed; one above 0 is needed for each of "
            f"{len(canvases)} choices"
        )
    if (
        estimator.error_rate is None
        or len(canvases) < 2
        or not all(any(canvas.open) for canvas in canvases)
    ):
        alone = estimator.without_question()
        return together([score_program(model, canvas, alone, noise, greedy) for canvas in canvases])
    assert isinstance(estimator, EarlyStopping)
    return _settled(model, canvases, estimator, noise, greedy, lengths)


def _settled(
    model: Denoiser,
    canvases: Sequence[Canvas],
    estimator: EarlyStopping,
    noise: Noise,
    greedy: bool,
    lengths: Sequence[float] | None,
) -> Program[list[Score]]:
    for canvas in canvases:
        fault = check_canvas(model, canvas)
        if fault is not None:
            raise fault
    choices = [
        Rounds(targets(model, canvas, estimator.guidance), estimator, noise) for canvas in canvases
    ]
    assert estimator.error_rate is not None
    raced: Program[Any] = race(choices, lengths, estimator.error_rate)
    # At the same time as the race, so that rows that both need run once.
    asked = [_greedy(choice.parts, noise) for choice in choices] if greedy else []
    _, *found = yield from together([raced, *asked])
    sames: Sequence[bool | None] = found if greedy else [None] * len(choices)
    return [
        replace(one.score(), rows=one.rows, greedy=same)
        for one, same in zip(choices, sames, strict=True)
    ]
