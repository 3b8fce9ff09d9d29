"""Task class for the perplexity per token of texts that are cut into blocks of equal length.

The papers on diffusion models encode all texts with the model's own tokenizer, join them, and score
blocks of 1024 tokens. The documents of such a task therefore depend on the model: until `cut_tasks`
they are the texts of the data set, afterwards the blocks. So `--limit`, shards, samples files and
standard errors count blocks. The YAML of such a task names the class:

    class: !function dlm_eval.harness.blocks.BlockTask
    output_type: loglikelihood_rolling
    doc_to_text: ""
    doc_to_target: text          # a column or a function
    process_results: !function dlm_eval.harness.blocks.block_results
    metadata:
      blocks: {length: 1024, eos_after_text: true, special_tokens: bos_and_eos, first_token: scored}

`--metadata block_length=256` overrides the length, for a model that reads less.

texts -> ids of each, with EOS -> 1000 rows joined -> blocks -> requests with a `Block`

Shape letters: N = blocks, L = tokens of a block.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain, islice
from typing import Any, Literal, Protocol, get_args, runtime_checkable

import numpy as np
from lm_eval.api.model import TemplateLM
from lm_eval.api.task import ConfigurableTask
from numpy.typing import NDArray

from dlm_eval.errors import SampleError, UserError
from dlm_eval.harness.model_kind import Loaded
from dlm_eval.harness.requests import BLOCK, Block
from dlm_eval.harness.task_metadata import settings_in
from dlm_eval.harness.text_lm import TextLM
from dlm_eval.models.denoiser import Denoiser, read_ahead

SpecialTokens = Literal["bos_and_eos", "none"]
FirstToken = Literal["scored", "given"]
ALLOWED = {"special_tokens": get_args(SpecialTokens), "first_token": get_args(FirstToken)}
KINDS = {
    "length": (int, "a whole number"),
    "rows": (int, "a whole number"),
    "eos_after_text": (bool, "true or false"),
}
LENGTH = "block_length"  # name of the length in --metadata


@dataclasses.dataclass(frozen=True)
class BlockSpec:
    """``metadata.blocks`` of a task.

    Attributes:
        length: L, tokens of a block, special ones included.
        eos_after_text: whether EOS follows each text.
        special_tokens: "bos_and_eos": each block begins with BOS and ends with EOS, within its
            length. "none": it has texts only.
        first_token: "scored" like all others, or "given" as context.
        rows: number of texts that are joined; what is left of them after the last whole block is
            dropped. `datasets` maps 1000 rows at a time, and so does the authors' code.
    """

    length: int = 1024
    eos_after_text: bool = True
    special_tokens: SpecialTokens = "bos_and_eos"
    first_token: FirstToken = "scored"
    rows: int = 1000

    @classmethod
    def from_metadata(cls, task: str, metadata: Mapping[str, Any] | None) -> BlockSpec:
        """Returns the settings of a task; the length of --metadata comes first.

        Raises:
            UserError: ``metadata.blocks`` is missing, or has an unknown key or value.
        """
        known = dict(metadata or {})
        names = [field.name for field in dataclasses.fields(cls)]
        values = settings_in(task, known, "blocks", "BlockTask", names, ALLOWED)
        for key, value in values.items():
            if key not in ALLOWED and type(value) is not KINDS[key][0]:
                raise UserError(
                    f"task '{task}': metadata.blocks {key} '{value}' is not allowed; it must be"
                    f" {KINDS[key][1]}"
                )
        spec = cls(**values)
        if LENGTH in known:
            spec = dataclasses.replace(spec, length=_whole(known[LENGTH]))
        if spec.length < 4 or spec.rows < 1:
            raise UserError(
                f"task '{task}': blocks of {spec.length} tokens from {spec.rows} rows are not"
                f" allowed; a block has 4 or more ({LENGTH} of --metadata), rows are 1 or more"
            )
        return spec

    @property
    def room(self) -> int:
        """Tokens of texts in a block."""
        return self.length - (2 if self.special_tokens == "bos_and_eos" else 0)

    def blocks(self, texts: Iterable[str], tokens: Tokens) -> NDArray[np.int32]:
        """Returns the blocks [N, L] of texts."""
        rows = iter(texts)
        found = [np.empty((0, self.length), dtype=np.int32)]
        while near := list(islice(rows, self.rows)):
            tokens.read_ahead(near)
            end = [tokens.eos_id] if self.eos_after_text else []
            joined = [id for text in near for id in chain(tokens.encode(text), end)]
            whole = len(joined) // self.room
            body = np.array(joined[: whole * self.room], dtype=np.int32).reshape(whole, self.room)
            found.append(self._enclosed(body, tokens))
        return np.concatenate(found)

    def _enclosed(self, body: NDArray[np.int32], tokens: Tokens) -> NDArray[np.int32]:
        if self.special_tokens == "none":
            return body
        column = np.ones((len(body), 1), dtype=np.int32)
        return np.concatenate([tokens.bos_id * column, body, tokens.eos_id * column], axis=1)


def _whole(value: Any) -> int:
    try:
        return int(str(value))
    except ValueError:
        raise UserError(
            f"--metadata {LENGTH} '{value}' is not allowed; it must be a whole number"
        ) from None


class Blocks(Sequence[dict[str, Any]]):
    """Documents of one block each: its number, its tokens, and how many of them are context.

    Args:
        tokens: [N, L] ids.
        given: number of tokens at the beginning of each block that are not scored.
    """

    def __init__(self, tokens: NDArray[np.int32], given: int) -> None:
        self._tokens, self._given = tokens, given

    def __len__(self) -> int:
        return len(self._tokens)

    def __getitem__(self, place: Any) -> Any:
        if isinstance(place, slice):
            return [self[number] for number in range(*place.indices(len(self)))]
        number = range(len(self))[place]
        return {"block": number, "given": self._given, "tokens": self._tokens[number].tolist()}

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return (self[number] for number in range(len(self)))


class BlockTask(ConfigurableTask):  # type: ignore[misc]
    """A ``loglikelihood_rolling`` task whose documents become blocks of tokens."""

    def __init__(self, config: Mapping[str, Any] | None = None, **_: Any) -> None:
        settings = {key: value for key, value in dict(config or {}).items() if key != "class"}
        name = settings.get("task", "?")
        self.spec = BlockSpec.from_metadata(name, settings.get("metadata"))
        self._blocks: Blocks | None = None
        if settings.get("output_type") != "loglikelihood_rolling":
            raise UserError(
                f"task '{name}': output_type '{settings.get('output_type')}' is not allowed for a"
                " BlockTask; it must be loglikelihood_rolling"
            )
        target = settings.get("doc_to_target")
        if isinstance(target, str) and "{" in target:
            raise UserError(
                f"task '{name}': doc_to_target '{target}' is not allowed for a BlockTask; it must"
                " be a column or a function, since lm-eval reads a rendered text in brackets as a"
                " list"
            )
        super().__init__(config=settings)

    def cut(self, tokens: Tokens) -> None:
        """Makes blocks of the texts; from now on the documents are the blocks.

        Raises:
            UserError: the blocks do not fit the model, or the texts do not fill one.
        """
        name, spec = self.config.task, self.spec
        most = tokens.max_length
        if most is not None and spec.length > most:
            raise UserError(
                f"task '{name}': blocks of {spec.length} tokens do not fit the model's {most}"
                f" positions; --metadata {LENGTH}={most} makes shorter ones, whose perplexities are"
                " not those of papers"
            )
        self._blocks = None
        try:
            found = spec.blocks((self.doc_to_target(doc) for doc in self.eval_docs), tokens)
        except SampleError as error:
            raise UserError(f"task '{name}' cannot be cut into blocks: {error}") from None
        if not len(found):
            raise UserError(f"task '{name}': its texts do not fill a block of {spec.length} tokens")
        needed = 1 if tokens.needs_first else 0
        self._blocks = Blocks(found, max(needed, 1 if spec.first_token == "given" else 0))

    @property
    def eval_docs(self) -> Any:
        """The blocks, or the data set's documents before they are cut."""
        return super().eval_docs if self._blocks is None else self._blocks

    def doc_to_target(self, doc: Any, doc_to_target: Any = None) -> Any:
        """Returns the text of a document; "" of a block."""
        return super().doc_to_target(doc, doc_to_target) if self._blocks is None else ""

    def fewshot_context(self, *_: Any, **__: Any) -> str:
        """Returns "": a whole text, or a block, is scored without a prompt."""
        return ""

    def construct_requests(self, doc: dict[str, Any], ctx: str, **kwargs: Any) -> Any:
        """Returns lm-eval's request, with the block in place of the text."""
        built = super().construct_requests(doc, ctx, **kwargs)
        if self._blocks is not None:
            block = Block(tuple(doc["tokens"]), doc["given"])
            for instance in built if isinstance(built, list) else [built]:
                instance.arguments = ("", {BLOCK: block})
        return built


def block_results(doc: Mapping[str, Any], results: Sequence[float]) -> dict[str, Any]:
    """Returns the log-likelihood (nats) of a block and its number of scored tokens."""
    return {"token_perplexity": (results[0], len(doc["tokens"]) - doc["given"])}


# -- the model's tokens ----------------------------------------------------------------------------


class Tokens(Protocol):
    """What blocks are made with.

    Attributes:
        bos_id, eos_id: ids that begin and end a text.
        max_length: positions of the model; None if unknown.
        needs_first: whether the first token of a block cannot be predicted.
    """

    @property
    def bos_id(self) -> int: ...
    @property
    def eos_id(self) -> int: ...
    @property
    def max_length(self) -> int | None: ...
    @property
    def needs_first(self) -> bool: ...

    def read_ahead(self, texts: Sequence[str]) -> None:
        """Prepares `encode` for these texts."""
        ...

    def encode(self, text: str) -> list[int]:
        """Returns the ids of a text, without special tokens."""
        ...


@dataclasses.dataclass(frozen=True)
class DenoiserTokens:
    """Those of a denoiser. Without BOS, EOS takes its place, as the two are one in GPT-2."""

    model: Denoiser

    @property
    def eos_id(self) -> int:
        if not self.model.eos_ids:
            raise UserError(f"{self.model.name} has no end-of-text token to put between texts")
        return self.model.eos_ids[0]

    @property
    def bos_id(self) -> int:
        return self.eos_id if self.model.bos_id is None else self.model.bos_id

    @property
    def max_length(self) -> int:
        return self.model.max_length

    @property
    def needs_first(self) -> bool:
        return self.model.needs_bos

    def read_ahead(self, texts: Sequence[str]) -> None:
        read_ahead(self.model, texts)

    def encode(self, text: str) -> list[int]:
        return self.model.encode(text)


@runtime_checkable
class _Limited(Protocol):
    max_length: int


@dataclasses.dataclass(frozen=True)
class LmTokens:
    """Those of one of lm-eval's own models, which predicts a token from those before it."""

    lm: TemplateLM
    needs_first: bool = True

    @property
    def eos_id(self) -> int:
        return int(self.lm.eot_token_id)

    @property
    def bos_id(self) -> int:
        return int(self.lm.prefix_token_id)

    @property
    def max_length(self) -> int | None:
        return int(self.lm.max_length) if isinstance(self.lm, _Limited) else None

    def read_ahead(self, texts: Sequence[str]) -> None:
        pass

    def encode(self, text: str) -> list[int]:
        found = self.lm.tok_encode(text, add_special_tokens=False)
        if not isinstance(found, list) or not all(isinstance(token, int) for token in found):
            raise SampleError("the model has no tokenizer on this machine")
        return found


def cut_tasks(tasks: Mapping[str, Any], loaded: Loaded) -> dict[str, BlockTask]:
    """Cuts the texts of every `BlockTask` with the tokenizer of the run's model; returns these.

    Raises:
        UserError: the model has no tokenizer, or the texts cannot be cut.
    """
    own = {name: task for name, task in tasks.items() if isinstance(task, BlockTask)}
    for name, task in own.items():
        task.cut(_tokens_of(name, loaded))
    return own


def _tokens_of(task: str, loaded: Loaded) -> Tokens:
    if loaded.model is not None:
        return DenoiserTokens(loaded.model)
    if isinstance(loaded.lm, TextLM) and isinstance(loaded.lm.lm, TemplateLM):
        return LmTokens(loaded.lm.lm)
    raise UserError(
        f"task '{task}' cuts its texts by the model's own tokenizer, and --model {loaded.name} has"
        " none"
    )
