"""`TextLM`: one of lm-eval's own models with our journal, pool and records.

It turns requests into text jobs (`jobs.TextJob`), which `workers/texts.py` answers.

These models cannot use the text after a hole. On an infilling task they get only the prefix and the
hole's number of tokens, as the baselines in the papers did.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from lm_eval.api.instance import Instance
from lm_eval.api.model import LM, TemplateLM
from transformers import PreTrainedTokenizerBase

from dlm_eval.answers import Answering
from dlm_eval.errors import SampleError, UserError
from dlm_eval.harness.baseline import Baseline
from dlm_eval.harness.decode_layers import is_our_argument
from dlm_eval.harness.request_jobs import (
    AnsweredRequests,
    Prepare,
    RequestKind,
    RequestKinds,
    Requests,
)
from dlm_eval.harness.requests import HOLE, Block, block_of, encode_apart, form_of, hole_length
from dlm_eval.harness.results import Record
from dlm_eval.harness.shard import Shard
from dlm_eval.jobs import Answer, Done, Job, Keep, Reply, TextJob, keep_none
from dlm_eval.journal import Journal
from dlm_eval.models.tokenizer import text_start_of
from dlm_eval.progress import Progress
from dlm_eval.rng import digest
from dlm_eval.workers import Pool
from dlm_eval.workers.texts import TOKENS, identity_of, seed_draws


@dataclass(frozen=True)
class TextOptions:
    """Settings of a TextLM.

    Attributes:
        seed: distinguishes draws of runs with different seeds.
        quiet: whether to hide progress.
        shard: answer only documents of this shard; None for all.
        chosen: task -> the documents of --samples, ascending.
    """

    seed: int = 0
    quiet: bool = False
    shard: Shard | None = None
    chosen: Mapping[str, Sequence[int]] = field(default_factory=dict)


class TextLM(LM):  # type: ignore[misc]
    """One of lm-eval's own models, with journal, pool and records.

    Args:
        lm: the model; only its tokenizer and templates are used here, since the pool runs it.
        baseline: what it is.
        pool: answers text jobs.
        options: settings.
        journal: stores finished answers, or None.
    """

    def __init__(
        self,
        lm: LM,
        baseline: Baseline,
        pool: Pool,
        options: TextOptions,
        journal: Journal | None = None,
    ) -> None:
        super().__init__()
        self.lm, self.options = lm, options
        self._pool, self._journal = pool, journal
        self.fingerprint = baseline.fingerprint
        self.requests: Requests = AnsweredRequests(
            TextJobs(lm, options).kinds,
            self._answering,
            lambda title: Progress(title, 0, options.quiet, pool.busy),
        )
        self._device = baseline.device_of(lm)

    @property
    def records(self) -> list[Record]:
        """The records of the answered requests."""
        return self.requests.records

    @property
    def failed(self) -> dict[str, Answer]:
        """Answers that are errors, by key."""
        return self.requests.failed

    def __getattr__(self, name: str) -> Any:
        """Returns a member that LM lacks (batch_sizes, get_model_info, ...) from the model."""
        if name == "lm":  # not set yet
            raise AttributeError(name)
        return getattr(self.lm, name)

    @property
    def tokenizer_name(self) -> str:
        return str(self.lm.tokenizer_name)

    def apply_chat_template(
        self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True
    ) -> Any:
        return self.lm.apply_chat_template(chat_history, add_generation_prompt)

    def chat_template(self, chat_template: bool | str = False) -> str | None:
        found: str | None = self.lm.chat_template(chat_template)
        return found

    def loglikelihood(self, requests: list[Instance]) -> list[tuple[float, bool]]:
        return self.requests.answer("loglikelihood", requests)

    def loglikelihood_rolling(self, requests: list[Instance]) -> list[float]:
        return self.requests.answer("loglikelihood_rolling", requests)

    def generate_until(self, requests: list[Instance]) -> list[str]:
        return self.requests.answer("generate_until", requests)

    def _answering(self, background: bool) -> Answering:
        def run(jobs: Iterable[Job], done: Done, keep: Keep = keep_none) -> None:
            left = list(jobs)  # such a model makes its own batches of all requests
            if answering.known:  # it continues another run, which drew before
                seed_draws(job for job in left if isinstance(job, TextJob))
            self._pool.run(left, done, keep)

        answering = Answering(run, self.fingerprint, self._journal, background)
        return answering


class TextJobs:
    """Converts requests to text jobs, and their answers to lm-eval's.

    Args:
        lm: the model; only its tokenizer is used.
        options: settings.
    """

    def __init__(self, lm: LM, options: TextOptions) -> None:
        self.lm, self.options = lm, options

    @property
    def kinds(self) -> RequestKinds:
        """Its kinds of requests."""
        minus = float("-inf")
        titles = {
            "loglikelihood": ("likelihood", (minus, False)),
            "loglikelihood_rolling": ("likelihood", minus),
            "generate_until": ("generation", ""),
        }
        kinds = {
            kind: RequestKind(title, partial(self._jobs_of, kind), self._finish, blank)
            for kind, (title, blank) in titles.items()
        }
        return RequestKinds(kinds, self.options.shard, self.options.chosen, counts_rows=False)

    def _jobs_of(self, kind: str, _: Sequence[Instance]) -> Prepare:
        return partial(self._jobs, kind)

    def _jobs(self, kind: str, request: Instance, record: Record) -> list[Job]:
        """Returns the job of a request."""
        method, arguments = kind, request.args
        if kind == "generate_until":
            arguments = _plain(self.lm, arguments)
        elif kind == "loglikelihood" and (form := form_of(arguments)) is not None:
            method, arguments = TOKENS, _tokenised(self.lm, arguments)
            record.details["target"] = len(arguments[3])
            record.details["mean_of"] = len(arguments[3]) if form.score == "mean" else 1
        elif kind == "loglikelihood_rolling" and (block := block_of(arguments)) is not None:
            method, arguments = TOKENS, _tokens(self.lm, block)
            record.details |= {"target": len(arguments[3]), "block": True}
        identity = identity_of(kind, arguments)
        draw = ""
        if kind == "generate_until" and _samples(arguments[1]):
            draw = digest(
                self.options.seed, record.task, record.doc, request.idx, record.repeat, identity
            )
        record.details["scored"] = arguments[-1]
        return [TextJob(method, arguments, identity, draw, _size(kind, arguments[:2]))]

    def _finish(self, _: Instance, answers: Sequence[Answer], record: Record) -> Any:
        """Returns lm-eval's answer; counts its tokens."""
        (answer,) = answers
        if answer.error is not None:
            raise SampleError(answer.error)
        assert isinstance(answer.value, Reply)
        found = answer.value.content
        if "target" in record.details:  # a choice encoded apart, or a block
            assert isinstance(found, tuple)
            record.tokens = record.details["target"]
            if "block" in record.details:
                record.details["text_nats"] = -found[0]
                return found[0]
            return found[0] / record.details["mean_of"], found[1]
        tokenizer = vars(self.lm).get("tokenizer")
        if isinstance(tokenizer, PreTrainedTokenizerBase):
            text = found if isinstance(found, str) else record.details["scored"]
            record.tokens = len(tokenizer.encode(text, add_special_tokens=False))
        return found


def _samples(arguments: Mapping[str, Any]) -> bool:
    """Returns whether generation arguments ask for a random answer."""
    return bool(arguments.get("do_sample")) or float(arguments.get("temperature") or 0) > 0


def _size(kind: str, arguments: Iterable[Any]) -> int:
    """Returns the characters of a request, and about as many as its answer may have."""
    texts = sum(len(str(part)) for part in arguments if not isinstance(part, Mapping))
    if kind != "generate_until":
        return texts
    (given, *_) = [part for part in arguments if isinstance(part, Mapping)]
    return texts + 4 * int(given.get("max_gen_toks") or 256)


def _plain(lm: Any, arguments: tuple[Any, ...]) -> tuple[Any, ...]:
    """Returns a request's arguments with the hole's length translated and our other keys removed.

    Upstream: `HFLM.generate_until` passes every generation argument to `transformers`, which
    rejects `hole` and `decode_*`.
    """
    context, given, *more = arguments
    if not any(is_our_argument(key) for key in given):
        return arguments
    kept = {key: value for key, value in given.items() if not is_our_argument(key)}
    if (hole := given.get(HOLE)) is not None:
        # it has to write the texts between several holes too
        between = sum(len(_Tokens(lm).encode(text)) for text in hole.between)
        open_tokens = hole_length(_Tokens(lm), replace(hole, suffix=""), context)  # type: ignore[arg-type]
        kept["max_gen_toks"] = open_tokens + between
    return (context, kept, *more)


def _tokenised(lm: Any, arguments: Sequence[Any]) -> tuple[Any, ...]:
    """Returns (context, choice, ids of the context, ids to score) of a choice that is encoded apart
    from its context.

    As in lm-eval, an empty context is the model's `prefix_token_id`.

    Raises:
        UserError: the model's class does not take tokens.
    """
    context, choice, _ = arguments
    form = form_of(arguments)
    assert form is not None
    _check_takes_tokens(lm, "encodes its choices apart from their context")
    head, target = encode_apart(_Tokens(lm), context, choice, form)  # type: ignore[arg-type]
    return context, choice, head or [lm.prefix_token_id], target


def _tokens(lm: Any, block: Block) -> tuple[Any, ...]:
    """Returns two texts (none), the ids of the context and those to score of a block.

    Raises:
        UserError: the model's class does not take tokens.
    """
    _check_takes_tokens(lm, "scores blocks of tokens")
    return "", "", *block.parts


def _check_takes_tokens(lm: Any, what: str) -> None:
    if not isinstance(lm, TemplateLM):
        raise UserError(
            f"this task {what}, and --model's class takes texts only; use hf, vllm or an API with a"
            " tokenizer"
        )


@dataclass(frozen=True)
class _Tokens:
    """The part of a Denoiser's interface that `hole_length` and `encode_apart` use."""

    lm: Any
    needs_bos: bool = False
    bos_id: int | None = None

    @property
    def text_start(self) -> tuple[int, ...]:
        plain, whole = (self.lm.tok_encode("a", add_special_tokens=on) for on in (False, True))
        return text_start_of(plain, whole)

    def encode(self, text: str) -> list[int]:
        found = self.lm.tok_encode(text, add_special_tokens=False)
        if isinstance(found, list) and all(isinstance(token, int) for token in found):
            return found
        return [0] * len(text)  # an API without a tokenizer: no more tokens than characters
