"""Task classes for YAMLs: infilling or completion of a set length, and samples that a judge scores.

The YAML of an infilling task names the class, the suffix and the length:

    class: !function dlm_eval.harness.infill.InfillTask
    metadata:
      infill: {suffix: "{{suffix}}", length: oracle+10, reference: answer.aliases}

The task then adds a `Hole` to the generation arguments of each request, under the name "hole". It
has the length ("oracle", "oracle+K" or a number of tokens), the text after the hole, and the
references. The oracle length is the length of the longest reference in tokens.

If a judge scores the samples (metrics/samples.py), the task's metadata names the judge. On the
command line, `--metadata judge=ID_OR_DIR,judge_device=cuda:1,n_samples=256` overrides it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, get_args

from jinja2 import TemplateError
from lm_eval import utils
from lm_eval.api.task import ConfigurableTask

from dlm_eval.decoding import resolve
from dlm_eval.decoding.strategy import not_revising
from dlm_eval.errors import SampleError, UserError, unknown_name_error
from dlm_eval.harness.decode_config import DecodeOptions
from dlm_eval.harness.requests import HOLE, Hole, Length, SpecialTokens
from dlm_eval.metrics import brier
from dlm_eval.metrics.samples import find_judge
from dlm_eval.printable import counted
from dlm_eval.settings import shown

MEASURES = ("alone", "in_place", "canvas")
SPECIAL_TOKENS = get_args(SpecialTokens)
JUDGE = "gpt2-large"  # of DiffuGPT, SEDD and MDLM


@dataclasses.dataclass(frozen=True)
class InfillSpec:
    """``metadata.infill`` of a task; every field may be a jinja template over the document.

    Attributes:
        length: "oracle", "oracle+K", or a number of tokens.
        suffix: Text after the hole; None if there is none (a completion of fixed length).
        reference: Source of the oracle length: a template or function that returns a text, or the
            name of a column with a text or a list of texts (``answer.aliases`` for a nested one).
        measure: How the length is counted. "alone": tokens of a reference by itself. "in_place":
            tokens that a reference adds after the prefix, for words that follow a space. "canvas":
            number of tokens of prefix, hole and suffix together.
        special_tokens: What stands before the prefix. "model": BOS if the model needs it.
            "tokenizer": what the checkpoint's tokenizer puts before a text. "none": nothing.
        between: Source of the texts between several holes, each `length` tokens long: a function
            that returns a list of texts, or the name of a column with one. The answer is the texts
            in the holes with those between them.
        draft: Source of the text that the hole begins with, or of a list of texts, one for each of
            several holes: a function, a template or the name of a column. The strategy must revise
            written tokens.
    """

    length: str
    suffix: str | None = None
    reference: str | Callable[[dict[str, Any]], str | list[str]] | None = None
    measure: str = "alone"
    special_tokens: SpecialTokens = "model"
    between: str | Callable[[dict[str, Any]], list[str]] | None = None
    draft: str | Callable[[dict[str, Any]], str | list[str]] | None = None

    @classmethod
    def from_metadata(cls, task: str, metadata: Mapping[str, Any] | None) -> InfillSpec:
        """Returns the settings of a task.

        Raises:
            UserError: ``metadata.infill`` is missing, has an unknown key, or has an invalid length.
        """
        values = (metadata or {}).get("infill")
        if not isinstance(values, Mapping) or "length" not in values:
            raise UserError(f"task '{task}': an InfillTask needs metadata.infill with a 'length'")
        allowed = [field.name for field in dataclasses.fields(cls)]
        for key in values:
            if key not in allowed:
                raise unknown_name_error(f"task '{task}': metadata.infill key", key, allowed)
        spec = cls(**{**values, "length": str(values["length"])})
        _check_sources(task, spec)
        if spec.measure not in MEASURES:
            raise unknown_name_error(
                f"task '{task}': metadata.infill measure", spec.measure, MEASURES
            )
        if spec.special_tokens not in SPECIAL_TOKENS:
            raise unknown_name_error(
                f"task '{task}': metadata.infill special_tokens",
                str(spec.special_tokens),
                SPECIAL_TOKENS,
            )
        if "{{" not in spec.length:
            _length(task, spec.length)
        if "oracle" in spec.length and spec.reference is None:
            raise UserError(
                f"task '{task}': metadata.infill length '{spec.length}' needs a 'reference'"
            )
        if spec.between is not None and ("oracle" in spec.length or spec.measure != "alone"):
            raise UserError(
                f"task '{task}': metadata.infill has texts 'between' several holes; then 'length' "
                f"must be the number of tokens of each, and 'measure' alone"
            )
        return spec

    def hole(self, task: str, doc: dict[str, Any]) -> Hole:
        """Returns the hole of one document.

        Raises:
            UserError: a column is missing.
            SampleError: the document's length is not allowed, its `reference`, `between` or `draft`
                is neither a text nor a list of texts, or there are not as many drafts as holes.
        """
        try:
            length = _length(task, utils.apply_template(self.length, doc))
        except UserError as error:  # of this document: that of all was checked before
            raise SampleError(str(error)) from None
        between = () if self.between is None else _texts_of("between", self.between, doc)
        drafts = () if self.draft is None else _texts_of("draft", self.draft, doc)
        if self.draft is not None and len(drafts) != len(between) + 1:
            raise SampleError(
                f"metadata.infill draft has {counted(len(drafts), 'text')} for "
                f"{counted(len(between) + 1, 'hole')}"
            )
        return Hole(
            length,
            "" if self.suffix is None else utils.apply_template(self.suffix, doc),
            () if self.reference is None else _texts_of("reference", self.reference, doc),
            self.measure,
            self.special_tokens,
            between,
            drafts,
        )

    def any_hole(self) -> Hole | None:
        """Returns a hole of the length of all documents; None if each document has its own."""
        return None if "{{" in self.length else Hole(Length.parse(self.length))


class InfillTask(ConfigurableTask):  # type: ignore[misc]
    """A ``generate_until`` task whose requests carry the suffix and the length of the hole."""

    def __init__(self, config: Mapping[str, Any] | None = None, **_: Any) -> None:
        settings = {key: value for key, value in dict(config or {}).items() if key != "class"}
        self.infill = InfillSpec.from_metadata(settings.get("task", "?"), settings.get("metadata"))
        settings["metadata"] = _printable(settings["metadata"])
        super().__init__(config=settings)
        try:  # find a wrong template before a model is loaded
            self.infill.hole(self.config.task, self.task_docs[0])
        except (SampleError, TemplateError) as error:
            reason = str(error).removeprefix(f"task '{self.config.task}': ")
            raise UserError(f"task '{self.config.task}': document 0: {reason}") from error

    def construct_requests(self, doc: dict[str, Any], ctx: str, **kwargs: Any) -> Any:
        """Returns lm-eval's requests with the hole added to their generation arguments."""
        built = super().construct_requests(doc, ctx, **kwargs)
        hole = self.infill.hole(self.config.task, doc)
        for instance in built if isinstance(built, list) else [built]:  # a list from lm-eval 0.5 on
            context, arguments = instance.arguments[:2]
            instance.arguments = (context, {**arguments, HOLE: hole})
        return built


def begins_with_draft(task: Any) -> bool:
    """Returns whether a task's holes begin with a draft."""
    return isinstance(task, InfillTask) and task.infill.draft is not None


def check_drafts(options: DecodeOptions, tasks: Mapping[str, Any]) -> None:
    """Raises UserError if a task begins with a draft and its strategy does not revise tokens."""
    for name, task in tasks.items():
        if not begins_with_draft(task) or options.user.get("preset") == "authors":
            continue
        strategy = resolve(
            *options.request(task.config.generation_kwargs or {}, name).layers
        ).strategy
        if not strategy.revises:
            raise UserError(f"task '{name}': {not_revising(strategy)}")


def _check_sources(task: str, spec: InfillSpec) -> None:
    """Raises UserError if a setting is not of a form that can be looked up in a document."""
    for name, value in (
        ("suffix", spec.suffix),
        ("reference", spec.reference),
        ("between", spec.between),
        ("draft", spec.draft),
    ):
        if value is None or isinstance(value, str) or (callable(value) and name != "suffix"):
            continue
        allowed = "a template" if name == "suffix" else "a column, a template or a !function"
        raise UserError(
            f"task '{task}': metadata.infill {name} '{shown(value)}' is not allowed; it must be "
            f"{allowed}"
        )


def _texts_of(
    name: str, source: str | Callable[[dict[str, Any]], str | list[str]], doc: dict[str, Any]
) -> tuple[str, ...]:
    if callable(source):
        found = source(doc)
    elif "{{" in source:
        found = utils.apply_template(source, doc)
    else:
        found = _column(name, source, doc)
    if isinstance(found, str):
        return (found,)
    if not isinstance(found, (list, tuple)) or not all(isinstance(text, str) for text in found):
        raise SampleError(
            f"metadata.infill {name} is '{shown(found)}'; it must be a text or a list of texts"
        )
    return tuple(found)


def _column(setting: str, name: str, doc: dict[str, Any]) -> Any:
    value: Any = doc
    for part in name.split("."):
        if value is None:  # of this document
            return None
        if not isinstance(value, Mapping) or part not in value:
            raise UserError(
                f"metadata.infill {setting} '{name}' is not a column of the document: "
                f"{', '.join(doc)}"
            )
        value = value[part]
    return value


def _length(task: str, text: str) -> Length:
    try:
        return Length.parse(text)
    except ValueError:
        raise UserError(
            f"task '{task}': metadata.infill length '{text.strip()}' must be oracle, oracle+K or a "
            "number > 0"
        ) from None


def _printable(metadata: Mapping[str, Any]) -> dict[str, Any]:
    # Metadata is written to the results file, in which a function would appear with its memory
    # address.
    infill = {
        k: f"{v.__module__}.{v.__qualname__}" if callable(v) else v
        for k, v in metadata["infill"].items()
    }
    return {**metadata, "infill": infill}


class SampleTask(ConfigurableTask):  # type: ignore[misc]
    """An lm-eval ``generate_until`` task whose samples a judge scores.

    The judge is the third argument of its ``process_results``.
    """

    def __init__(self, config: Mapping[str, Any] | None = None, **_: Any) -> None:
        settings = {key: value for key, value in dict(config or {}).items() if key != "class"}
        metadata = dict(settings.get("metadata") or {})
        self.judge = find_judge(
            str(metadata.get("judge") or JUDGE), str(metadata.get("judge_device") or "auto")
        )
        # no folder of this machine in results
        shown = {"judge": self.judge.folder.name, "judge_commit": self.judge.folder.commit}
        super().__init__(config={**settings, "metadata": {**metadata, **shown}})

    def process_results(self, doc: dict[str, Any], results: Sequence[str]) -> dict[str, Any]:
        """Returns the result of the YAML's function for one sample."""
        found: dict[str, Any] = self.config.process_results(doc, results, self.judge)
        return found


class InfillSampleTask(SampleTask, InfillTask):
    """The same with text after the hole."""


class BrierTask(InfillSampleTask):
    """Samples that follow a passage at one or several of its places (metrics/brier.py).

    ``metadata.places`` is their number, or "all": every word of the continuation.
    """

    def __init__(self, config: Mapping[str, Any] | None = None, **_: Any) -> None:
        super().__init__(config=config)
        self._places = _place_count(self.config.metadata.get("places", 1), self.task_docs[0])

    def construct_requests(self, doc: dict[str, Any], ctx: str, **kwargs: Any) -> list[Any]:
        """Returns a request for each place."""
        contexts = [context for context, _ in brier.places(doc, self._places)]
        if len(contexts) > 1 and not ctx.endswith(contexts[0]):
            raise UserError(
                f"--metadata places '{self._places}' is not possible with a chat template, which "
                "ends the passage; leave one of them out"
            )
        head = ctx.removesuffix(contexts[0]) if len(contexts) > 1 else ""
        built = [
            super(BrierTask, self).construct_requests(doc, head + context, **kwargs)
            for context in (contexts if len(contexts) > 1 else [ctx])
        ]
        requests = [one for each in built for one in (each if isinstance(each, list) else [each])]
        for number, request in enumerate(requests):
            request.idx = number
        return requests


def _place_count(value: Any, doc: Mapping[str, Any]) -> int:
    most = len(doc["truth"].split())
    count = most if value == "all" else value
    if type(count) is not int or not 1 <= count <= most:
        raise UserError(
            f"--metadata places '{shown(value)}' is not allowed; it must be 1 to {most}, or all"
        )
    return count
