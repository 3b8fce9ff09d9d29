"""lm-eval's own models (`hf`, `local-completions`, the packaged baselines) with our journal,
workers and progress.

`Baseline` is such a model as the settings describe it. `TextLM` has lm-eval's LM interface. It
turns requests into text jobs (`jobs.TextJob`), which `workers/texts.py` answers.

These models cannot use the text after a hole. On an infilling task they get only the prefix and the
hole's number of tokens, as the baselines in the papers did.
"""

from __future__ import annotations

import functools
import inspect
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from lm_eval.api.instance import Instance
from lm_eval.api.model import LM, TemplateLM
from lm_eval.api.registry import get_model
from transformers import PreTrainedTokenizerBase

from dlm_eval.answers import Answering, journal_key
from dlm_eval.errors import DlmEvalError, SampleError, UserError
from dlm_eval.harness.decode_config import is_our_argument
from dlm_eval.harness.lm_eval_patches import bounded_chat_template
from dlm_eval.harness.requests import HOLE, UnbuiltPrompt, encode_apart, form_of, hole_length
from dlm_eval.harness.requirements import missing_package
from dlm_eval.harness.results import Record, is_in_shard, records_of
from dlm_eval.harness.run_settings import RunSettings
from dlm_eval.harness.sample_errors import reason_of
from dlm_eval.harness.shard import Shard
from dlm_eval.jobs import Answer, Done, Job, Keep, Reply, TextJob, keep_none
from dlm_eval.journal import Journal
from dlm_eval.models import baselines, packaged_asset
from dlm_eval.models.tokenizer import text_start_of
from dlm_eval.models.weight_files import hash_weights
from dlm_eval.progress import Progress
from dlm_eval.redaction import redact, redact_text
from dlm_eval.rng import digest
from dlm_eval.workers import Pool
from dlm_eval.workers.devices import worker_devices
from dlm_eval.workers.texts import TOKENS, identity_of, make_lm, seed_draws

# Arguments that do not change answers: devices, batches, the connection to a server.
LAYOUT = (
    "device", "device_map", "batch_size", "max_batch_size", "parallelize", "max_memory_per_gpu", "max_cpu_memory",
    "offload_folder", "num_concurrent", "max_retries", "timeout", "verify_certificate", "ca_cert_path",
)  # fmt: skip
REMOTE = "remote"
ASSET = "asset:"  # before the name of weights that travel with the package
LOCAL = {"pretrained", "dtype", "device", "devices"}  # arguments of classes that load weights
BLANK: dict[str, Any] = {
    "loglikelihood": (float("-inf"), False),
    "loglikelihood_rolling": float("-inf"),
    "generate_until": "",
}


@dataclass(frozen=True)
class Baseline:
    """One of lm-eval's own models, as the settings describe it.

    Attributes:
        asked: value of --model.
        name: lm-eval's name of the model class.
        arguments: arguments of the class, with secrets.
        extra: arguments that apply unless `arguments` has them: batch size and device.
        checkpoint: name for folders and tables.
    """

    asked: str
    name: str
    arguments: Mapping[str, Any]
    extra: Mapping[str, Any]
    checkpoint: str

    @classmethod
    def of(cls, settings: RunSettings, device: str | None = None) -> Baseline:
        """Returns the model of a run's settings on `device` (default: the first GPU, else the
        CPU).
        """
        name, arguments = settings.model, dict(settings.model_args)
        if name in baselines():
            own = dict(baselines()[name]["options"])
            if own["pretrained"].startswith(ASSET):
                own["pretrained"] = str(packaged_asset(own["pretrained"].removeprefix(ASSET)))
            name, arguments = "hf", {**own, **arguments}
        extra = {
            "batch_size": settings.batch_size or 1,
            "max_batch_size": settings.max_batch_size,
            "device": device or _default_device(),
        }
        source = str(arguments.get("pretrained") or arguments.get("model") or settings.model)
        return cls(settings.model, name, arguments, extra, redact_text(_folder_name(source)))

    @property
    def facts(self) -> dict[str, Any]:
        """The model's identity in results."""
        shown = {key: value for key, value in self.arguments.items() if key != "pretrained"}
        return {"family": self.name, "checkpoint": self.checkpoint, **redact(shown)}

    @functools.cached_property
    def fingerprint(self) -> str:
        """Hash of everything that can change an answer, as far as it is known here.

        Local files are identified by their content. Hub names, and a server by its address, are
        identified by name.
        """
        given = {key: value for key, value in self.arguments.items() if key not in LAYOUT}
        return digest(
            "lm_eval", self.name, redact({key: _content(value) for key, value in given.items()})
        )

    @property
    def kind(self) -> type[LM]:
        """lm-eval's class."""
        found: type[LM] = get_model(self.name)
        return found

    @property
    def is_remote(self) -> bool:
        """Whether the model runs on a server: its class takes neither weights nor a device."""
        from lm_eval.models.api_models import TemplateAPI

        if issubclass(self.kind, TemplateAPI):
            return True
        taken = {
            name
            for kind in self.kind.__mro__
            if "__init__" in vars(kind)
            for name in inspect.signature(vars(kind)["__init__"]).parameters
        }
        return not taken & LOCAL

    @property
    def is_transformers(self) -> bool:
        """Whether it is `hf` or derived from it: it can run in workers."""
        from lm_eval.models.huggingface import HFLM

        return issubclass(self.kind, HFLM)

    def load(self) -> LM:
        """Returns the model.

        Raises:
            UserError: it cannot be made.
        """
        return self._made(lambda: make_lm(self.kind, self.arguments, self.extra))

    def load_without_weights(self) -> LM:
        """Returns the model for prompts and lengths: it has a tokenizer, but no weights if it is a
        model of transformers.

        Raises:
            UserError: it cannot be made.
        """

        def make() -> LM:
            if not self.is_transformers:
                return make_lm(self.kind, self.arguments, self.extra)
            places = ("device", "device_map", "parallelize")
            given = {key: value for key, value in self.arguments.items() if key not in places}
            return make_lm(_without_weights(self.kind), {**given, "device": "cpu"}, self.extra)

        return self._made(make)

    def _made(self, make: Callable[[], LM]) -> LM:
        """Returns `make()`, with the chat template bounded."""
        try:
            lm = make()
        except (OSError, ValueError, TypeError, KeyError, ImportError) as error:
            if needed := missing_package(error):
                raise UserError(f"--model '{self.name}' {needed}") from error
            reason = (str(error).strip().splitlines() or [""])[0]
            raise UserError(
                f"--model '{self.name}' cannot be made with {dict(self.arguments)}:"
                f" {type(error).__name__}: {reason}"
            ) from error
        bounded_chat_template(lm, self.checkpoint)
        return lm

    def device_of(self, lm: LM) -> str:
        """Returns the device for results: 'remote', or where the model runs in this process."""
        if self.is_remote:
            return REMOTE
        return str(lm.device or {**self.extra, **self.arguments}["device"])


def check_places(settings: RunSettings) -> None:
    """Raises UserError if the settings ask for workers and lm-eval's model cannot run in any."""
    asked = "devices" if settings.devices else "engine" if settings.engine != "local" else None
    if asked is None:
        return
    baseline, model = Baseline.of(settings), f"--model '{settings.model}'"
    try:
        remote, several = baseline.is_remote, baseline.is_transformers
    except ImportError:
        return  # `load` has the message
    if remote:
        raise UserError(
            f"--{asked} means nothing to {model}, which is remote; leave it out (num_concurrent=N"
            " in --model_args asks N at once)"
        )
    if not several and (settings.engine != "local" or worker_devices(settings.devices, "local")):
        raise UserError(
            f"--{asked} '{getattr(settings, asked)}' is not possible with {model}: of lm-eval's"
            " own models, only hf and those derived from it run in workers"
        )


def _without_weights(kind: type[LM]) -> type[LM]:
    """Returns lm-eval's transformers model without weights: its parameters have no memory."""

    class WithoutWeights(kind):  # type: ignore[misc,valid-type]
        def _create_model(self, *args: Any, dtype: Any = "auto", **options: Any) -> None:
            from lm_eval.models.utils_hf import get_dtype

            wanted = {} if dtype in (None, "auto") else {"dtype": get_dtype(dtype)}
            trust = bool(options.get("trust_remote_code"))
            with torch.device("meta"):
                model = self.AUTO_MODEL_CLASS.from_config(
                    self.config, trust_remote_code=trust, **wanted
                )
            model.to = lambda *_, **__: model
            self._model = model

    return WithoutWeights


def _folder_name(source: str) -> str:
    return Path(source).name if os.path.exists(source) else source


def _default_device() -> str:
    return "cuda:0" if torch.cuda.is_available() else "cpu"


def _content(value: Any) -> Any:
    """Returns a hash of the content if an argument is the path of a file or folder, else it."""
    if not isinstance(value, str) or not os.path.exists(value):
        return value
    place = Path(value)
    files = sorted(place.rglob("*")) if place.is_dir() else [place]
    files = [file for file in files if file.is_file() and file.suffix != ".md"]
    names = [str(file.relative_to(place)) for file in files] if place.is_dir() else [place.name]
    small = [file for file in files if file.suffix in (".json", ".txt", ".jinja", ".model")]
    large = [file for file in files if file not in small]
    return digest("content", names, hash_weights(small), hash_weights(large))


# -- the model of a run ----------------------------------------------------------------------------


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
        self.lm, self.pool, self.options, self.journal = lm, pool, options, journal
        self.fingerprint = baseline.fingerprint
        self.records: list[Record] = []
        self.failed: dict[str, Answer] = {}  # answers that are errors, by key
        self._device = baseline.device_of(lm)

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
        return self._answer(requests, "loglikelihood")

    def loglikelihood_rolling(self, requests: list[Instance]) -> list[float]:
        return self._answer(requests, "loglikelihood_rolling")

    def generate_until(self, requests: list[Instance]) -> list[str]:
        return self._answer(requests, "generate_until")

    def _answer(self, requests: Sequence[Instance], kind: str) -> list[Any]:
        """Returns the model's answers; a blank one, and a record with the reason, for a request
        that fails. A request of another shard gets a blank answer and no record.
        """
        ours = [self._is_ours(request) for request in requests]
        own = [request for request, is_ours in zip(requests, ours, strict=True) if is_ours]
        title = "generation" if kind == "generate_until" else "likelihood"
        records = list(records_of(own, title))
        asked = [self._job(kind, one, record) for one, record in zip(own, records, strict=True)]
        jobs = [job for job in asked if job is not None]
        count = len(set(jobs))

        def run(missing: Iterable[Job], done: Done, keep: Keep = keep_none) -> None:
            left = list(missing)
            if len(left) < count:  # it continues another run, which drew before
                seed_draws(job for job in left if isinstance(job, TextJob))
            self.pool.run(left, done, keep)

        with Progress(title, 0, self.options.quiet, self.pool.busy) as progress:
            answering = Answering(run, self.fingerprint, self.journal)
            found = iter(answering.answers(answering.add(jobs, progress)))
        results = []
        for request, job, record in zip(own, asked, records, strict=True):
            results.append(
                BLANK[kind]
                if job is None
                else self._finish(kind, request, job, next(found), record)
            )
        self.records.extend(records)
        finished = iter(results)
        return [next(finished) if is_ours else BLANK[kind] for is_ours in ours]

    def _is_ours(self, request: Instance) -> bool:
        """Returns whether a request's document belongs to this run's shard."""
        return is_in_shard(request, self.options.shard, self.options.chosen)

    def _job(self, kind: str, request: Instance, record: Record) -> TextJob | None:
        """Returns the job of a request; None if it fails, and its record has the reason."""
        record.rows, method = None, kind
        try:
            if isinstance(request.args[0], UnbuiltPrompt):
                raise SampleError(request.args[0])
            arguments = request.args
            if kind == "generate_until":
                arguments = _plain(self.lm, arguments)
            elif kind == "loglikelihood" and form_of(arguments) is not None:
                method, arguments = TOKENS, _tokenised(self.lm, arguments)
            identity = identity_of(kind, arguments)
        except SampleError as error:
            record.error = str(error)
            return None
        except DlmEvalError:
            raise
        except Exception as error:  # a tokenizer may raise anything
            record.error = reason_of(error)
            return None
        draw = ""
        if kind == "generate_until" and _samples(arguments[1]):
            draw = digest(
                self.options.seed, record.task, record.doc, request.idx, record.repeat, identity
            )
        return TextJob(method, arguments, identity, draw, _size(kind, arguments[:2]))

    def _finish(
        self, kind: str, request: Instance, job: TextJob, answer: Answer, record: Record
    ) -> Any:
        """Returns lm-eval's answer; fills the record."""
        record.seconds, record.error = answer.seconds, answer.error
        if answer.error is not None:
            self.failed[journal_key(self.fingerprint, job)] = answer
            return BLANK[kind]
        assert isinstance(answer.value, Reply)
        found = answer.value.content
        if job.kind == TOKENS:
            assert isinstance(found, tuple)
            record.tokens, form = len(job.arguments[3]), form_of(request.args)
            mean = form is not None and form.score == "mean"
            return found[0] / (record.tokens if mean else 1), found[1]
        tokenizer = vars(self.lm).get("tokenizer")
        if isinstance(tokenizer, PreTrainedTokenizerBase):
            text = found if isinstance(found, str) else job.arguments[-1]
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
        kept["max_gen_toks"] = hole_length(_Tokens(lm), replace(hole, suffix=""), context)  # type: ignore[arg-type]
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
    if not isinstance(lm, TemplateLM):
        raise UserError(
            "this task encodes its choices apart from their context, and --model's class takes"
            " texts only; use hf, vllm or an API with a tokenizer"
        )
    head, target = encode_apart(_Tokens(lm), context, choice, form)  # type: ignore[arg-type]
    return context, choice, head or [lm.prefix_token_id], target


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
