"""Gets the answers of jobs from the journal, else from a pool; encodes them for the journal."""

from __future__ import annotations

import contextvars
import logging
import math
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import lru_cache
from typing import Any, Protocol, TypeVar, cast

import torch

from dlm_eval.canvas import Filling, Score, four_digits
from dlm_eval.decoding import DecodeSettings
from dlm_eval.decoding.checkpoints import State
from dlm_eval.decoding.step_texts import read_packed
from dlm_eval.errors import RunError
from dlm_eval.jobs import (
    Answer,
    Checkpoint,
    Done,
    FillJob,
    Job,
    JobStream,
    Keep,
    QuestionJob,
    Reply,
    ScoreJob,
    Scores,
    TextJob,
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
    if isinstance(job, TextJob):
        return digest("reply", 1, fingerprint, job.identity, job.draw)
    canvases = job.canvases if isinstance(job, QuestionJob) else (job.canvas,)
    asked = [
        (
            canvas.tokens,
            canvas.open_flags.translate(PATTERN).decode(),
            canvas.key,
            *(["draft"] if canvas.draft else []),
        )
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


class Counter(Protocol):
    """Counts answers (`progress.Progress`)."""

    def grow(self, number: int) -> None:
        """Adds to the number of distinct answers that are expected."""
        ...

    def __call__(self, answer: Answer, known: bool) -> None:
        """Counts an answer; `known` if it came from the journal."""
        ...


class Answering:
    """Answers of jobs: from the journal if it has them, else from a pool. Equal jobs run once.

    With `background` the pool runs in a thread of its own from the first job on, while more jobs
    are added. Otherwise it runs in `answers`.

    Args:
        run: answers jobs in any order and reports answers and checkpoints by number (`Pool.run`).
        fingerprint: identity of the model.
        journal: stores the answers; None for no journal.
        background: whether the pool has a thread of its own.
    """

    def __init__(
        self,
        run: Callable[[Iterable[Job], Done, Keep], None],
        fingerprint: str,
        journal: Journal | None,
        background: bool = False,
    ) -> None:
        self._run, self._fingerprint, self._journal = run, fingerprint, journal
        self._background = background
        self._stream = JobStream(more=True)
        self.known = 0  # answers that came from the journal
        self._keys: list[str] = []  # of the stream's jobs, by number
        self._counters: dict[str, Counter] = {}  # of the answers to come, by key
        self._answers: dict[str, Answer] = {}
        self._awaited: set[str] = set()
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None

    def add(self, jobs: Sequence[Job], counter: Counter) -> list[str]:
        """Adds jobs; returns the key of each.

        Raises:
            DlmEvalError: the pool has failed.
        """
        keys = [journal_key(self._fingerprint, job) for job in jobs]
        fresh = {
            key: job
            for key, job in zip(keys, jobs, strict=True)
            if key not in self._counters and key not in self._answers
        }
        counter.grow(len(fresh))
        known = _in_journal(fresh, self._journal) if self._journal is not None else {}
        missing = {key: job for key, job in fresh.items() if key not in known}
        if self._journal is not None:
            missing = _begun(missing, self._journal)
        with self._changed:
            self._answers |= known
            self.known += len(known)
            self._counters |= dict.fromkeys(missing, counter)
            self._keys += missing
            for answer in known.values():
                counter(answer, True)
        if self._error is not None:
            raise self._error
        if missing:
            self._stream.put(list(missing.values()))
            if self._background and self._thread is None:
                work = in_this_context(self._work)
                self._thread = threading.Thread(target=work, name="pool", daemon=True)
                self._thread.start()
        return keys

    def answers(self, keys: Iterable[str]) -> list[Answer]:
        """Returns the answers of `keys` when there are all of them.

        Raises:
            DlmEvalError: the pool has failed.
        """
        wanted = list(keys)
        if not self._background:
            self.finish()
        with self._changed:
            self._awaited = {key for key in wanted if key not in self._answers}
            while self._awaited and self._error is None:
                self._changed.wait()
        if self._error is not None:
            raise self._error
        return [self._answers[key] for key in wanted]

    def finish(self) -> None:
        """Ends the pool's run after all jobs that were added.

        Raises:
            DlmEvalError: the pool has failed, or the journal cannot be written.
        """
        self._stream.close()
        try:
            if self._thread is not None:
                self._thread.join()
            elif self._stream.open:
                self._work()
        finally:
            self._commit()
        if self._error is not None:
            raise self._error

    def stop(self) -> None:
        """Ends the pool's run at once (after its forward pass); finished answers are stored."""
        self._stream.stop()
        if self._thread is not None:
            self._thread.join()
        self._commit()

    def _work(self) -> None:
        """Runs the pool; an error is raised by the next call in the other thread."""
        try:
            self._run(self._stream, self._done, self._keep)
            if self._counters:
                number = counted(len(self._counters), "answer", "are")
                raise RunError(f"the pool has ended, but {number} missing")
        except BaseException as error:
            self._error = error
        with self._changed:
            self._changed.notify_all()

    def _done(self, number: int, answer: Answer) -> None:
        key = self._keys[number]
        # Errors are not stored: the next run tries again.
        if self._journal is not None and answer.error is None:
            self._journal.put(key, encode_answer(answer), self._fingerprint)
        with self._changed:
            self._answers[key] = answer
            self._counters.pop(key)(answer, False)
            self._awaited.discard(key)
            if not self._awaited:
                self._changed.notify_all()

    def _keep(self, number: int, checkpoint: Checkpoint) -> None:
        if self._journal is not None:
            plain = {**vars(checkpoint), "state": vars(checkpoint.state)}
            self._journal.keep(self._keys[number], plain, self._fingerprint)

    def _commit(self) -> None:
        if self._journal is not None:
            self._journal.commit()


def answer_jobs(
    run: Callable[[Iterable[Job], Done, Keep], None],
    jobs: Sequence[Job],
    fingerprint: str,
    journal: Journal | None,
) -> list[Answer]:
    """Returns an answer for each job (see `Answering`)."""
    answering = Answering(run, fingerprint, journal)
    return answering.answers(answering.add(jobs, _Uncounted()))


class _Uncounted:
    """Counts nothing."""

    def grow(self, number: int) -> None:
        pass

    def __call__(self, answer: Answer, known: bool) -> None:
        pass


def in_this_context(work: Callable[[], None]) -> Callable[[], None]:
    """Returns `work` for another thread, with this thread's context variables and the settings that
    torch keeps by thread: gradients, autocast and devices.
    """
    context = contextvars.copy_context()
    gradients, inference = torch.is_grad_enabled(), torch.is_inference_mode_enabled()
    kinds = ("cpu", "cuda")
    casts = [
        (kind, torch.get_autocast_dtype(kind)) for kind in kinds if torch.is_autocast_enabled(kind)
    ]
    cuda = torch.cuda.current_device() if torch.cuda.is_initialized() else None  # type: ignore[no-untyped-call]
    default = torch.get_default_device()

    def run() -> None:
        with ExitStack() as stack:
            stack.enter_context(torch.inference_mode(inference))
            stack.enter_context(torch.set_grad_enabled(gradients))
            for kind, dtype in casts:
                stack.enter_context(torch.autocast(kind, dtype))
            if cuda is not None:
                stack.enter_context(torch.cuda.device(cuda))
            if default.type != "cpu":
                stack.enter_context(default)
            context.run(work)

    return run


def _begun(jobs: Mapping[str, Job], journal: Journal) -> dict[str, Job]:
    """Returns the jobs, each with its checkpoint in the journal if there is one."""
    found = dict(jobs)
    for key, data in journal.kept(
        [key for key, job in jobs.items() if isinstance(job, FillJob)]
    ).items():
        job = jobs[key]
        assert isinstance(job, FillJob)
        try:
            checkpoint = Checkpoint(
                State.of(data["state"]), float(data["seconds"]), _count(data.get("computed"))
            )
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
    if isinstance(job, TextJob):
        return numbers and isinstance(answer.value, Reply) and is_reply(job.kind, answer.value)
    if isinstance(job, FillJob):
        return numbers and isinstance(answer.value, Filling) and _is_filling(answer.value)
    if isinstance(job, ScoreJob):
        return numbers and isinstance(answer.value, Score) and _is_score(answer.value)
    whole = isinstance(answer.value, Scores) and len(answer.value.choices) == len(job.canvases)
    return numbers and whole and all(map(_is_score, answer.value.choices))  # type: ignore[union-attr]


def is_reply(kind: str, reply: Reply) -> bool:
    """Returns whether a reply has the form of lm-eval's answers to requests of type `kind`.

    A log-likelihood that is not a number is no answer.
    """
    found = reply.content
    if kind == "generate_until":
        return isinstance(found, str)
    if kind == "loglikelihood_rolling":
        return isinstance(found, float) and not math.isnan(found)
    if not isinstance(found, tuple) or [type(part) for part in found] != [float, bool]:
        return False
    return not math.isnan(found[0])


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
        value["step_texts"] = list(answer.value.step_texts)
        if not value["step_texts"]:
            del value["step_texts"]
    return {**vars(answer), "kind": type(answer.value).__name__, "value": value}


def decode_answer(data: dict[str, Any]) -> Answer:
    """Returns the answer that `encode_answer` turned into `data`."""
    # Older journals do not have `computed`.
    cost = data["error"], data["rows"], data["seconds"], _count(data.get("computed"))
    if data["kind"] == "Scores":
        return Answer(Scores(tuple(Score(**_tupled(score)) for score in data["value"])), *cost)
    value = _tupled(data["value"])
    if "step_texts" in value:  # of a filling
        value["step_texts"] = read_packed(value["step_texts"], len(value["tokens"]))
    kind = {"Score": Score, "Filling": Filling, "Reply": Reply}[data["kind"]]
    return Answer(kind(**value), *cost)


def _count(value: Any) -> int | None:
    return value if type(value) is int and value >= 0 else None


def _tupled(fields: dict[str, Any]) -> dict[str, Any]:
    """Returns the fields with lists (from JSON) as tuples."""
    return {key: tuple(item) if isinstance(item, list) else item for key, item in fields.items()}
