"""Optional: what a tokenizer can do besides."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol, cast, runtime_checkable

from dlm_eval.models.denoiser.core import Denoiser
from dlm_eval.models.denoiser.members import offers


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


def text_start(model: Denoiser) -> list[int]:
    """Returns the special ids that the model's tokenizer puts before a text."""
    return list(cast(TextStart, model).text_start) if offers(model, TextStart) else []


class BosOnlyIfEmpty(Protocol):
    """A denoiser with `needs_bos` that was trained on texts without BOS.

    With `bos_only_if_empty` BOS is put only before an empty prompt.
    """

    bos_only_if_empty: bool


def bos_only_if_empty(model: Denoiser) -> bool:
    """Returns whether BOS is put only before an empty prompt."""
    return offers(model, BosOnlyIfEmpty) and cast(BosOnlyIfEmpty, model).bos_only_if_empty


class TokenNames(Protocol):
    """A denoiser that can name a token without text of its own (a part of a character)."""

    def token_name(self, token: int) -> str | None:
        """Returns the tokenizer's name of the id, or None."""
        ...


def token_name(model: Denoiser, token: int) -> str | None:
    """Returns the tokenizer's name of an id, or None."""
    return cast(TokenNames, model).token_name(token) if offers(model, TokenNames) else None


class ReadAhead(Protocol):
    """A denoiser that encodes many texts in less time than one after the other."""

    def read_ahead(self, texts: Sequence[str]) -> None:
        """Prepares `encode` for these texts. It raises nothing: what is wrong is said by `encode`."""
        ...


def read_ahead(model: Denoiser, texts: Sequence[str]) -> None:
    """Prepares a model's `encode` for these texts, if it can be prepared."""
    if offers(model, ReadAhead):
        cast(ReadAhead, model).read_ahead(texts)


class TokenBytes(Protocol):
    """A denoiser whose `decode` joins the bytes of all ids and reads them as UTF-8.

    Text can then be searched without decoding it again at every step.
    """

    def token_bytes(self, token: int) -> bytes | None:
        """Returns the bytes of an id, b"" if it is not printed; None if texts are not made so."""
        ...


def token_bytes(model: Denoiser, token: int) -> bytes | None:
    """Returns the bytes that an id adds to a text, or None if that is unknown."""
    return cast(TokenBytes, model).token_bytes(token) if offers(model, TokenBytes) else None
