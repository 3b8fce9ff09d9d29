"""What a model is to the rest of the package: a `Denoiser`, and what only some models have.

`Denoiser` is the core that every model has. Each protocol below it is optional: the package asks
for it with `offers`, and does without it if the model lacks its members. No base class is needed.

Shape letters: B = rows of a batch, L = positions, V = vocabulary, N = wanted positions of the
batch,
S = 2 x layers, h = heads, R = cached positions, d = head size, C = classes, D = embedding size.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any, Literal, Protocol, cast, runtime_checkable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dlm_eval.canvas import BLANK, Canvas
from dlm_eval.errors import SampleError

if TYPE_CHECKING:
    from dlm_eval.models.feature_cache import Features, Plan
    from dlm_eval.models.kv_cache import BatchKV
    from dlm_eval.models.probes import CacheTest

Process = Literal["absorbing", "uniform", "gaussian", "canvas"]
Attention = Literal["full", "block", "causal"]
NO_MASK = -1  # mask id of models that have none


@runtime_checkable
class Denoiser(Protocol):
    """A diffusion language model with its tokenizer.

    Shift, time conditioning, special ids, attention mask and vocabulary trimming stay behind this
    interface.

    Attributes:
        name: family and checkpoint, for messages and results.
        mask_id: id of the mask token; `NO_MASK` if the process is not 'absorbing'.
        mask_is_regular_token: whether ordinary text can contain the mask id.
        eos_ids: ids that end a text, the canonical one first; () if no token does.
        bos_id: id that begins a text, or None.
        pad_id: id for padding. It is never attended to.
        vocab_size: V, the length of the logits.
        max_length: longest sequence that the model reads, in positions.
        needs_bos: whether position 0 has no prediction of its own, so that it must hold `bos_id`.
        attention: 'full', 'block' (block-causal, `block_length` positions) or 'causal'.
        block_length: block size of a block-causal model, else None.
        process: corruption that the model was trained to undo. 'canvas' is uniform noise with
            self-conditioning, in canvases behind a given text.
    """

    name: str
    mask_id: int
    mask_is_regular_token: bool
    eos_ids: tuple[int, ...]
    bos_id: int | None
    pad_id: int
    vocab_size: int
    max_length: int
    needs_bos: bool
    attention: Attention
    block_length: int | None
    process: Process

    def encode(self, text: str) -> list[int]:
        """Returns the ids of `text`, with no special token added."""
        ...

    def decode(self, ids: Sequence[int]) -> str:
        """Returns the text of `ids` without special tokens."""
        ...

    def apply_chat_template(
        self, messages: list[dict[str, str]], add_generation_prompt: bool = True
    ) -> str:
        """Returns the conversation as prompt text.

        With `add_generation_prompt` the header of an answer follows; without it the last message
        stays open.
        """
        ...

    def logits(
        self, tokens: Tensor, valid: Tensor | None = None, positions: Tensor | None = None
    ) -> Tensor:
        """Returns float32 logits of the token AT each wanted position.

        Args:
            tokens: [B, L] long.
            valid: [B, L] bool, false at padding; None if no row is padded.
            positions: None for all ([B, L, V] is returned), [P] long for the same positions of
                every row ([B, P, V]), or [B, L] bool for any ([N, V], row by row).
        """
        ...

    def describe(self) -> dict[str, Any]:
        """Returns what identifies the model in a fingerprint.

        That is everything that changes an answer: family, checkpoint, revision, hashes, dtype, ids.
            Boards
        read `family`, `checkpoint` (else `pretrained`) and `revision` of it, results also `dtype`.
        """
        ...


# -- optional: facts, each with a default ----------------------------------------------------------


class OnDevice(Protocol):
    """A denoiser whose tokens go to `device`. Without it, they are given to it on the CPU."""

    device: torch.device | str


class InPrecision(Protocol):
    """A denoiser whose weights have a `dtype`. Without it, float32 is assumed."""

    dtype: torch.dtype


class BatchInvariance(Protocol):
    """A denoiser that says whether a row's bits are independent of its batch mates.

    With `batch_invariant = False` rows run one by one on a CPU, to be reproducible. Without it,
    rows of equal length are taken to be independent.
    """

    batch_invariant: bool


class Padding(Protocol):
    """A denoiser that says whether `logits` hides positions whose `valid` is false. Without it, it
    does.

    A network without an attention mask has `padding = False`: rows of different lengths never share
    a batch, and `valid` is always None.
    """

    padding: bool


class EmbeddingRows(Protocol):
    """A denoiser that reads another number of ids than it predicts. Without it, both are V."""

    embedding_rows: int


class BosOnlyIfEmpty(Protocol):
    """A denoiser with `needs_bos` that was trained on texts without BOS.

    With `bos_only_if_empty` BOS is put only before an empty prompt.
    """

    bos_only_if_empty: bool


# -- optional: texts -------------------------------------------------------------------------------


@runtime_checkable
class ChatTemplates(Protocol):
    """A denoiser whose chat template can be chosen by name (`chat_templates`: their texts)."""

    @property
    def chat_templates(self) -> Mapping[str, str]: ...

    def apply_chat_template(
        self,
        messages: list[dict[str, str]],
        add_generation_prompt: bool = True,
        template: str | None = None,
    ) -> str:
        """Returns the conversation by the template of that name, None for the default."""
        ...


class TextStart(Protocol):
    """A denoiser that knows the special ids that its tokenizer puts before a text (`text_start`).

    Without it, there are none.
    """

    @property
    def text_start(self) -> Sequence[int]: ...


class TokenNames(Protocol):
    """A denoiser that can name a token without text of its own (a part of a character)."""

    def token_name(self, token: int) -> str | None:
        """Returns the tokenizer's name of the id, or None."""
        ...


class ReadAhead(Protocol):
    """A denoiser that encodes many texts in less time than one after the other."""

    def read_ahead(self, texts: Sequence[str]) -> None:
        """Prepares `encode` for these texts. It raises nothing: what is wrong is said by `encode`."""
        ...


class TokenBytes(Protocol):
    """A denoiser whose `decode` joins the bytes of all ids and reads them as UTF-8.

    Text can then be searched without decoding it again at every step.
    """

    def token_bytes(self, token: int) -> bytes | None:
        """Returns the bytes of an id, b"" if it is not printed; None if texts are not made so."""
        ...


# -- optional: a KV cache --------------------------------------------------------------------------


class KVCacheDenoiser(Protocol):
    """A denoiser that can run some positions of a row with cached keys and values of the others.

    Without it, or if `supports_kv_cache` is false, every row runs whole. What it says is tested
    when the model is loaded (`models.probes.cache_test`).
    """

    @property
    def supports_kv_cache(self) -> bool:
        """Whether `forward_cached` answers as `logits` does."""
        ...

    @property
    def logit_shift(self) -> int:
        """Positions left of a token at which its distribution is read. They have to run too."""
        ...

    @property
    def exact_cache_block(self) -> int | None:
        """Length in whose multiples a prefix without masks has final keys and values.

        The block of a block-causal model and 1 of a causal one. None under full attention, where
        keys and values always depend on what follows.
        """
        ...

    def forward_cached(
        self,
        tokens: Tensor,
        valid: Tensor | None,
        positions: Tensor,
        past: BatchKV | None,
        keep: bool,
    ) -> tuple[Tensor, Tensor | None]:
        """Returns logits [N, V], and with `keep` the keys and values [S, B, h, L, d] of `tokens`.

        Args:
            tokens: [B, L] long, the positions that run. They are consecutive.
            valid: [B, L] bool, or None.
            positions: [B, L] bool, the wanted ones.
            past: cached keys and values of the rows, or None if they run whole.
            keep: whether the keys and values are returned.
        """
        ...


class LayoutDenoiser(Protocol):
    """A denoiser whose rows may say where each token stands and which others it sees.

    Verification beside a draft needs it (WINO). What it says is tested before the first such row
    (`models.probes.layout_test`).
    """

    @property
    def supports_layouts(self) -> bool:
        """Whether `logits_in_layout` does what the layout says."""
        ...

    def logits_in_layout(
        self, tokens: Tensor, positions: Tensor, places: Tensor, visible: Tensor
    ) -> Tensor:
        """Returns float32 logits [N, V] at the wanted positions.

        A shifted model reads them one column to the left, as in a plain row.

        Args:
            tokens: [B, L] long.
            positions: [B, L] bool, the wanted ones.
            places: [B, L] long, position of each token in the text.
            visible: [B, L, L] bool, true if the first sees the second.
        """
        ...


class BlockDrafts(Protocol):
    """An autoregressive denoiser that also drafts a block of tokens in one forward (Nemotron)."""

    def draft_logits(
        self, tokens: Tensor, valid: Tensor | None = None, positions: Tensor | None = None
    ) -> Tensor:
        """Returns float32 logits of the token AT each wanted position, with the arguments of `logits`.

        A row ends with masks. They and the last token before them see each other, and all that is
        before them, which is read causally.
        """
        ...


class WritingOrder(LayoutDenoiser, Protocol):
    """A denoiser that attends in the order in which tokens are written (Eso-LM, arXiv 2506.01928).

    Written tokens come first, in the order of writing, and masks behind them. A row with a layout
    says which order that is.

    Attributes:
        alpha_0: share of the tokens that its diffusion phase writes, in random order. The others are
            written from left to right.
        sees_masks_behind: whether a token may see a mask that is written after it. Rows then have to
            show all masks.
    """

    alpha_0: float
    sees_masks_behind: bool

    def visible(self, hidden: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """Returns [L, L] who sees whom in the diffusion phase.

        Args:
            hidden: [L] whether each token of the order is a mask; masks are last.
        """
        ...

    def visible_from_left(self, shown: int, left: int) -> NDArray[np.bool_]:
        """Returns [S, S] who sees whom if `left` tokens are written from left to right at once.

        S = shown + 2 left: the tokens written before, the text of the others, and their masks.
        """
        ...


class WholeBlocks(Protocol):
    """A denoiser that says whether all positions of a block have to run together.

    With `runs_whole_blocks` the tokens of a block decide together which experts run (LLaDA2.2), so
    a row with cached positions begins at a block boundary. Without it, it need not.
    """

    runs_whole_blocks: bool


class NextTokens(Protocol):
    """A denoiser that predicts the next tokens of a text (SDLM): masks stand behind all known ones.

    It is decoded and scored from left to right. The token before the first mask attends to the
    masks, so that its keys and values change once they are written.

    Attributes:
        tokens_ahead: tokens that it was trained to predict at once.
    """

    tokens_ahead: int


class ReadsContext(Protocol):
    """A denoiser that reads a prompt in both directions, and what follows block by block (E2D2).

    With `reads_context` its `logits` and `forward_cached` also take `context` [B] long, the positions
    from the left that every position sees, and `blocks_from` [B] long, a position at which a block
    begins. Without it there is no such context, and blocks begin at position 0.
    """

    reads_context: bool


class EditTokens(Protocol):
    """A denoiser trained to insert and delete tokens (LLaDA2.2): ids that say so, None if it has none.

    Attributes:
        delete_token_id: predicted at a position that is to be removed.
        split_token_id: predicted at a position before which a mask is to be inserted.
    """

    delete_token_id: int | None
    split_token_id: int | None


class CachingDenoiser(Denoiser, KVCacheDenoiser, Protocol):
    """A `Denoiser` whose `supports_kv_cache` is true."""


class FeatureCacheDenoiser(Protocol):
    """A denoiser that can compute some features of a row, and read the others from a cache."""

    @property
    def feature_layers(self) -> int:
        """Number of layers with such features; 0 if the network has none that are known."""
        ...

    @property
    def feature_weight(self) -> float:
        """Size of the features of a position, in those of its keys and values."""
        ...

    def forward_features(
        self, tokens: Tensor, positions: Tensor, plans: Sequence[Plan]
    ) -> tuple[Tensor, list[Features]]:
        """Returns float32 logits [N, V], and the features of all layers of each sequence.

        Args:
            tokens: [B, L] long.
            positions: [B, L] bool, the wanted ones.
            plans: what is computed of each, with equal `mates`; caches are read and not changed.
        """
        ...


class CacheTested(Protocol):
    """A denoiser whose KV cache was tested; `cache_test` is what the test found."""

    cache_test: CacheTest


# -- optional: other inputs and outputs ------------------------------------------------------------


class LengthHead(Protocol):
    """A denoiser that predicts the length of an answer (DiffusionLLM)."""

    def length_logits(
        self, tokens: Tensor, valid: Tensor | None = None, positions: Tensor | None = None
    ) -> Tensor:
        """Returns float32 logits [N, C] of length - 1, at each wanted position its row's."""
        ...


class HiddenStates(Protocol):
    """A denoiser whose last hidden states can be read as features of a text."""

    def hidden(self, tokens: Tensor, valid: Tensor | None) -> Tensor:
        """Returns the states [B, L, H] before the head.

        Args:
            tokens: [B, L] long.
            valid: [B, L] bool, false at padding, or None.
        """
        ...


class ConcreteScores(Protocol):
    """A denoiser that predicts ratios of probabilities at a noise level (SEDD).

    `schedule` is the noise that it was trained with.
    """

    schedule: NoiseSchedule

    def score_logits(
        self, tokens: Tensor, valid: Tensor | None, positions: Tensor | None, time: Tensor
    ) -> Tensor:
        """Returns float32 log-scores of all tokens at wanted positions, at noise `time` [B]."""
        ...


class NoiseLevels(Protocol):
    """A denoiser of process 'uniform' that is told how noisy its text is (Duo).

    It was trained to undo uniform noise (`models.uniform_state`), so that it has a likelihood bound
    and a reverse step. `schedule` is the noise that it was trained with, with alpha = exp(-sigma).
    """

    schedule: NoiseSchedule

    def logits_at(
        self, tokens: Tensor, valid: Tensor | None, positions: Tensor | None, time: Tensor
    ) -> Tensor:
        """Returns float32 logits of the text at wanted positions, at total noise `time` [B]."""
        ...


class SoftInputs(Protocol):
    """A denoiser that reads mixtures of tokens (`models.soft_inputs`)."""

    def soft_logits(
        self,
        tokens: Tensor,
        valid: Tensor | None,
        positions: Tensor | None,
        inputs: Tensor,
        time: Tensor | None = None,
    ) -> Tensor:
        """Returns float32 logits at wanted positions.

        Args:
            inputs: [B, L, 2 k] the k tokens of each position's mixture, then their probabilities; 0
                where the position's own token is read.
        """
        ...


class LogitsOp(Protocol):
    """What is read from logits. It is hashable: rows with equal ones are read together."""

    def __call__(self, logits: Tensor, payload: Tensor) -> tuple[Tensor, ...]:
        """Returns tensors [N, ...] of float32 `logits` [N, V] and `payload` [N, ...], inputs."""
        ...


class KeepingOp(Protocol):
    """A `LogitsOp` whose last output stays on the device, an input of the next call."""

    def __call__(
        self, logits: Tensor, payload: Tensor, before: Tensor | None, known: Tensor
    ) -> tuple[Tensor, ...]:
        """Returns tensors with first dimension N; the last one is kept.

        Args:
            logits: [N, V] float32.
            payload: [N, ...].
            before: [N, ...] what the last call kept for these positions; None if it is the first
                call.
            known: [N] bool, false at positions of which nothing was kept (`before` is 0 there).
        """
        ...


class EmbeddingDenoiser(Protocol):
    """What a denoiser of the gaussian process has besides.

    Its `logits` also take `inputs` [B, L, 2 D + 1] float32 (x_t, the estimate of x_0, whether a
    position is open; zero if it is not) and `time` [B]. `embedding_size` is D.
    """

    @property
    def embedding_size(self) -> int: ...

    def times(self, steps: int) -> NDArray[np.float64]:
        """Returns [steps + 1] noise levels, from the largest to the smallest."""
        ...

    def interpolator(self, score_temperature: float, divergence: bool) -> LogitsOp | KeepingOp:
        """Returns what reads (token, log-probability [nats], entropy [nats], E[x_0] of shape [D]).

        With `divergence` it also reads KL(now || last step) [nats]; the log-probabilities [V] stay
        on the device.
        """
        ...


class CanvasDenoiser(Protocol):
    """What a denoiser of process 'canvas' has besides (DiffusionGemma).

    Its `logits` also take `inputs` [B, L, H + 1] float32: the self-conditioning of each position (0
    before the first step), and 1 from where the canvas begins.
    """

    canvas_length: int
    state_size: int

    def soft_embeddings(self, probability: Tensor) -> Tensor:
        """Returns the self-conditioning [N, H] of distributions [N, V]."""
        ...


# -- noise of absorbing diffusion ------------------------------------------------------------------
# Total noise sigma(t) and its rate, t from 0 (clean) to 1 (noise). A token is masked at time t with
# probability 1 - exp(-sigma(t)).


class NoiseSchedule(Protocol):
    """How much noise a model of absorbing diffusion expects when."""

    def sigma(self, t: float) -> float:
        """Returns the total noise at time t."""
        ...

    def rate(self, t: float) -> float:
        """Returns its derivative at time t."""
        ...

    def at_share(self, share: Tensor) -> Tensor:
        """Returns the total noise [B] at which this share [B] of a row's tokens is masked."""
        ...


@dataclass(frozen=True)
class LogLinear:
    """sigma(t) = -log(1 - (1 - epsilon) t): the masked share is (1 - epsilon) t (SEDD, MDLM)."""

    epsilon: float = 1e-3

    def sigma(self, t: float) -> float:
        return -math.log1p(-(1 - self.epsilon) * t)

    def rate(self, t: float) -> float:
        return (1 - self.epsilon) / (1 - (1 - self.epsilon) * t)

    def at_share(self, share: Tensor) -> Tensor:
        return -torch.log1p(-(1 - self.epsilon) * share.clamp(min=self.epsilon))


@dataclass(frozen=True)
class Geometric:
    """sigma(t) = sigma_min^(1 - t) sigma_max^t (SEDD)."""

    sigma_min: float
    sigma_max: float

    def sigma(self, t: float) -> float:
        return math.exp((1 - t) * math.log(self.sigma_min) + t * math.log(self.sigma_max))

    def rate(self, t: float) -> float:
        return self.sigma(t) * math.log(self.sigma_max / self.sigma_min)

    def at_share(self, share: Tensor) -> Tensor:
        return (-torch.log1p(-share.clamp(max=1 - 1e-6))).clamp(self.sigma_min, self.sigma_max)


# -- typed questions about what is optional --------------------------------------------------------


@cache
def _members(protocol: Any) -> tuple[str, ...]:
    named = [*inspect.get_annotations(protocol), *vars(protocol)]
    return tuple(name for name in named if not name.startswith("_"))


def missing_members(model: object, protocol: Any) -> list[str]:
    """Returns the members of a protocol that `model` lacks.

    `isinstance` does not see members of a wrapper's `__getattr__` from Python 3.12 on; this does.
    """
    return [name for name in _members(protocol) if not hasattr(model, name)]


def offers(model: object, protocol: Any) -> bool:
    """Returns whether `model` has all members of a protocol."""
    return not missing_members(model, protocol)


def device_of(model: Denoiser) -> torch.device:
    """Returns the device that a model's tokens go to."""
    return torch.device(cast(OnDevice, model).device if offers(model, OnDevice) else "cpu")


def dtype_of(model: Denoiser) -> torch.dtype:
    """Returns the dtype of a model's weights."""
    return cast(InPrecision, model).dtype if offers(model, InPrecision) else torch.float32


def embedding_rows(model: Denoiser) -> int:
    """Returns the number of ids that a model reads."""
    return (
        cast(EmbeddingRows, model).embedding_rows
        if offers(model, EmbeddingRows)
        else model.vocab_size
    )


def is_batch_invariant(model: Denoiser) -> bool:
    """Returns whether a row's bits are independent of batch mates of its own length."""
    return cast(BatchInvariance, model).batch_invariant if offers(model, BatchInvariance) else True


def can_pad(model: Denoiser) -> bool:
    """Returns whether rows of different lengths may share a batch."""
    return cast(Padding, model).padding if offers(model, Padding) else True


def text_start(model: Denoiser) -> list[int]:
    """Returns the special ids that the model's tokenizer puts before a text."""
    return list(cast(TextStart, model).text_start) if offers(model, TextStart) else []


def bos_only_if_empty(model: Denoiser) -> bool:
    """Returns whether BOS is put only before an empty prompt."""
    return offers(model, BosOnlyIfEmpty) and cast(BosOnlyIfEmpty, model).bos_only_if_empty


def token_name(model: Denoiser, token: int) -> str | None:
    """Returns the tokenizer's name of an id, or None."""
    return cast(TokenNames, model).token_name(token) if offers(model, TokenNames) else None


def read_ahead(model: Denoiser, texts: Sequence[str]) -> None:
    """Prepares a model's `encode` for these texts, if it can be prepared."""
    if offers(model, ReadAhead):
        cast(ReadAhead, model).read_ahead(texts)


def token_bytes(model: Denoiser, token: int) -> bytes | None:
    """Returns the bytes that an id adds to a text, or None if that is unknown."""
    return cast(TokenBytes, model).token_bytes(token) if offers(model, TokenBytes) else None


def takes_layouts(model: Denoiser) -> bool:
    """Returns whether rows may have a layout (`engine.rows.Layout`)."""
    return offers(model, LayoutDenoiser) and cast(LayoutDenoiser, model).supports_layouts


def caching(model: Denoiser) -> CachingDenoiser | None:
    """Returns `model` if it supports a KV cache, else None."""
    able = offers(model, KVCacheDenoiser) and cast(KVCacheDenoiser, model).supports_kv_cache
    return cast(CachingDenoiser, model) if able else None


def logit_shift(model: Denoiser) -> int:
    """Returns how many positions left of a token its distribution is read."""
    return cast(KVCacheDenoiser, model).logit_shift if offers(model, KVCacheDenoiser) else 0


def exact_cache_block(model: Denoiser) -> int | None:
    """Returns the length in whose multiples a prefix has final keys and values, or None."""
    return (
        cast(KVCacheDenoiser, model).exact_cache_block if offers(model, KVCacheDenoiser) else None
    )


def is_autoregressive(model: Denoiser) -> bool:
    """Returns whether a prediction of `model` depends on the tokens before it, and on nothing else.

    That is a causal model that is read one position to the left, so that its first position has no
    prediction, and that shows no masks behind the text (as one that predicts the next tokens does).
    """
    return model.attention == "causal" and model.needs_bos and tokens_ahead(model) is None


def runs_whole_blocks(model: Denoiser) -> bool:
    """Returns whether all positions of a block have to run together."""
    return offers(model, WholeBlocks) and cast(WholeBlocks, model).runs_whole_blocks


def tokens_ahead(model: Denoiser) -> int | None:
    """Returns how many next tokens a model predicts at once; None of a model that fills any hole."""
    return cast(NextTokens, model).tokens_ahead if offers(model, NextTokens) else None


def reads_context(model: Denoiser) -> bool:
    """Returns whether a model is told how many positions are its prompt."""
    return offers(model, ReadsContext) and cast(ReadsContext, model).reads_context


def edit_tokens(model: Denoiser) -> tuple[int | None, int | None]:
    """Returns the ids with which a model deletes a token and splits a position, None if unknown."""
    if not offers(model, EditTokens):
        return None, None
    able = cast(EditTokens, model)
    return able.delete_token_id, able.split_token_id


def noise_schedule(model: Denoiser) -> NoiseSchedule:
    """Returns the noise that a model was trained with, if it says so, else log-linear noise."""
    return cast(ConcreteScores, model).schedule if offers(model, ConcreteScores) else LogLinear()


def check_ids(model: Denoiser, canvas: Canvas, scored: bool) -> SampleError | None:
    """Returns why `model` cannot read the ids of `canvas`, or None.

    A wrong id would be an IndexError in the network, or a CUDA assertion that ends the process.

    Args:
        model: for its numbers of ids.
        canvas: given ids go into the network; open ones only if they are scored, or of a draft.
        scored: whether open positions hold the truth. Then each has to be an id that the network
            predicts, and not a hole.
    """
    rows = embedding_rows(model)
    for place, (token, is_open) in enumerate(zip(canvas.tokens, canvas.open, strict=True)):
        if is_open and not scored and not (canvas.draft and token != BLANK):
            continue
        outside = f"token {token} at position {place} is outside the model's vocabulary"
        if not 0 <= token < rows:
            return SampleError(f"{outside}: its embedding has ids 0 to {rows - 1}")
        if is_open and token >= model.vocab_size:
            return SampleError(f"{outside}: it predicts ids 0 to {model.vocab_size - 1}")
        if is_open and token == model.mask_id and not model.mask_is_regular_token:
            return SampleError(
                f"position {place} is to be {'scored' if scored else 'revised'} and holds the mask token "
                f"{token}, which is a hole and no text"
            )
    return None
