"""Gets the answers of jobs from the journal, else from a pool; encodes them for the journal."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Any, TypeVar, cast

from dlm_eval.canvas import Filling, Score, four_digits
from dlm_eval.decoding import DecodeSettings
from dlm_eval.decoding.checkpoints import State
from dlm_eval.jobs import (
    Answer,
    Checkpoint,
    Done,
    FillJob,
    Job,
    Keep,
    QuestionJob,
    ScoreJob,
    Scores,
)
from dlm_eval.journal import Journal
from dlm_eval.likelihood import Estimator
from dlm_eval.printable import counted
from dlm_eval.rng import digest

PATTERN = b"_#" + bytes(254)  # letters of given and open positions
log = logging.getLogger(__name__)
J = TypeVar("J", bound=Job)


def journal_key(fingerprint: str, job: Job) -> str:
    """Returns the key of an answer: sha256 of model fingerprint, settings, request and seed."""
    canvases = job.canvases if isinstance(job, QuestionJob) else (job.canvas,)
    asked = [
        (canvas.tokens, bytes(canvas.open).translate(PATTERN).decode(), canvas.key)
        for canvas in canvases
    ]
    more = (
        job.greedy if isinstance(job, ScoreJob) else None,
        job.lengths if isinstance(job, QuestionJob) else None,
    )
    return digest(
        "answer",
        8,
        fingerprint,
        type(job).__name__,
        asked,
        _plain(job.settings if isinstance(job, FillJob) else job.estimator),
        job.seed,
        more,
    )


@lru_cache(maxsize=1024)
def _plain(settings: Estimator | DecodeSettings) -> dict[str, Any]:
    return settings.identity()


def answer_jobs(
    run: Callable[[Sequence[Job], Done, Keep], None],
    jobs: Sequence[Job],
    fingerprint: str,
    journal: Journal | None,
    progress: Callable[[Answer, bool], None] = lambda answer, known: None,
) -> list[Answer]:
    """Returns an answer for each job: from the journal if it has one, else from `run`.

    Equal jobs run once.

    Args:
        run: answers jobs in any order and reports answers and checkpoints by index (`Pool.run`).
        jobs: what to answer.
        fingerprint: identity of the model.
        journal: stores the answers; None for no journal.
        progress: called with each distinct answer and whether it came from the journal.
    """
    keys = [journal_key(fingerprint, job) for job in jobs]
    known = _in_journal(dict(zip(keys, jobs, strict=True)), journal) if journal is not None else {}
    for answer in known.values():
        progress(answer, True)
    missing = {key: job for key, job in zip(keys, jobs, strict=True) if key not in known}
    missing_keys = list(missing)
    if journal is not None:
        missing = _begun(missing, journal)

    def keep(index: int, checkpoint: Checkpoint) -> None:
        if journal is not None:
            plain = {"state": vars(checkpoint.state), "seconds": checkpoint.seconds}
            journal.keep(missing_keys[index], plain, fingerprint)

    def done(index: int, answer: Answer) -> None:
        known[missing_keys[index]] = answer
        # Errors are not stored: the next run tries again.
        if journal is not None and answer.error is None:
            journal.put(missing_keys[index], encode_answer(answer), fingerprint)
        progress(answer, False)

    try:
        if missing:
            run(list(missing.values()), done, keep)
    finally:
        if journal is not None:
            journal.commit()
    return [known[key] for key in keys]


def _begun(jobs: Mapping[str, Job], journal: Journal) -> dict[str, Job]:
    """Returns the jobs, each with its checkpoint in the journal if there is one."""
    found = dict(jobs)
    for key, data in journal.kept(
        [key for key, job in jobs.items() if isinstance(job, FillJob)]
    ).items():
        job = jobs[key]
        assert isinstance(job, FillJob)
        try:
            checkpoint = Checkpoint(State.of(data["state"]), float(data["seconds"]))
            if len(checkpoint.state.tokens) < sum(job.canvas.open):
                raise ValueError("a state of another canvas")
            if not 0 <= checkpoint.seconds < math.inf:
                raise ValueError("no time")
        except (KeyError, TypeError, ValueError, AttributeError):
            log.warning(
                "journal %s: a checkpoint has another form; its canvas is begun anew", journal.path
            )
            continue
        found[key] = replace(job, begun=checkpoint)
    return found


def _in_journal(jobs: Mapping[str, Job], journal: Journal) -> dict[str, Answer]:
    """Returns the journal's answers by key, without those of the wrong form for their jobs."""
    found, odd = {}, 0
    for key, data in journal.get(jobs).items():
        answer = _decoded(data)
        if answer is None or not _answers(answer, jobs[key]):
            odd += 1
        else:
            found[key] = answer
    if odd:
        log.warning(
            "journal %s: %s another form; ignored", journal.path, counted(odd, "answer", "have")
        )
    return found


def look_up(
    jobs: Sequence[J], fingerprint: str, journal: Journal | None
) -> list[tuple[str, Answer | None, J]]:
    """Returns the key of each job, its answer in the journal, and the job with its checkpoint."""
    keys = [journal_key(fingerprint, job) for job in jobs]
    by_key = dict(zip(keys, jobs, strict=True))
    if journal is None:
        return [(key, None, by_key[key]) for key in keys]
    known = _in_journal(by_key, journal)
    begun = _begun({key: job for key, job in by_key.items() if key not in known}, journal)
    return [(key, known.get(key), cast(J, begun.get(key, by_key[key]))) for key in keys]


def _decoded(data: Any) -> Answer | None:
    try:
        return decode_answer(data)
    except (KeyError, TypeError, ValueError, AttributeError):
        return None


def _answers(answer: Answer, job: Job) -> bool:
    """Returns whether an answer has the form of an answer to `job`."""
    numbers = (
        isinstance(answer.rows, int)
        and isinstance(answer.seconds, (int, float))
        and answer.error is None
    )
    if isinstance(job, FillJob):
        return numbers and isinstance(answer.value, Filling) and _is_filling(answer.value)
    if isinstance(job, ScoreJob):
        return numbers and isinstance(answer.value, Score) and _is_score(answer.value)
    whole = isinstance(answer.value, Scores) and len(answer.value.choices) == len(job.canvases)
    return numbers and whole and all(map(_is_score, answer.value.choices))  # type: ignore[union-attr]


def _is_score(score: Score) -> bool:
    numbers = (score.logprob, score.rows, score.seconds, score.freedom, score.least_stderr)
    ends = (
        score.stderr,
        score.lower,
        score.upper,
        score.lower_stderr,
        score.upper_stderr,
        score.rough_stderr,
        *score.bracket,
    )
    return (
        all(isinstance(value, (int, float)) for value in numbers)
        and all(value is None or isinstance(value, (int, float)) for value in ends)
        and (isinstance(score.kind, str) and isinstance(score.estimator, str))
    )


def _is_filling(filling: Filling) -> bool:
    numbers = (filling.forwards, filling.steps, filling.seconds)
    return (
        isinstance(filling.tokens, tuple)
        and all(isinstance(token, int) for token in filling.tokens)
        and all(isinstance(value, (int, float)) for value in numbers)
        and isinstance(filling.exit, str)
        and isinstance(filling.step, tuple)
        and isinstance(filling.confidence, tuple)
        and all(isinstance(value, (int, float)) for value in (*filling.step, *filling.confidence))
    )


def encode_answer(answer: Answer) -> dict[str, Any]:
    """Returns an answer as plain data. The confidence of tokens has four significant digits."""
    value: Any = (
        [vars(score) for score in answer.value.choices]
        if isinstance(answer.value, Scores)
        else vars(answer.value)
    )
    if isinstance(answer.value, Filling):
        value = {**value, "confidence": [four_digits(p) for p in answer.value.confidence]}
    return {**vars(answer), "kind": type(answer.value).__name__, "value": value}


def decode_answer(data: dict[str, Any]) -> Answer:
    """Returns the answer that `encode_answer` turned into `data`."""
    cost = data["error"], data["rows"], data["seconds"]
    if data["kind"] == "Scores":
        return Answer(Scores(tuple(Score(**_tupled(score)) for score in data["value"])), *cost)
    kind = {"Score": Score, "Filling": Filling}[data["kind"]]
    return Answer(kind(**_tupled(data["value"])), *cost)


def _tupled(fields: dict[str, Any]) -> dict[str, Any]:
    """Returns the fields with lists (from JSON) as tuples."""
    return {key: tuple(item) if isinstance(item, list) else item for key, item in fields.items()}
