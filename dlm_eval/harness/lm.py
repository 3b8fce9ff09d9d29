"""`DiffusionLM`: lm-eval's three request methods, answered by a Denoiser.

Requests are converted to canvases (`requests.py`) and then to jobs (`jobs.py`). Answers are
returned in lm-eval's form. A `Record` (`results.py`) has the cost of each request.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, cast

from lm_eval.api.instance import Instance
from lm_eval.api.model import TemplateLM

from dlm_eval.answers import answer_jobs, journal_key
from dlm_eval.canvas import BLANK, Filling, Score
from dlm_eval.errors import DlmEvalError, SampleError, UserError, unknown_name_error
from dlm_eval.harness.decode_config import DecodeOptions, DecodePlans
from dlm_eval.harness.requests import (
    Overlong,
    Prepared,
    UnbuiltPrompt,
    begin,
    choice_canvases,
    hole_canvas,
    hole_length,
    pair_texts,
)
from dlm_eval.harness.results import Record, doc_key, document_number, records_of
from dlm_eval.harness.shard import Shard
from dlm_eval.harness.trajectories import TokenTexts, trajectory
from dlm_eval.jobs import Answer, FillJob, Job, QuestionJob, ScoreJob, Scores
from dlm_eval.journal import Journal
from dlm_eval.likelihood import Estimator, windows
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
        estimator: estimator of likelihoods.
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

    estimator: Estimator
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
        questions: dict[tuple[Any, ...], list[Instance]] = {}
        for request in {id(r): r for r in requests}.values():
            questions.setdefault(_question_of(request), []).append(request)

        asked: dict[tuple[Any, ...], QuestionJob] = {}
        # Question -> canvases of its choices, in the same order.
        prepared: dict[tuple[Any, ...], list[Prepared]] = {}

        def canvases_of(request: Instance, record: Record) -> list[Prepared]:
            question = (_question_of(request), record.repeat)
            if question not in prepared:
                key = digest(record.task, record.doc, record.repeat)
                pairs = [choice.args for choice in questions[question[0]]]
                prepared[question] = choice_canvases(self.model, pairs, key, self.options.overlong)
            return prepared[question]

        def prepare(request: Instance, record: Record) -> list[Job]:
            choices, canvases = questions[_question_of(request)], canvases_of(request, record)
            place = next(i for i, choice in enumerate(choices) if choice is request)
            self._weigh(canvases[place], record)
            if len(choices) > 1 and self._ends_early(record.task):
                record.details["choice"] = place
                job = (_question_of(request), record.repeat)
                if job not in asked:
                    asked[job] = self._question(choices, canvases)
                return [asked[job]]
            # lm-eval ignores is_greedy if a document has several continuations, and computing it
            # costs rows.
            return [self._score_job(canvases[place], greedy=len(choices) == 1)]

        def finish(answers: Sequence[Answer], record: Record) -> tuple[float, bool]:
            score = _score(answers[0])
            if isinstance(answers[0].value, Scores):
                score = answers[0].value.choices[record.details["choice"]]
                record.rows, record.seconds = (
                    score.rows,
                    record.seconds / len(answers[0].value.choices),
                )
            self._note(score, record)
            return score.logprob, bool(score.greedy)

        return self._answer(requests, "likelihood", prepare, finish, (float("-inf"), False))

    def loglikelihood_rolling(self, requests: list[Instance]) -> list[float]:
        """Returns the log-likelihood (nats) of each whole text; a long text is split in windows."""

        def prepare(request: Instance, record: Record) -> list[Job]:
            key = digest(record.task, record.doc, record.repeat)
            ids = self.model.encode(request.args[0])
            head = begin(self.model, [])
            canvases = windows(
                [*head, *ids], self.model.max_length, self.options.stride, given=len(head), key=key
            )
            whole = [Prepared(canvas) for canvas in canvases]
            for window in whole:
                self._weigh(window, record)
            return [self._score_job(window, greedy=False) for window in whole]

        def finish(answers: Sequence[Answer], record: Record) -> float:
            if not answers:
                raise SampleError("the text is empty: there is nothing to score")
            score = merge([_score(answer) for answer in answers])
            self._note(score, record)
            record.details["text_nats"] = -score.logprob
            return score.logprob

        return self._answer(requests, "likelihood", prepare, finish, float("-inf"))

    def generate_until(self, requests: list[Instance]) -> list[str]:
        """Returns the text after each context or in its hole, up to its end or a stop string."""

        def prepare(request: Instance, record: Record) -> list[Job]:
            context, arguments = request.args
            ask = self._decode.ask(arguments, record.task)
            length = hole_length(self.model, ask.hole, context)
            plan = self._decode.plan(ask, length)
            key = digest(record.task, record.doc, request.idx, record.repeat)
            prepared = hole_canvas(
                self.model, context, length, ask.hole.suffix, key, self.options.overlong
            )
            record.truncated = prepared.truncated
            record.details = {"until": ask.until, **plan.described}
            if not plan.draws:  # repeats and equal prompts share one answer
                return [FillJob(replace(prepared.canvas, key=""), plan.job, 0)]
            return [FillJob(prepared.canvas, plan.job, self.options.seed)]

        def finish(answers: Sequence[Answer], record: Record) -> str:
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

        return self._answer(requests, "generation", prepare, finish, "")

    def _ends_early(self, task: str) -> bool:
        """Returns whether sampling for `task` stops once the best choice is clear."""
        return self.options.estimator.error_rate is not None and task in self.options.by_order

    def _weigh(self, prepared: Prepared, record: Record) -> None:
        """Adds the number of scored tokens and the estimator's full budget to a record."""
        n = sum(prepared.canvas.open)
        record.truncated += prepared.truncated
        record.tokens += n
        record.budget += self.options.estimator.budget(n)

    def _note(self, score: Score, record: Record) -> None:
        record.score = score
        record.details["estimator"] = score.estimator

    def _question(self, choices: Sequence[Instance], canvases: Sequence[Prepared]) -> QuestionJob:
        """Returns the job of a whole question, which the requests of all its choices share."""
        # lm-eval's acc_norm divides by the characters of a choice, without the delimiter before it.
        lengths = tuple(max(1, len(choice.args[1].removeprefix(" "))) for choice in choices)
        whole = tuple(prepared.canvas for prepared in canvases)
        return QuestionJob(whole, self.options.estimator, self.options.seed, lengths)

    def _score_job(self, prepared: Prepared, greedy: bool) -> ScoreJob:
        alone = self.options.estimator.without_question()
        return ScoreJob(prepared.canvas, alone, self.options.seed, greedy)

    def _answer(
        self,
        requests: Sequence[Instance],
        kind: str,
        prepare: Callable[[Instance, Record], list[Job]],
        finish: Callable[[Sequence[Answer], Record], Any],
        blank: Any,
    ) -> list[Any]:
        """Runs the jobs of requests and returns lm-eval's answers.

        A request that fails gets `blank`, and its record has the reason. A request of another shard
        gets `blank` and no record.
        """
        ours = [self._is_ours(request) for request in requests]
        own = [request for request, is_ours in zip(requests, ours, strict=True) if is_ours]
        records = list(records_of(own, kind))
        batches = list(self._prepared(own, records, prepare))
        jobs = [job for batch in batches for job in batch]
        with Progress(kind, len(set(jobs)), self.options.quiet, self.pool.busy) as progress:
            found = answer_jobs(self.pool.run, jobs, self.fingerprint, self.journal, progress)
        self._keep_failed(jobs, found)
        answers = iter(found)
        results = []
        for batch, record in zip(batches, records, strict=True):
            parts = [next(answers) for _ in batch]
            record.rows, record.seconds = sum(a.rows for a in parts), sum(a.seconds for a in parts)
            try:
                results.append(blank if record.error else finish(parts, record))
            except Exception as error:
                record.error = _reason(error)
                results.append(blank)
        self.records.extend(records)
        finished = iter(results)
        return [next(finished) if is_ours else blank for is_ours in ours]

    def _is_ours(self, request: Instance) -> bool:
        """Returns whether a request's document belongs to this run's shard."""
        shard, task = self.options.shard, request.task_name or ""
        return shard is None or shard.has(
            task, document_number(task, request.doc_id, self.options.chosen)
        )

    def _prepared(
        self,
        requests: Sequence[Instance],
        records: Sequence[Record],
        prepare: Callable[[Instance, Record], list[Job]],
    ) -> Iterator[list[Job]]:
        """Yields the jobs of each request; none if it fails, and its record has the reason."""
        for number, (request, record) in enumerate(zip(requests, records, strict=True)):
            if number % TOGETHER == 0:
                near = requests[number : number + TOGETHER]
                read_ahead(self.model, [text for one in near for text in texts_of(one)])
            try:
                if isinstance(request.args[0], UnbuiltPrompt):
                    raise SampleError(request.args[0])
                jobs = prepare(request, record)
            except Exception as error:
                record.error = _reason(error)
                jobs = []
            yield jobs

    def _keep_failed(self, jobs: Sequence[Job], answers: Sequence[Answer]) -> None:
        """Keeps answers that are errors, which the journal does not store."""
        for job, answer in zip(jobs, answers, strict=True):
            if answer.error is not None:
                self.failed[journal_key(self.fingerprint, job)] = answer


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
    a task's own `process_results` (TruthfulQA's mc2) need the values.
    """
    config = task.config
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
    return list(pair_texts(texts[0], texts[1])) if len(texts) == 2 else texts


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


def _question_of(request: Instance) -> tuple[Any, ...]:
    """Returns the identity and number of a document, since a task may have a document twice."""
    return request.task_name, request.doc_id, doc_key(request.doc or request.args)


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
