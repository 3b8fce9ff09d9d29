"""What a model is to the rest of the package: a Denoiser.

Shape letters: B = rows of a batch, L = positions, V = vocabulary, N = wanted positions of the batch, S = 2 x layers, h = heads, R = remembered
positions, d = head size.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol, runtime_checkable

from torch import Tensor

Process = Literal["absorbing", "uniform", "gaussian", "canvas"]
Attention = Literal["full", "block", "causal"]
NO_MASK = -1  # mask id of models that have none


@runtime_checkable
class Denoiser(Protocol):
    """A diffusion language model with its tokenizer.

    Shift, time conditioning, special ids, attention mask and vocabulary trimming live behind this interface and nowhere else.

    Attributes:
        name: family and checkpoint in words, for messages and results.
        mask_id: id of the mask token; `NO_MASK` for processes other than 'absorbing'.
        mask_is_word: whether the mask id is an ordinary vocabulary item, which natural text can contain.
        eos_ids: ids that end a text; the first is the canonical one.
        bos_id: id that begins a text, or None.
        pad_id: id for padding (never attended to).
        vocab_size: V, rows of the logits that count.
        max_length: positions that the model was made for.
        needs_bos: whether position 0 has no prediction of its own, so that it must hold `bos_id`.
        attention: 'full', 'block' (block-causal, `block_length` positions) or 'causal'.
        block_length: block size of block-causal models, else None.
        process: corruption that the model was trained to undo ('canvas': uniform, with self-conditioning, in canvases behind a given text).
    """

    name: str
    mask_id: int
    mask_is_word: bool
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

    def apply_chat_template(self, messages: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        """Returns the conversation as the model's prompt text: with the header of an answer, or with its last message left open."""
        ...

    def logits(self, tokens: Tensor, valid: Tensor | None = None, positions: Tensor | None = None) -> Tensor:
        """Returns float32 logits of the token AT each wanted position.

        Args:
            tokens: [B, L] long.
            valid: [B, L] bool, false at padding; None where no row is padded.
            positions: None for all ([B, L, V] comes back), [P] long for the same positions of every row ([B, P, V]), or
                [B, L] bool for any ([N, V], row by row).
        """
        ...

    def describe(self) -> dict[str, Any]:
        """Returns what identifies the model in a fingerprint: family, checkpoint, revision, file hashes, dtype, ids."""
        ...


@runtime_checkable
class ChatTemplates(Protocol):
    """A denoiser whose chat template can be chosen by name. Optional."""

    @property
    def chat_templates(self) -> Mapping[str, str]:
        """Texts of the templates by name."""
        ...

    def apply_chat_template(
        self, messages: list[dict[str, str]], add_generation_prompt: bool = True, template: str | None = None
    ) -> str:
        """Returns the conversation by the template of that name, None for the checkpoint's default."""
        ...


@dataclass(frozen=True, eq=False)
class Past:
    """What the rows of a batch remember: positions that are attended to and not run.

    Attributes:
        states: [S, B, h, R, d] keys and values of each layer in turn, rotated to their places.
        valid: [B, R] bool, false at padding; None where no row is padded.
        begin: [B] long, place of each row's first live position.
    """

    states: Tensor
    valid: Tensor | None
    begin: Tensor


class Remembering(Denoiser, Protocol):
    """A denoiser whose rows can leave out positions that they remember. Optional: without it every row runs whole."""

    @property
    def remembers(self) -> bool:
        """Whether `recall` answers as `logits` does; where it is false (or absent) nothing below is used."""
        ...

    @property
    def lag(self) -> int:
        """How far left of a token its distribution is read (1 for shifted models): that position has to be live too."""
        ...

    @property
    def settles(self) -> int | None:
        """A prefix of a multiple of this length that holds no mask has settled: its keys and values do not depend on what follows.

        The block of a block-causal model, 1 of a causal one; None under full attention, where they always do.
        """
        ...

    def recall(
        self, tokens: Tensor, valid: Tensor | None, positions: Tensor, past: Past | None, keep: bool
    ) -> tuple[Tensor, Tensor | None]:
        """Returns the logits of wanted positions (see `logits`), and with `keep` the states [S, B, h, L, d] of the live positions.

        Args:
            tokens: [B, L] long, live positions, which follow each other.
            valid: [B, L] bool, or None.
            positions: [B, L] bool.
            past: what the rows remember, or None where they run whole.
            keep: whether the states are wanted.
        """
        ...


def remembering(model: Denoiser) -> Remembering | None:
    """Returns `model` if its rows can remember, else None."""
    return model if getattr(model, "remembers", False) else None  # type: ignore[return-value]
