"""Text jobs: requests that one of lm-eval's own models answers.

The model gets many requests at once and makes its own batches. Most models report each finished
answer to lm-eval's cache hook (`LM.cache_hook.add_partial`). We set that hook, so an answer reaches
the journal while the call is still running. A model whose code never reports gets its requests in
groups of one batch. So do whole texts (loglikelihood_rolling), which `hf` reports only at the end.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
import math
import sys
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from lm_eval.api.instance import Instance
from lm_eval.api.model import LM, CacheHook, hash_args
from lm_eval.api.registry import get_model

from dlm_eval.answers import is_reply
from dlm_eval.engine import Cost
from dlm_eval.errors import DlmEvalError, RunError, UserError
from dlm_eval.jobs import Answer, Done, Job, Keep, Reply, TextJob, keep_none
from dlm_eval.output import one_line
from dlm_eval.patching import replaced
from dlm_eval.rng import digest
from dlm_eval.workers import NoDevices
from dlm_eval.workers.messages import Usage, WorkerConfig, peak_memory

MOST_BATCHES = 8  # batches that a worker hands to its model in one call
GROUP = 16  # requests in a group if the model chooses the size of its batches
# Consecutive calls that fail without any answer in between, after which the model has failed.
MOST_FAILURES = 5
MOST_REFUSALS = 100  # the same for calls that a server refuses because of their content
TOKENS = "_loglikelihood_tokens"  # method of lm-eval's models that takes ids
REFUSED = (400, 413, 422)  # HTTP statuses of such refusals: too long, filtered

log = logging.getLogger(__name__)


def make_lm(kind: type[LM], arguments: Mapping[str, Any], extra: Mapping[str, Any]) -> LM:
    """Returns a model of lm-eval's class `kind`; `arguments` override `extra`."""
    given = {key: value for key, value in extra.items() if key not in arguments}
    found: LM = kind.create_from_arg_obj(dict(arguments), given)
    return found


def batch_rows(batch_size: str | int | None) -> int | None:
    """Returns --batch_size as a number (default 1); None if the model chooses."""
    text = str(batch_size or 1)
    return int(text) if text.isdecimal() else None


def load_worker(config: WorkerConfig) -> TextModel:
    """Returns the model of a worker.

    Raises:
        UserError: it cannot be made.
    """
    extra = {"batch_size": config.batch_size, "max_batch_size": config.most_rows}
    try:
        lm = make_lm(get_model(config.model), config.options, extra)
    except (OSError, ValueError, TypeError, KeyError, ImportError) as error:
        raise UserError(
            f"--model '{config.model}' cannot be made: {type(error).__name__}: {one_line(str(error))}"
        ) from error
    rows = batch_rows(config.batch_size)
    return TextModel(lm, rows, at_once=rows and rows * MOST_BATCHES, reseed=True)


def reports_answers(lm: LM) -> bool:
    """Returns whether a model's code reports answers to lm-eval's cache hook."""
    members = [one for kind in type(lm).__mro__ for one in vars(kind).values()]
    functions = [inspect.unwrap(one) for one in members if inspect.isfunction(one)]
    return any("add_partial" in one.__code__.co_names for one in functions)


def seed_draws(jobs: Iterable[TextJob]) -> None:
    """Seeds torch from the draws of `jobs`, if there are any.

    Otherwise two workers, or a run and its continuation, would draw the same numbers.
    """
    if draws := [job.draw for job in jobs if job.draw]:
        torch.manual_seed(int(digest("draws", draws)[:15], 16))


def silent_bar(bar: type[Any]) -> type[Any]:
    """Returns a class of progress bars that are not shown."""

    class Silent(bar):  # type: ignore[misc]
        monitor_interval = 0  # otherwise each such class starts a thread, which never ends

        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **{**kwargs, "disable": True})

    return Silent


class RefusedError(Exception):
    """A server refuses a request because of its content, but not with one of the statuses `REFUSED`."""


def _limit(error: BaseException) -> int:
    """Returns how many failures like `error` are allowed in a row."""
    if isinstance(error, RefusedError):
        return MOST_REFUSALS
    facts = vars(error)  # `status` in aiohttp, `response` in requests
    status = facts.get("status") or (
        facts["response"].status_code if facts.get("response") is not None else 0
    )
    return MOST_REFUSALS if status in REFUSED else MOST_FAILURES


class _Together:
    """Replaces `tqdm_asyncio` in lm-eval's API models."""

    @staticmethod
    async def gather(*tasks: asyncio.Task[Any], **_: Any) -> list[Any]:
        """Returns the results of all tasks, without a progress bar.

        After a failed task the others go on, since their requests may be paid already. The wait
        ends only after too many failures without a success in between.

        Raises:
            BaseException: the first failure.
        """
        first: BaseException | None = None
        failures, limit, pending = 0, MOST_FAILURES, set(tasks)
        while pending and failures <= limit and not isinstance(first, _Stop):
            done, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                error = task.exception()
                if error is None:
                    failures = 0
                    continue
                failures, limit = failures + 1, _limit(error)
                first = error if first is None or isinstance(error, _Stop) else first
        for task in pending:
            task.cancel()
        await asyncio.gather(*pending, return_exceptions=True)
        if first is not None:
            raise first
        return [task.result() for task in tasks]


def _checking_texts(lm: Any) -> Callable[..., list[Any]]:
    """Returns an API model's `parse_generations`, which raises an error if a body lacks a text.

    Upstream: `LocalChatCompletion` reads "" from a body without a message. A prompt whose number
    the body lacks (some servers number every text of a batch 0) gets "" too.
    """
    from lm_eval.models.openai_completions import LocalChatCompletion

    parse, chat = lm.parse_generations, isinstance(lm, LocalChatCompletion)

    def parsed(outputs: Any, **more: Any) -> list[Any]:
        if chat:
            for body in outputs if isinstance(outputs, list) else [outputs]:
                _check_messages(body)
        texts = list(parse(outputs=outputs, **more))
        if not chat and None in texts:
            raise ValueError("the server's answer lacks the text of a prompt")
        return texts

    return parsed


def _check_messages(body: Any) -> None:
    """Checks that a body has messages. One without text is an answer: the model has spent all its
    tokens on thinking.

    Raises:
        ValueError: there is no message, but an error with status 200.
        RefusedError: a filter has removed the text.
    """
    try:
        choices = [
            (choice.get("finish_reason"), choice["message"].get("content"))
            for choice in body["choices"]
        ]
    except (KeyError, TypeError, AttributeError):
        choices = []
    if not choices:
        raise ValueError(f"the server's answer has no message: {str(body)[:200]}")
    if any(end == "content_filter" and not text for end, text in choices):
        raise RefusedError("the server's content filter has removed the answer")


def _with_indentation(lm: Any) -> Callable[..., str]:
    """Returns the `tok_decode` of a model of transformers, which keeps the white space that an
    answer begins with.

    Upstream: `HFLM` decodes an answer apart from its prompt, and the decoder of a sentencepiece
    tokenizer (Llama 2, Code Llama) drops a text's first space. Code that begins with an indentation
    then fails. A lone space before a word is still dropped, as in lm-eval.
    """
    decode = lm.tok_decode
    before = lm.tok_encode("a", add_special_tokens=False)

    def decoded(tokens: Any, skip_special_tokens: bool = True) -> str:
        text: str = decode(tokens, skip_special_tokens=skip_special_tokens)
        if isinstance(tokens, int) or not text.startswith(" "):
            return text
        given, whole = (
            str(decode(ids, skip_special_tokens=skip_special_tokens))
            for ids in (before, [*before, *tokens])
        )
        return f" {text}" if whole == f"{given} {text}" else text

    return decoded


def _ending_at_special_tokens(lm: Any) -> Callable[..., Any]:
    """Returns the `_model_generate` of a model of transformers, in which a stop sequence that is a
    special token ends its row as EOS does.

    Upstream: `MultiTokenEOSCriteria` ends a batch when all its rows have a stop sequence. What a
    row has written behind it is cut from the text, in which there is no special token (Code Llama's
    `▁<EOT>`, StarCoder2's `<file_sep>`), so it stays.
    """
    generate = lm._model_generate

    def ended(*args: Any, stop: Sequence[str], **given: Any) -> Any:
        known = lm.tokenizer.get_added_vocab()
        special = set(lm.tokenizer.all_special_ids)
        ends = [known[text] for text in stop if known.get(text) in special]
        if ends:
            usual = lm.model.generation_config.eos_token_id
            usual = [] if usual is None else [usual] if isinstance(usual, int) else list(usual)
            given.setdefault("eos_token_id", list(dict.fromkeys([*usual, *ends])))
        return generate(*args, stop=stop, **given)

    return ended


@contextmanager
def calling(lm: LM) -> Iterator[None]:
    """Changes a model and its modules during a call.

    Upstream: modules show progress bars of their own. `api_models` cancels all requests under way
    if one fails (`tqdm_asyncio.gather`). See also the functions above.
    """
    from lm_eval.models.api_models import TemplateAPI
    from lm_eval.models.huggingface import HFLM

    with ExitStack() as stack:
        if isinstance(lm, HFLM):
            stack.enter_context(replaced(lm, "tok_decode", _with_indentation(lm)))
            if type(lm)._model_generate is HFLM._model_generate:
                stack.enter_context(replaced(lm, "_model_generate", _ending_at_special_tokens(lm)))
        if isinstance(lm, TemplateAPI):
            stack.enter_context(replaced(lm, "parse_generations", _checking_texts(lm)))
        for module in {sys.modules[kind.__module__] for kind in type(lm).__mro__}:
            if isinstance(bar := vars(module).get("tqdm"), type):
                stack.enter_context(replaced(module, "tqdm", silent_bar(bar)))
            if "tqdm_asyncio" in vars(module):
                stack.enter_context(replaced(module, "tqdm_asyncio", _Together))
        yield


class _Stop(BaseException):
    """Leaves a model's call from within its hook. The retries of API models catch Exception."""


class _Hook(CacheHook):
    """Receives a model's finished answers as (request type, arguments, answer)."""

    def __init__(self, report: Callable[[str, Any], None]) -> None:
        super().__init__(None)
        self._report = report

    def add_partial(self, attr: str, req: Any, res: Any) -> None:
        try:
            identity = identity_of(attr, req)
        except (TypeError, ValueError):  # None for a part of a text, or no JSON
            return
        self._report(identity, res)


def identity_of(kind: str, arguments: Iterable[Any]) -> str:
    """Returns the hash of a request."""
    return str(hash_args(kind, list(arguments)))


class TextModel:
    """One of lm-eval's models, which answers text jobs.

    Args:
        lm: the model.
        batch: requests in one of its batches; None if it chooses.
        at_once: maximum number of requests in one call; None for all.
        reseed: whether to seed torch before each call that samples.
    """

    def __init__(
        self, lm: LM, batch: int | None = 1, at_once: int | None = None, reseed: bool = False
    ) -> None:
        self.lm = lm
        self.on_answer: Callable[[], None] = lambda: None
        self.seconds = 0.0  # inside the model
        self._batch, self._at_once, self._reseed = batch, at_once, reseed
        self._reports = reports_answers(lm)
        self._failures = 0

    def usage(self) -> Usage:
        """Returns its usage in this process."""
        cost = Cost(seconds=self.seconds)
        if "cuda" not in str(self.lm.device):
            return Usage(cost, peak_memory(), 0, "cpu")
        peak = sum(torch.cuda.max_memory_allocated(i) for i in range(torch.cuda.device_count()))
        return Usage(cost, peak, 0, torch.cuda.get_device_name())

    def drive(self, numbered: Iterable[tuple[int, Job] | None], done: Done) -> None:
        """Answers jobs as they arrive; None means that there is no job now.

        Raises:
            RunError: the model fails again and again.
        """
        for call in self._calls(numbered):
            rolling = call[0][1].kind == "loglikelihood_rolling"
            size = len(call) if self._reports and not rolling else self._batch or GROUP
            for begin in range(0, len(call), size):
                self._answer(call[begin : begin + size], done)

    def _calls(
        self, numbered: Iterable[tuple[int, Job] | None]
    ) -> Iterator[list[tuple[int, TextJob]]]:
        """Yields jobs of one kind that are answered together."""
        call: list[tuple[int, TextJob]] = []
        for one in numbered:
            kind = one[1].kind if one is not None and isinstance(one[1], TextJob) else None
            if call and (kind != call[0][1].kind or len(call) == self._at_once):
                yield call
                call = []
            if one is not None:
                assert isinstance(one[1], TextJob)  # a pool has one kind of model
                call.append((one[0], one[1]))
        if call:
            yield call

    def _answer(self, jobs: Sequence[tuple[int, TextJob]], done: Done) -> None:
        """Answers jobs together.

        If the call fails, those without an answer are tried in halves, so that a request that the
        model refuses fails alone. Models begin with the longest request. So the shorter half is
        tried first: if a single request is at fault, other calls succeed in between.
        """
        left = dict(jobs)

        def finish(number: int, answer: Answer) -> None:
            self._failures = 0
            del left[number]
            done(number, answer)
            self.on_answer()

        begin = time.perf_counter()
        try:
            self._ask(jobs, finish)
            return
        except (DlmEvalError, NotImplementedError):
            raise
        except Exception as error:  # a model may raise anything
            reason = one_line(f"{type(error).__name__}: {error}")
            limit = _limit(error)
            log.debug("a call of the model failed", exc_info=error)
        self._failures += 1
        if left and self._failures > limit:
            raise RunError(
                f"the model fails again and again ({reason}); finished answers are in the journal"
            )
        if len(jobs) == 1:
            for number in left:
                log.warning("a request failed: %s", reason)
                done(number, Answer(None, reason, 0, time.perf_counter() - begin))
            return
        rest = sorted(left.items(), key=lambda item: -item[1].size)
        half = len(rest) // 2
        for part in (rest[half:], rest[:half]):
            if part:
                self._answer(part, done)

    def _ask(self, jobs: Sequence[tuple[int, TextJob]], done: Done) -> None:
        """Calls the model once; reports each answer as soon as the model does.

        Raises:
            Exception: the model failed; some jobs may be answered.
        """
        if self._reseed:
            seed_draws(job for _, job in jobs)
        waiting: dict[str, deque[tuple[int, TextJob]]] = {}
        for number, job in jobs:
            waiting.setdefault(job.identity, deque()).append((number, job))
        last = time.perf_counter()
        stopped: list[BaseException] = []

        def report(identity: str, answer: Any) -> None:
            nonlocal last
            if not waiting.get(identity):
                return
            number, job = waiting[identity].popleft()
            now = time.perf_counter()
            seconds, last = now - last, now
            self.seconds += seconds
            try:
                done(number, _reply(job.kind, answer, seconds))
            except BaseException as error:
                stopped.append(error)
                raise _Stop from error

        before, self.lm.cache_hook = self.lm.cache_hook, _Hook(report)
        try:
            ask = getattr(self.lm, jobs[0][1].kind)
            with calling(self.lm):
                answers = list(ask([_request(job) for _, job in jobs]))
            if len(answers) != len(jobs):
                raise ValueError(f"the model gave {len(answers)} answers to {len(jobs)} requests")
            for (_, job), answer in zip(jobs, answers, strict=True):
                report(job.identity, answer)
        except _Stop:
            raise stopped[0] from None
        finally:
            self.lm.cache_hook = before


def _request(job: TextJob) -> Any:
    if job.kind == TOKENS:  # a model reports the first part, which therefore has the identity
        return job.arguments, list(job.arguments[2]), list(job.arguments[3])
    return Instance(job.kind, {}, job.arguments, 0)  # type: ignore[arg-type]


def _reply(kind: str, answer: Any, seconds: float) -> Answer:
    """Returns a model's answer in the form that the journal stores, or an error.

    lm-eval would score NaN: as a wrong choice, and as the mean of all texts.
    """
    try:
        if kind in ("loglikelihood", TOKENS):
            answer = (float(answer[0]), bool(answer[1]))
        elif kind == "loglikelihood_rolling":
            answer = float(answer)
    except (TypeError, ValueError, IndexError):
        pass
    reply = Reply(answer)
    if is_reply(kind, reply):
        return Answer(reply, None, 0, seconds)
    numbers = answer if isinstance(answer, tuple) else (answer,)
    if any(isinstance(number, float) and math.isnan(number) for number in numbers):
        return Answer(None, "the model's log-likelihood is not a number (NaN)", 0, seconds)
    return Answer(None, f"the model gave no answer but {type(answer).__name__}", 0, seconds)


class TextInProcess(NoDevices):
    """A pool with one of lm-eval's models in this process."""

    def __init__(self, model: TextModel) -> None:
        self.model = model

    def run(self, jobs: Iterable[Job], done: Done, keep: Keep = keep_none) -> None:
        self.model.drive(enumerate(jobs), done)

    def cost(self) -> Cost:
        return Cost(seconds=self.model.seconds)
