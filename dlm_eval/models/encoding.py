"""Ids of texts: encoded together, remembered by pieces, and with the errors of a tokenizer told."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from itertools import chain
from typing import Any

from dlm_eval.errors import SampleError
from dlm_eval.models.loading import first_line
from dlm_eval.models.pieces import can_cut, pieces, read_rules
from dlm_eval.printable import is_text

MOST_KNOWN = 2**23  # characters of texts whose ids are kept


class EncodingMemory:
    """Ids of texts and pieces of texts that were encoded before.

    Args:
        tokenizer: encodes.
        backend: its object of the `tokenizers` library, if it does nothing but call that. Without
            it nothing is kept.
        name: of the checkpoint, for messages.
    """

    def __init__(self, tokenizer: Any, backend: Any, name: str) -> None:
        self._tokenizer, self._name = tokenizer, name
        self._batches = backend is not None
        self._cuts = backend is not None and can_cut(read_rules(backend))
        self._known: dict[str, list[int]] = {}
        # The pieces of the texts that were learned last, and the ids of those that came repeatedly.
        self._ahead: dict[str, list[str]] = {}
        self._repeated: dict[str, list[int] | None] = {}
        # The pieces of the last text but its last piece, as a text with one character more, and as a list.
        self._last: tuple[str, list[str]] = ("", [])
        self._size = 0  # characters

    def ids(self, text: str) -> list[int]:
        """Returns the ids of a text (see `text_ids`)."""
        if not self._batches or not is_text(text):
            return text_ids(self._tokenizer, text, self._name)
        if (known := self._repeated.get(text)) is not None:
            return list(known)
        parts = self._ahead.get(text) or self._parts(text)
        try:
            if not all(map(self._known.__contains__, parts)):
                self._encode(parts)
        except BaseException as error:
            if not is_panic(error):
                raise
            return text_ids(self._tokenizer, text, self._name)
        ids = list(chain.from_iterable(map(self._known.__getitem__, parts)))
        if text in self._repeated:
            self._repeated[text] = list(ids)
        return ids

    def learn(self, texts: Sequence[str]) -> None:
        """Encodes what is not known of the texts, or nothing if the tokenizer fails on any."""
        if self._batches:
            count = Counter(texts)
            self._ahead = {text: self._parts(text) for text in count}
            self._repeated = {text: None for text, times in count.items() if times > 1}
            try:
                self._encode(list(chain.from_iterable(self._ahead.values())))
            except BaseException as error:
                if not isinstance(error, Exception) and not is_panic(error):
                    raise

    def _parts(self, text: str) -> list[str]:
        if not self._cuts:
            return [text]
        # The choices of a question differ in their last piece only.
        before, known = self._last
        rest = text[len(before) - 1 :] if before and text.startswith(before) else text
        parts = [*known, *pieces(rest)] if rest is not text else pieces(text)
        if len(parts) > 1:
            self._last = text[: len(text) - len(parts[-1]) + 1], parts[:-1]
        return parts

    def _encode(self, parts: Sequence[str]) -> None:
        """Encodes the parts that are not known. All of them are known then."""
        if self._size > MOST_KNOWN:
            self._known, self._size = {}, 0
        fresh = [part for part in dict.fromkeys(parts) if part not in self._known]
        if fresh:
            found = self._tokenizer(
                fresh,
                add_special_tokens=False,
                return_attention_mask=False,
                return_token_type_ids=False,
                verbose=False,
            )
            self._known.update(zip(fresh, found["input_ids"], strict=True))
            self._size += sum(map(len, fresh))


def text_ids(tokenizer: Any, text: str, name: str) -> list[int]:
    """Returns the ids of `text` in the tokenizer of the checkpoint `name`, with no special token
    added.

    Raises:
        SampleError: it holds half of a surrogate pair, or a regular expression of the tokenizer is
            given up.
    """
    if not is_text(text):
        raise SampleError(
            f"the tokenizer of '{name}' reads no half of a surrogate pair, which is no text"
        )
    try:
        ids: list[int] = tokenizer.encode(text, add_special_tokens=False, verbose=False)
    except BaseException as error:
        if not is_panic(error):
            raise
        raise SampleError(
            f"the tokenizer of '{name}' gives up on the text: {first_line(error)}"
        ) from None
    return ids


def is_panic(error: BaseException) -> bool:
    """Returns whether an error is a panic of Rust code, which has no class to import.

    An example is a regular expression of tokenizer.json that was given up.
    """
    return type(error).__name__ == "PanicException"
