"""`DiffusionLM`: lm-eval's three request methods, answered by a Denoiser.

Requests are converted to canvases (`requests.py`) and then to jobs (`jobs.py`). Answers are
returned in lm-eval's form. A `Record` (`results.py`) has the cost of each request.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, cast

from lm_eval.api.instance import Instance
from lm_eval.api.model import TemplateLM

from dlm_eval.answers import Answering
from dlm_eval.canvas import BLANK, Filling, Score
from dlm_eval.errors import DlmEvalError, SampleError, UserError, unknown_name_error
from dlm_eval.harness.choices import ChoiceTask
from dlm_eval.harness.decode_config import DecodeOptions, DecodePlans
from dlm_eval.harness.requests import (
    Overlong,
    Prepared,
    UnbuiltPrompt,
    begin,
    choice_canvases,
    form_of,
    hole_canvas,
    hole_length,
    pair_texts,
)
from dlm_eval.harness.results import Record, document_keys, is_in_shard, records_of
from dlm_eval.harness.shard import Shard
from dlm_eval.harness.trajectories import TokenTexts, trajectory
from dlm_eval.jobs import Answer, FillJob, Job, QuestionJob, ScoreJob, Scores
from dlm_eval.journal import Journal
from dlm_eval.likelihood import TaskEstimators, windows
from dlm_eval.likelihood.target import merge
from dlm_eval.models.denoiser import ChatTemplates, Denoiser, device_of, offers, read_ahead
from dlm_eval.output import one_line
from dlm_eval.progress import Progress
from dlm_eval.redaction import redact
from dlm_eval.rng import digest
from dlm_eval.workers import Pool

log = logging.getLogger(__name__)
TOGETHER = 512  # requests whose texts are encoded together
# Metrics of lm-eval's multiple choice that depend only on the best choice.
BY_ORDER = frozenset({"acc", "acc_norm", "f1", "mcc"})


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


Prepare = Callable[[Instance, Record], list[Job]]


@dataclass(frozen=True)
class _Kind:
    """How requests of one of lm-eval's methods become jobs, and answers become lm-eval's.

    Attributes:
        title: what the progress line and the records call them.
        jobs: all requests of some documents -> the function that returns the jobs of one of them.
        finish: the answers to a request's jobs, and its record -> lm-eval's answer.
        blank: lm-eval's answer to a request that failed.
    """

    title: str
    jobs: Callable[[Sequence[Instance]], Prepare]
    finish: Callable[[Sequence[Answer], Record], Any]
    blank: Any


@dataclass(frozen=True)
class _Asked:
    """A request, its record (None if it is another shard's), and the keys of its jobs."""

    request: Instance
    record: Record | None = None
    keys: tuple[str, ...] = ()


class DiffusionLM(TemplateLM):
    """A Denoiser with lm-eval's LM interface.

    Args:
        model: the denoiser; only its tokenizer and facts are used here, since the pool runs it.
        pool: runs jobs.
        options: settings.
        journal: stores finished answers, or None.
    """

    def __init__(
        self, model: Denoiser, pool: Pool, options: Options, journal: Journal | None = None
    ) -> None:
        super().__init__()
        self.model = model
        self.pool = pool
        self.options = options
        self.journal = journal
        self.fingerprint = digest(redact(model.describe()))  # independent of access tokens
        self.records: list[Record] = []
        self.failed: dict[str, Answer] = {}  # answers that are errors, by key
        self._decode = DecodePlans(options.decode, model)
        self._device = device_of(model)
        self._texts = TokenTexts(model) if options.trajectories else None
        # From the first request until the last answer: who answers, the counters by kind, and the
        # requests without an answer by identity, as often as they are repeated.
        self._answering: Answering | None = None
        self._progress: dict[str, Progress] = {}
        self._prepared: dict[int, deque[_Asked]] = {}
        minus = float("-inf")
        self._kinds = {
            "loglikelihood": _Kind(
                "likelihood", self._choice_jobs, self._choice_answer, (minus, False)
            ),
            "loglikelihood_rolling": _Kind(
                "likelihood", lambda _: self._text_jobs, self._text_answer, minus
            ),
            "generate_until": _Kind("generation", lambda _: self._fill_jobs, self._fill_answer, ""),
        }

    # -- lm-eval's interface of models -------------------------------------------------------------

    @property
    def eot_token_id(self) -> int:
        return self.model.eos_ids[0] if self.model.eos_ids else self.model.pad_id

    @property
    def max_length(self) -> int:
        return self.model.max_length

    @property
    def tokenizer_name(self) -> str:
        return self.model.name.replace("/", "__")

    def tok_encode(
        self, string: str, add_special_tokens: bool | None = None, **_: Any
    ) -> list[int]:
        return self.model.encode(string)

    def apply_chat_template(
        self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True
    ) -> str:
        if self.options.template is None:
            return self.model.apply_chat_template(chat_history, add_generation_prompt)
        model = cast(ChatTemplates, self.model)  # checked with the options
        return model.apply_chat_template(chat_history, add_generation_prompt, self.options.template)

    def chat_template(self, chat_template: bool | str = False) -> str | None:
        return template_text(self.model, chat_template)

    def get_model_info(self) -> dict[str, Any]:
        return {"model_dtype": self.model.describe().get("dtype"), "fingerprint": self.fingerprint}

    def _loglikelihood_tokens(self, requests: Any, **_: Any) -> list[tuple[float, bool]]:
        raise NotImplementedError("DiffusionLM scores whole texts, see loglikelihood")

    # -- requests ----------------------------------------------------------------------------------

    def loglikelihood(self, requests: list[Instance]) -> list[tuple[float, bool]]:
        """Returns (log-likelihood in nats, is_greedy) of each continuation given its context.

        is_greedy is computed only if a document has one continuation (last-word tasks); otherwise
        it is False.
        """
        return self._answer("loglikelihood", requests)

    def loglikelihood_rolling(self, requests: list[Instance]) -> list[float]:
        """Returns the log-likelihood (nats) of each whole text; a long text is split in windows."""
        return self._answer("loglikelihood_rolling", requests)

    def generate_until(self, requests: list[Instance]) -> list[str]:
        """Returns the text after each context or in its hole, up to its end or a stop string."""
        return self._answer("generate_until", requests)

    def ahead(self, requests: Sequence[Instance]) -> None:
        """Prepares all requests of a task and passes their jobs to the pool, which answers them in
        the background. The request methods then only wait for the answers.

        Raises:
            DlmEvalError: the pool has failed, or an error is not specific to one request.
        """
        if self._answering is None:
            self._answering = self._new_answering(background=True)
        for kind in dict.fromkeys(request.request_type for request in requests):
            if kind in self._kinds:
                own = [request for request in requests if request.request_type == kind]
                # as lm-eval repeats them
                self._prepare(kind, [request for request in own for _ in range(request.repeats)])

    def stop(self) -> None:
        """Ends the pool's run at once if there is one."""
        if self._answering is not None:
            self._answering.stop()
        for counter in self._progress.values():
            counter.close()
        self._answering, self._progress, self._prepared = None, {}, {}

    # -- kinds of requests -------------------------------------------------------------------------

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

    def _choice_answer(self, answers: Sequence[Answer], record: Record) -> tuple[float, bool]:
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
        """Returns the jobs of a whole text, one per window."""
        key = digest(record.task, record.doc, record.repeat)
        ids = self.model.encode(request.args[0])
        head = begin(self.model, [])
        canvases = windows(
            [*head, *ids], self.model.max_length, self.options.stride, given=len(head), key=key
        )
        whole = [Prepared(canvas) for canvas in canvases]
        for window in whole:
            self._weigh(window, record)
        return [self._score_job(window, False, record.task) for window in whole]

    def _text_answer(self, answers: Sequence[Answer], record: Record) -> float:
        if not answers:
            raise SampleError("the text is empty: there is nothing to score")
        score = merge([_score(answer) for answer in answers])
        self._note(score, record)
        record.details["text_nats"] = -score.logprob
        return score.logprob

    def _fill_jobs(self, request: Instance, record: Record) -> list[Job]:
        """Returns the job of a generation."""
        context, arguments = request.args
        ask = self._decode.ask(arguments, record.task)
        length = hole_length(self.model, ask.hole, context)
        plan = self._decode.plan(ask, length)
        key = digest(record.task, record.doc, request.idx, record.repeat)
        hole, overlong = ask.hole, self.options.overlong
        prepared = hole_canvas(
            self.model, context, length, hole.suffix, key, overlong, hole.special_tokens
        )
        record.truncated = prepared.truncated
        record.details = {"until": ask.until, **plan.described}
        if not plan.draws:  # repeats and equal prompts share one answer
            return [FillJob(replace(prepared.canvas, key=""), plan.job, 0)]
        return [FillJob(prepared.canvas, plan.job, self.options.seed)]

    def _fill_answer(self, answers: Sequence[Answer], record: Record) -> str:
        filling = _filling(answers[0])
        written = visible(filling.tokens, self.model.eos_ids)
        record.tokens = len(written)
        record.details |= {
            "steps_taken": filling.steps,
            "exit": filling.exit,
            "gen_length": len(filling.tokens),
        }
        if self._texts is not None:
            record.details["trajectory"] = trajectory(filling, self._texts)
        return cut_at(self.model.decode(written), record.details["until"])

    def _ends_early(self, task: str) -> bool:
        """Returns whether sampling for `task` stops once the best choice is clear."""
        estimator = self.options.estimator.for_task(task)
        return estimator.error_rate is not None and task in self.options.by_order

    def _weigh(self, prepared: Prepared, record: Record) -> None:
        """Adds the number of scored tokens and the estimator's full budget to a record."""
        n = sum(prepared.canvas.open)
        record.truncated += prepared.truncated
        record.tokens += n
        record.budget += self.options.estimator.for_task(record.task).budget(n)

    def _note(self, score: Score, record: Record) -> None:
        record.score = score
        record.details["estimator"] = score.estimator
        record.details["preset"] = self.options.estimator.preset_of(record.task)

    def _question(self, choices: Sequence[Instance], canvases: Sequence[Prepared]) -> QuestionJob:
        """Returns the job of a whole question, which the requests of all its choices share."""
        # lm-eval's acc_norm divides by the characters of a choice, without the delimiter before it.
        lengths = tuple(max(1, len(choice.args[1].removeprefix(" "))) for choice in choices)
        whole = tuple(prepared.canvas for prepared in canvases)
        estimator = self.options.estimator.for_task(choices[0].task_name or "")
        return QuestionJob(whole, estimator, self.options.seed, lengths)

    def _score_job(self, prepared: Prepared, greedy: bool, task: str) -> ScoreJob:
        alone = self.options.estimator.for_task(task).without_question()
        return ScoreJob(prepared.canvas, alone, self.options.seed, greedy)

    def _answer(self, kind: str, requests: Sequence[Instance]) -> list[Any]:
        """Returns lm-eval's answers to requests, after adding the jobs of those not yet prepared.

        A request that fails gets the kind's blank, and its record has the reason. A request of
        another shard gets the blank and no record.
        """
        try:
            if self._answering is None:
                self._answering = self._new_answering(background=False)
            fresh = [request for request in requests if id(request) not in self._prepared]
            self._prepare(kind, fresh)
            asked = [self._prepared[id(request)].popleft() for request in requests]
            found = iter(self._answering.answers(key for one in asked for key in one.keys))
            results = [self._answered(kind, one, [next(found) for _ in one.keys]) for one in asked]
            self.records.extend(one.record for one in asked if one.record is not None)
            self._prepared = {key: left for key, left in self._prepared.items() if left}
            if not self._prepared:
                self._answering.finish()
                self._answering = None
        except BaseException:
            self.stop()
            raise
        self._progress.pop(kind).close()
        return results

    def _answered(self, kind: str, asked: _Asked, parts: Sequence[Answer]) -> Any:
        """Returns lm-eval's answer to a request from those to its jobs."""
        record = asked.record
        if record is None:
            return self._kinds[kind].blank
        # The journal does not store errors.
        self.failed |= {
            key: part for key, part in zip(asked.keys, parts, strict=True) if part.error is not None
        }
        record.rows, record.seconds = sum(a.rows for a in parts), sum(a.seconds for a in parts)
        try:
            if not record.error:
                return self._kinds[kind].finish(parts, record)
        except Exception as error:
            record.error = _reason(error)
        return self._kinds[kind].blank

    def _new_answering(self, background: bool) -> Answering:
        return Answering(self.pool.run, self.fingerprint, self.journal, background)

    def _prepare(self, kind: str, requests: Sequence[Instance]) -> None:
        """Adds the jobs of requests to those that are answered, `TOGETHER` requests at a time."""
        assert self._answering is not None
        if kind not in self._progress:
            title = self._kinds[kind].title
            self._progress[kind] = Progress(title, 0, self.options.quiet, self.pool.busy)
        ours = []
        for request in requests:
            if self._is_ours(request):
                ours.append(request)
            else:
                self._prepared.setdefault(id(request), deque()).append(_Asked(request))
        prepare = self._kinds[kind].jobs(ours)
        records = records_of(ours, self._kinds[kind].title)
        for first in range(0, len(ours), TOGETHER):
            near = ours[first : first + TOGETHER]
            read_ahead(self.model, [text for request in near for text in texts_of(request)])
            found = [
                (request, record, prepared_jobs(prepare, request, record))
                for request, record in zip(near, records, strict=False)
            ]
            jobs = [job for *_, own in found for job in own]
            keys = iter(self._answering.add(jobs, self._progress[kind]))
            for request, record, own in found:
                asked = _Asked(request, record, tuple(next(keys) for _ in own))
                self._prepared.setdefault(id(request), deque()).append(asked)

    def _is_ours(self, request: Instance) -> bool:
        """Returns whether a request's document belongs to this run's shard."""
        return is_in_shard(request, self.options.shard, self.options.chosen)


def chosen_template(model: Denoiser, asked: bool | str) -> str | None:
    """Returns the name of the chat template of --apply_chat_template; None for transformers'
    default.

    Raises:
        UserError: the checkpoint has no template of that name, or has several but no default.
    """
    names = list(cast(ChatTemplates, model).chat_templates) if offers(model, ChatTemplates) else []
    if isinstance(asked, str):
        if not names:
            raise UserError(
                f"--apply_chat_template '{asked}' is not allowed; this checkpoint has no chat "
                "templates with names"
            )
        if asked not in names:
            raise unknown_name_error("--apply_chat_template", asked, names)
        return asked
    if asked and len(names) > 1 and "default" not in names:
        raise UserError(
            f"--apply_chat_template needs a name for this checkpoint; allowed: {', '.join(names)}"
        )
    return None


def template_text(model: Denoiser, asked: bool | str) -> str:
    """Returns the text of the chosen chat template; "" if the model has none."""
    if not asked or not offers(model, ChatTemplates):
        return ""
    found = cast(ChatTemplates, model).chat_templates
    return found.get(chosen_template(model, asked) or "default") or next(iter(found.values()), "")


def by_order(task: Any) -> bool:
    """Returns whether scores of lm-eval's `task` depend only on the order of the choices'
    log-likelihoods.

    `acc_norm` orders choices by log-likelihood per character. Brier scores, mutual information and
    a task's own `process_results` (TruthfulQA's mc2) need the values. Sampling stops at a clear order
    of sums, which need not be that of means per token.
    """
    config = task.config
    if isinstance(task, ChoiceTask) and task.choices.score == "mean":
        return False
    metrics = {
        entry["metric"] for entry in config.metric_list or () if isinstance(entry["metric"], str)
    }
    plain = config.process_results is None and len(metrics) == len(config.metric_list or ())
    return task.OUTPUT_TYPE == "multiple_choice" and plain and metrics <= BY_ORDER


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


def prepared_jobs(prepare: Prepare, request: Instance, record: Record) -> list[Job]:
    """Returns the jobs of a request; none if it fails, and its record has the reason."""
    try:
        if isinstance(request.args[0], UnbuiltPrompt):
            raise SampleError(request.args[0])
        return prepare(request, record)
    except Exception as error:
        record.error = _reason(error)
        return []


def _reason(error: Exception) -> str:
    """Returns why a request failed. `error` can be any exception, since a tokenizer may raise any.

    Raises:
        DlmEvalError: the error is not specific to this request.
    """
    if isinstance(error, SampleError):
        return str(error)
    if isinstance(error, DlmEvalError):
        raise error
    log.warning("a sample failed", exc_info=error)
    return one_line(f"{type(error).__name__}: {error}")


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
