"""`score`: the likelihoods of canvases.

A canvas is checked, cut into blocks, estimated, and its blocks are added up.

Beside an estimate stands lm-eval's `is_greedy`, if it is asked for.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from dlm_eval.canvas import Canvas, Score
from dlm_eval.engine import Engine
from dlm_eval.engine.rows import Outcome, Program, together
from dlm_eval.errors import SampleError, UserError
from dlm_eval.likelihood.duel import reveal
from dlm_eval.likelihood.early import Rounds, race
from dlm_eval.likelihood.estimator import MAX_FORWARDS, EarlyStopping, Estimator, parse_estimator
from dlm_eval.likelihood.target import Target, block_noise, check_canvas, merge, targets
from dlm_eval.models.denoiser import Denoiser
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
    **options: Any,
) -> list[Score]:
    """Returns the score of each canvas: log-probability of its open tokens given the rest (nats).

    Args:
        model: a denoiser of `dlm_eval.load_model`.
        canvases: what to score. Canvases of one key (the choices of a question) share their random
            numbers.
        estimator: "name" or "name,k=v,..." (`dlm-eval ls estimators` lists them),
            "path/to/file.py:Class", or an instance.
        max_forwards: forwards per canvas at most, of an estimator that is given by name.
        seed: of the random numbers, which depend on it and on the canvas alone.
        greedy: also tell whether the target is what the model itself would have written.
        engine: runs the rows; its `cost` then tells what they were.
        batch_tokens: padded tokens in a batch, if no engine is given.
        on_done: called with (index, outcome) as each canvas ends.
        **options: further settings of the estimator, by name.

    Raises:
        UserError: unknown estimator or setting, a model without masked likelihood, blank positions.
        SampleError: a canvas that cannot be scored, by its index (`score_outcomes` goes on
            instead).
    """
    if not isinstance(estimator, Estimator):
        estimator = parse_estimator(estimator, {"max_forwards": max_forwards, **options})
    outcomes = score_outcomes(
        engine or Engine(model, batch_tokens=batch_tokens),
        canvases,
        estimator,
        seed,
        greedy,
        on_done,
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
    """Returns the outcome of each canvas in their order: a score or the error of that sample."""
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
    """Returns which canvases one program answers: those of one key, the choices of a question."""
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
        model: for its ids and attention; the engine runs it.
        canvas: the question. No open token: log-likelihood 0 at no cost.
        estimator: of the likelihood.
        noise: random numbers of the question; its choices should share them.
        greedy: also tell whether the model itself, unmasking by confidence, would have written the
            target (ends at the first other token).

    Raises:
        UserError: a model that the estimator has no answer for, or a canvas without truth.
        SampleError: in the program: a canvas that this model cannot score, NaN.
    """
    estimator.check_model(model)
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
    programs: list[Program[Any]] = [program, _greedy(parts)]
    found: Score
    found, same = yield from together(programs)
    return replace(found, rows=sum(part.rows for part in parts), greedy=same)


def _estimate(parts: Sequence[Target], estimator: Estimator, noise: Noise) -> Program[Score]:
    """Returns the program that estimates the blocks' summed log-likelihood within one budget."""
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
    """Returns the program, whose answer has to be a score."""
    found = yield from program
    if not isinstance(found, Score):
        raise SampleError(
            f"estimator {estimator.name} returned {type(found).__name__}; it must return "
            "self.score(...)"
        )
    return found


def _sum(programs: Sequence[Program[Score]]) -> Program[Score]:
    return merge((yield from together(programs)))


def _greedy(parts: Sequence[Target]) -> Program[bool]:
    """Returns whether the model would have written the target, block after block."""
    for part in parts:
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

    With an error rate, it ends once the best one is settled.

    Args:
        model: for its ids and attention.
        canvases: the choices.
        estimator: of the likelihood.
        noise: random numbers of the question, common to its choices.
        greedy: also tell for each choice whether the model would have written it.
        lengths: what `acc_norm` divides each choice's score by; if given, the order by score per
            length must be settled too.

    Raises:
        UserError: a model that the estimator has no answer for, a canvas without truth, lengths
            that do not match.
        SampleError: in the program: a choice that this model cannot score; the question then has no
            answer.
    """
    estimator.check_model(model)
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
    # Beside the race, so that what both ask for runs once.
    asked = [_greedy(choice.parts) for choice in choices] if greedy else []
    _, *found = yield from together([raced, *asked])
    sames: Sequence[bool | None] = found if greedy else [None] * len(choices)
    return [
        replace(one.score(), rows=one.rows, greedy=same)
        for one, same in zip(choices, sames, strict=True)
    ]
