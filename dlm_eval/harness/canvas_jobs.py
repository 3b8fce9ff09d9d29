"""Requests to a denoiser: their canvases and jobs, and lm-eval's form of the answers."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from lm_eval.api.instance import Instance

from dlm_eval.canvas import BLANK, Canvas, FilledText, Filling, Score
from dlm_eval.decoding import resolve
from dlm_eval.decoding.step_texts import unpacked
from dlm_eval.errors import SampleError, UserError
from dlm_eval.harness.decode_config import DecodeOptions, DecodePlans, Request
from dlm_eval.harness.decode_warnings import equal_answers
from dlm_eval.harness.request_jobs import Prepare, RequestKind, RequestKinds
from dlm_eval.harness.requests import (
    HOLE,
    Hole,
    Overlong,
    Prepared,
    UnbuiltPrompt,
    begin,
    block_of,
    choice_canvases,
    form_of,
    hole_canvas,
    hole_length,
    pair_texts,
)
from dlm_eval.harness.results import Record, document_keys
from dlm_eval.harness.shard import Shard
from dlm_eval.harness.trajectories import TokenTexts, trajectory
from dlm_eval.jobs import Answer, FillJob, Job, QuestionJob, ScoreJob, Scores
from dlm_eval.likelihood import Estimator, TaskEstimators, windows
from dlm_eval.likelihood.program import budget
from dlm_eval.likelihood.target import merge
from dlm_eval.models.denoiser import Denoiser, read_ahead
from dlm_eval.rng import digest

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Options:
    """Settings of a DiffusionLM.

    Attributes:
        estimator: estimator of likelihoods, or that of each task.
        decode: converts requests to decode settings.
        seed: seed of all noise.
        stride: number of tokens that each window after the first scores in a long text; None for as
            many as fit.
        overlong: whether a request that does not fit the model loses the left part of its context
            ('truncate') or is stored as an error ('error').
        quiet: whether to hide progress.
        template: name of the chat template; None for the checkpoint's default.
        by_order: tasks whose scores depend only on the order of choices (`by_order`).
        shard: answer only documents of this shard; None for all.
        chosen: task -> the documents of --samples, ascending.
        trajectories: whether records get the trajectories of answers.
    """

    estimator: TaskEstimators
    decode: DecodeOptions
    seed: int = 0
    stride: int | None = None
    overlong: Overlong = "truncate"
    quiet: bool = False
    template: str | None = None
    by_order: frozenset[str] = frozenset()
    shard: Shard | None = None
    chosen: Mapping[str, Sequence[int]] = field(default_factory=dict)
    trajectories: bool = False


class CanvasJobs:
    """Converts requests to jobs of canvases, and their answers to lm-eval's.

    Args:
        model: the denoiser; only its tokenizer and facts are used.
        options: settings.
    """

    def __init__(self, model: Denoiser, options: Options) -> None:
        self.model, self.options = model, options
        self._plans = DecodePlans(options.decode, model)
        self._texts = TokenTexts(model) if options.trajectories else None
        self._warned: set[str] = set()  # tasks

    @property
    def kinds(self) -> RequestKinds:
        """Its kinds of requests."""
        minus = float("-inf")
        return RequestKinds(
            {
                "loglikelihood": RequestKind(
                    "likelihood", self._choice_jobs, self._choice_answer, (minus, False)
                ),
                "loglikelihood_rolling": RequestKind(
                    "likelihood", lambda _: self._text_jobs, self._text_answer, minus
                ),
                "generate_until": RequestKind(
                    "generation", lambda _: self._fill_jobs, self._fill_answer, ""
                ),
            },
            self.options.shard,
            self.options.chosen,
            encode=self._encode,
        )

    def _encode(self, requests: Sequence[Instance]) -> None:
        """Encodes the texts of requests together."""
        read_ahead(self.model, [text for request in requests for text in texts_of(request)])

    def _choice_jobs(self, requests: Sequence[Instance]) -> Prepare:
        """Returns a function that returns the jobs of a request for a log-likelihood.

        Args:
            requests: all requests of their documents, and maybe others.
        """
        questions: dict[tuple[Any, ...], list[Instance]] = {}
        question_of: dict[int, tuple[Any, ...]] = {}  # by identity of the request
        key_of = document_keys()
        for request in {id(r): r for r in requests}.values():
            # A task may have a document twice.
            question = request.task_name, request.doc_id, key_of(request)
            questions.setdefault(question, []).append(request)
            question_of[id(request)] = question

        asked: dict[tuple[Any, ...], QuestionJob] = {}
        # Question -> canvases of its choices, in the same order.
        prepared: dict[tuple[Any, ...], list[Prepared]] = {}

        def canvases_of(request: Instance, record: Record) -> list[Prepared]:
            question = (question_of[id(request)], record.repeat)
            if question not in prepared:
                key = digest(record.task, record.doc, record.repeat)
                pairs = [choice.args for choice in questions[question[0]]]
                prepared[question] = choice_canvases(self.model, pairs, key, self.options.overlong)
            return prepared[question]

        def prepare(request: Instance, record: Record) -> list[Job]:
            choices, canvases = questions[question_of[id(request)]], canvases_of(request, record)
            place = next(i for i, choice in enumerate(choices) if choice is request)
            self._weigh(canvases[place], record)
            form, estimator = form_of(request.args), self.options.estimator.for_task(record.task)
            if form is not None and form.score == "mean" and not estimator.per_token:
                record.details["mean_of"] = sum(canvases[place].canvas.open)
            if len(choices) > 1 and self._ends_early(record.task):
                record.details["choice"] = place
                job = (question_of[id(request)], record.repeat)
                if job not in asked:
                    asked[job] = self._question(choices, canvases)
                return [asked[job]]
            # lm-eval ignores is_greedy if a document has several continuations, and computing it
            # costs rows.
            return [self._score_job(canvases[place], len(choices) == 1, record.task)]

        return prepare

    def _choice_answer(
        self, request: Instance, answers: Sequence[Answer], record: Record
    ) -> tuple[float, bool]:
        score = _score(answers[0])
        if isinstance(answers[0].value, Scores):
            score = answers[0].value.choices[record.details["choice"]]
            record.rows, record.seconds = (
                score.rows,
                record.seconds / len(answers[0].value.choices),
            )
        score = score.scaled(1 / record.details.get("mean_of", 1))
        self._note(score, record)
        return score.logprob, bool(score.greedy)

    def _text_jobs(self, request: Instance, record: Record) -> list[Job]:
        """Returns the jobs of a whole text, one per window, or that of a block of tokens.

        Raises:
            SampleError: the text is empty.
            UserError: the estimator does not score all tokens of a text.
        """
        if not (estimator := self._estimator(record.task)).of_all:
            raise UserError(
                f"estimator '{estimator.name}' gives no log-probability of a whole text, which task "
                f"'{record.task}' needs; use auto"
            )
        key = digest(record.task, record.doc, record.repeat)
        block = block_of(request.args)
        canvases = (
            self._windows(request.args[0], key)
            if block is None
            else [Canvas.continuation(*block.parts, key)]
        )
        whole = [Prepared(canvas) for canvas in canvases]
        if not whole:
            raise SampleError("the text is empty: there is nothing to score")
        for window in whole:
            self._weigh(window, record)
        return [self._score_job(window, False, record.task) for window in whole]

    def _windows(self, text: str, key: str) -> list[Canvas]:
        head = begin(self.model, [])
        ids = [*head, *self.model.encode(text)]
        most, stride = self.model.max_length, self.options.stride
        return windows(ids, most, stride, given=len(head), key=key)

    def _text_answer(self, request: Instance, answers: Sequence[Answer], record: Record) -> float:
        score = merge([_score(answer) for answer in answers])
        self._note(score, record)
        record.details["text_nats"] = -score.logprob
        return score.logprob

    def _fill_jobs(self, request: Instance, record: Record) -> list[Job]:
        """Returns the job of a generation."""
        context, arguments = request.args
        ask = self._plans.ask(arguments, record.task)
        length = hole_length(self.model, ask.hole, context)
        plan = self._plans.plan(ask, length)
        if ask.hole.between and plan.job.lengths:  # holes that adjoin look like one to the decoder
            raise SampleError("decode lengths needs one hole, and this text has several")
        key = digest(record.task, record.doc, request.idx, record.repeat)
        prepared = hole_canvas(self.model, context, length, ask.hole, key, self.options.overlong)
        record.truncated = prepared.truncated
        record.details = {"until": ask.until, **plan.described}
        if not plan.draws:  # repeats and equal prompts share one answer
            self._warn_equal(record.task, request.repeats, ask)
            return [FillJob(replace(prepared.canvas, key=""), plan.job, 0)]
        return [FillJob(prepared.canvas, plan.job, self.options.seed)]

    def _warn_equal(self, task: str, repeats: int, ask: Request) -> None:
        """Warns once per task that several answers are equal. Only the settings of `preset=authors` for a
        checkpoint without a name are first known here; others have been checked before the model was loaded.
        """
        decode = self.options.decode
        if task in self._warned or decode.user.get("preset") != "authors" or decode.checkpoint:
            return
        self._warned.add(task)
        for name, count in (("repeats", repeats), ("samples", resolve(*ask.layers).samples)):
            if count > 1:
                log.warning("task '%s': %s", task, equal_answers(name, count))

    def _fill_answer(self, request: Instance, answers: Sequence[Answer], record: Record) -> str:
        filling, hole = _filling(answers[0]), request.args[1].get(HOLE)
        record.tokens = sum(map(len, self._written(filling.tokens, hole)))
        record.details |= {
            "steps_taken": filling.steps,
            "exit": filling.exit,
            "gen_length": len(filling.tokens),
        }
        if self._texts is not None:
            record.details["trajectory"] = trajectory(filling, self._texts)
        text_of = partial(self._text, hole=hole, until=record.details["until"])

        def step_texts() -> list[str]:
            steps = unpacked(filling.step_texts, len(filling.tokens))
            texts = {tokens: text_of(tokens) for tokens in dict.fromkeys(steps)}
            return [texts[tokens] for tokens in steps]

        return FilledText.of(text_of(filling.tokens), filling, step_texts)

    def _written(self, tokens: Sequence[int], hole: Hole | None) -> list[list[int]]:
        """Returns the visible tokens of each hole."""
        parts = pieces(tokens, 1 if hole is None else len(hole.between) + 1)
        return [visible(piece, self.model.eos_ids) for piece in parts]

    def _text(self, tokens: Sequence[int], hole: Hole | None, until: Sequence[str]) -> str:
        """Returns lm-eval's answer for the tokens of a request's holes."""
        texts = [self.model.decode(piece) for piece in self._written(tokens, hole)]
        return cut_at(texts[0] if hole is None else hole.joined(texts), until)

    def _estimator(self, task: str) -> Estimator:
        """Returns the estimator of a task, for the process of the model."""
        return self.options.estimator.for_task(task).for_process(self.model)

    def _ends_early(self, task: str) -> bool:
        """Returns whether sampling for `task` stops once the best choice is clear."""
        estimator = self._estimator(task)
        return estimator.error_rate is not None and task in self.options.by_order

    def _weigh(self, prepared: Prepared, record: Record) -> None:
        """Adds the number of scored tokens and the estimator's full budget to a record."""
        record.truncated += prepared.truncated
        record.tokens += sum(prepared.canvas.open)
        record.budget += budget(self.model, prepared.canvas, self._estimator(record.task))

    def _note(self, score: Score, record: Record) -> None:
        record.score = score
        record.details["estimator"] = score.estimator
        record.details["preset"] = self.options.estimator.preset_of(record.task)

    def _question(self, choices: Sequence[Instance], canvases: Sequence[Prepared]) -> QuestionJob:
        """Returns the job of a whole question, which the requests of all its choices share."""
        # lm-eval's acc_norm divides by the characters of a choice, without the delimiter before it.
        lengths = tuple(max(1, len(choice.args[1].removeprefix(" "))) for choice in choices)
        whole = tuple(prepared.canvas for prepared in canvases)
        estimator = self._estimator(choices[0].task_name or "")
        return QuestionJob(whole, estimator, self.options.seed, lengths)

    def _score_job(self, prepared: Prepared, greedy: bool, task: str) -> ScoreJob:
        alone = self._estimator(task).without_question()
        return ScoreJob(prepared.canvas, alone, self.options.seed, greedy)


def texts_of(request: Instance) -> list[str]:
    """Returns the texts of a request that will be encoded."""
    texts = [
        part
        for part in request.args
        if isinstance(part, str) and not isinstance(part, UnbuiltPrompt)
    ]
    if request.request_type == "loglikelihood" and (form := form_of(request.args)) is not None:
        return [texts[0], *form.parts(texts[1])]
    return list(pair_texts(texts[0], texts[1])) if len(texts) == 2 else texts


def _score(answer: Answer) -> Score:
    """Returns the answer's score; for a question, the score of its first choice.

    Raises:
        SampleError: the sample failed.
    """
    if answer.error is not None:
        raise SampleError(answer.error)
    value = answer.value.choices[0] if isinstance(answer.value, Scores) else answer.value
    assert isinstance(value, Score)
    return value


def _filling(answer: Answer) -> Filling:
    if answer.error is not None:
        raise SampleError(answer.error)
    assert isinstance(answer.value, Filling)
    return answer.value


def pieces(tokens: Sequence[int], number: int) -> list[Sequence[int]]:
    """Returns the tokens of each of several holes of equal length."""
    length = len(tokens) // number
    return [tokens[i * length : (i + 1) * length] for i in range(number)]


def visible(tokens: Sequence[int], eos_ids: Sequence[int]) -> list[int]:
    """Returns the tokens before the first end-of-text token or BLANK."""
    shown: list[int] = []
    for token in tokens:
        if token in eos_ids or token == BLANK:
            break
        shown.append(token)
    return shown


def cut_at(text: str, until: Sequence[str]) -> str:
    """Returns `text` before the first of the stop strings."""
    ends = [text.find(stop) for stop in until if stop and stop in text]
    return text[: min(ends)] if ends else text
