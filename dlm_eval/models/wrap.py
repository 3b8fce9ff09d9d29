"""`wrap`: a denoiser of a function that gives logits.

    model = wrap(logits=f, tokenizer=tok, mask_id=103)  # f(tokens [B, L] long) -> logits [B, L, V]

Shape letters: B = rows of a batch, L = positions, V = vocabulary.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, get_args

import torch
from torch import Tensor

from dlm_eval.errors import UserError
from dlm_eval.models.denoiser import NO_MASK, Attention, Process
from dlm_eval.models.probes import check_cache, probe, rows_are_invariant
from dlm_eval.models.tokenizer import TokenizerInfo
from dlm_eval.reasons import reason

NAMELESS = "wrapped"


@dataclass(eq=False)
class WrappedDenoiser:
    """Denoiser (see `models.denoiser.Denoiser`) of a function. Made by `wrap`."""

    function: Callable[..., Tensor]
    tokenizer: Any
    fingerprint: str
    name: str
    mask_id: int
    eos_ids: tuple[int, ...]
    bos_id: int | None
    pad_id: int
    vocab_size: int
    max_length: int
    needs_bos: bool
    padding: bool
    attention: Attention
    block_length: int | None
    process: Process
    device: torch.device
    batch_invariant: bool = True
    mask_is_regular_token: bool = False

    def __post_init__(self) -> None:
        ours = (self.tokenizer, self.mask_id, self.eos_ids, self.bos_id, self.pad_id, self.name)
        self._texts = TokenizerInfo(*ours) if _of_transformers(self.tokenizer) else None

    @torch.no_grad()
    def logits(
        self, tokens: Tensor, valid: Tensor | None = None, positions: Tensor | None = None
    ) -> Tensor:
        """Returns float32 logits of the token at each wanted position (see `Denoiser.logits`)."""
        tokens = tokens.to(self.device)
        if self.padding:
            real = (
                torch.ones_like(tokens, dtype=torch.bool)
                if valid is None
                else valid.to(self.device)
            )
            found = self.function(tokens, real)
        else:
            found = self.function(tokens)
        if not isinstance(found, Tensor):
            raise ValueError(
                f"logits() returned {type(found).__name__}; it must return a float tensor [B, L, V]"
            )
        if tuple(found.shape[:2]) != tuple(tokens.shape) or found.dim() != 3:
            raise ValueError(
                f"logits() returned shape {list(found.shape)} for tokens {list(tokens.shape)}"
            )
        if not found.is_floating_point():
            raise ValueError(
                f"logits() returned {found.dtype}; it must return a float tensor [B, L, V]"
            )
        found = found.detach().float()
        # the distribution of token i is at position i-1; position 0 holds BOS and has none
        if self.needs_bos:
            found = torch.cat([found[:, :1], found[:, :-1]], 1)
        if positions is None:
            return found
        positions = positions.to(found.device)
        return found[positions] if positions.dtype == torch.bool else found[:, positions]

    def encode(self, text: str) -> list[int]:
        if self._texts is not None:
            return self._texts.encode(text)
        return [int(i) for i in self._tokens().encode(text)]

    @property
    def text_start(self) -> tuple[int, ...]:
        return () if self._texts is None else self._texts.text_start

    def read_ahead(self, texts: Sequence[str]) -> None:
        if self._texts is not None:
            self._texts.read_ahead(texts)

    def decode(self, ids: Sequence[int]) -> str:
        if self._texts is not None:
            return self._texts.decode(ids)
        special = {self.mask_id, self.bos_id, self.pad_id, *self.eos_ids}
        return str(self._tokens().decode([int(i) for i in ids if int(i) not in special]))

    @property
    def chat_templates(self) -> dict[str, str]:
        return {} if self._texts is None else self._texts.chat_templates

    def apply_chat_template(
        self,
        messages: list[dict[str, str]],
        add_generation_prompt: bool = True,
        template: str | None = None,
    ) -> str:
        """Returns the conversation as prompt text.

        Raises:
            UserError: the tokenizer has no chat template.
        """
        if self._texts is None:
            raise UserError(
                f"{self.name} has no chat template; run without --apply_chat_template (with "
                "--suite: --apply_chat_template false)"
            )
        return self._texts.apply_chat_template(messages, add_generation_prompt, template)

    def token_bytes(self, token: int) -> bytes | None:
        return None if self._texts is None else self._texts.token_bytes(token)

    def token_name(self, token: int) -> str | None:
        return None if self._texts is None else self._texts.token_name(token)

    def describe(self) -> dict[str, Any]:
        return {
            "family": "wrap",
            "checkpoint": self.name,
            "fingerprint": self.fingerprint,
            "mask_id": self.mask_id,
            "eos_ids": list(self.eos_ids),
            "bos_id": self.bos_id,
            "shift": self.needs_bos,
            "attention": self.attention,
            "block_length": self.block_length,
            "process": self.process,
            "max_length": self.max_length,
        }

    def _tokens(self) -> Any:
        if self.tokenizer is None:
            raise UserError(
                f"{self.name} has no tokenizer; give wrap(tokenizer=...) to read and write text"
            )
        return self.tokenizer


def wrap(
    *,
    logits: Callable[..., Tensor],
    tokenizer: Any = None,
    mask_id: int | None = None,
    eos_ids: Sequence[int] | int = (),
    max_length: int = 2048,
    bos_id: int | None = None,
    pad_id: int | None = None,
    vocab_size: int | None = None,
    shift: bool = False,
    padding: bool = False,
    attention: Attention = "full",
    block_length: int | None = None,
    process: Process = "absorbing",
    device: torch.device | str = "cpu",
    name: str = NAMELESS,
    fingerprint: str | None = None,
) -> WrappedDenoiser:
    """Returns a denoiser of a function, after the tests that every model passes.

    Args:
        logits: f(tokens [B, L] long) -> logits [B, L, V]; with `padding`, f(tokens, valid [B, L]
            bool). It may give float16 or bfloat16.
        tokenizer: of transformers, or any object with encode(text) -> ids without special tokens
            and decode(ids) -> text; None for a model that is only given ids.
        mask_id: id of the mask token; needed if the process is 'absorbing'.
        eos_ids: ids that end a text, or one id; () if none does.
        max_length: longest sequence, in positions.
        bos_id: id that begins a text, or None.
        pad_id: id for padding; None for the first of `eos_ids`, else 0.
        vocab_size: V; None asks the function.
        shift: whether the logits at position i predict the token at i+1.
        padding: whether the function hides positions whose `valid` is false. Without it, rows of
            different lengths never share a batch.
        attention: 'full', 'block' or 'causal'.
        block_length: positions of a block under attention 'block'.
        process: corruption that the model was trained to undo, 'absorbing' or 'uniform'.
        device: where tokens go.
        name: for messages and results.
        fingerprint: names the weights. Stored answers are used again only under an equal one; None
            makes one that no other process has.

    Raises:
        UserError: an argument that is missing or does not fit, or a test failed.
    """
    ends = (eos_ids,) if isinstance(eos_ids, int | str) else tuple(eos_ids or ())
    _check_words(tokenizer, attention, process)
    _check_together(mask_id, process, attention, block_length)
    numbers = {"mask_id": mask_id, "bos_id": bos_id, "pad_id": pad_id}
    _check_numbers({**numbers, "vocab_size": vocab_size, "max_length": max_length}, ends)
    model = WrappedDenoiser(
        logits,
        tokenizer,
        fingerprint or uuid.uuid4().hex,
        name,
        mask_id=NO_MASK if mask_id is None or process != "absorbing" else mask_id,
        eos_ids=ends,
        bos_id=bos_id,
        pad_id=pad_id if pad_id is not None else ends[0] if ends else 0,
        vocab_size=vocab_size or 1,
        max_length=max_length,
        needs_bos=shift,
        padding=padding,
        attention=attention,
        block_length=block_length,
        process=process,
        device=_device(device),
    )
    try:
        _ask_function(model, vocab_size is None)
    except UserError:
        raise
    except Exception as error:  # the user's function may raise anything
        raise UserError(f"wrap: logits() failed: {reason(error)}") from error
    return model


def _ask_function(model: WrappedDenoiser, ask_size: bool) -> None:
    """Tests the function, and puts into `model` what is learned of it."""
    if ask_size:
        some = torch.zeros(1, min(2, model.max_length), dtype=torch.long)
        model.vocab_size = model.logits(some).shape[-1]
    for end in model.eos_ids:
        if not 0 <= end < model.vocab_size or end == model.mask_id:
            allowed = f"0 to {model.vocab_size - 1}, and not the mask"
            raise UserError(f"wrap(eos_ids={end}) is not allowed; it must be {allowed}")
    probe(model, own=True)
    check_cache(model)
    model.batch_invariant = model.device.type != "cpu" or rows_are_invariant(model)


def _check_together(
    mask_id: int | None, process: str, attention: str, block_length: int | None
) -> None:
    if mask_id is None and process == "absorbing":
        raise UserError(
            "wrap(mask_id=) is missing; give the id of the mask token, or process='uniform'"
        )
    if (attention == "block") != (block_length is not None):
        raise UserError(
            f"wrap(block_length={block_length}) does not go with attention='{attention}'; 'block' "
            "needs one, others none"
        )


def _check_words(tokenizer: Any, attention: str, process: str) -> None:
    if isinstance(tokenizer, str):
        raise UserError(
            f"wrap(tokenizer='{tokenizer}') is not allowed; it must be an object with encode and "
            "decode"
        )
    if attention not in get_args(Attention):
        raise UserError(
            f"wrap(attention='{attention}') is not allowed; it must be one of "
            f"{', '.join(get_args(Attention))}"
        )
    if process not in ("absorbing", "uniform"):
        raise UserError(
            f"wrap(process='{process}') is not allowed; it must be 'absorbing' or 'uniform'"
        )


def _check_numbers(numbers: Mapping[str, Any], ends: Sequence[Any]) -> None:
    for what, value in [*numbers.items(), *(("eos_ids", end) for end in ends)]:
        if value is not None and type(value) is not int:
            raise UserError(f"wrap({what}={value!r}) is not allowed; it must be a whole number")
    if numbers["max_length"] < 2:
        raise UserError(
            f"wrap(max_length={numbers['max_length']}) is not allowed; it must be 2 or more"
        )


def _device(device: torch.device | str) -> torch.device:
    try:
        return torch.device(device)
    except RuntimeError:
        raise UserError(
            f"wrap(device='{device}') is not allowed; it must be a device of PyTorch (cpu, cuda:0)"
        ) from None


def _of_transformers(tokenizer: Any) -> bool:
    from transformers import PreTrainedTokenizerBase

    return isinstance(tokenizer, PreTrainedTokenizerBase)
