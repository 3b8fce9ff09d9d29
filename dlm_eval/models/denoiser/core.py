"""What every model is: a `Denoiser`.

Shape letters: B = rows of a batch, L = positions, P, N = wanted positions of a row, of the batch, V =
vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, Protocol, runtime_checkable

from torch import Tensor

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
        Boards read `family`, `checkpoint` (else `pretrained`) and `revision` of it, results also
        `dtype`.
        """
        ...
