"""A checkpoint's tokenizer and special ids: text to ids and back, the same way for every family."""

from __future__ import annotations

import functools
import json
from collections.abc import Sequence
from typing import Any

from dlm_eval.errors import SampleError, UserError
from dlm_eval.models.chat import NO_TEMPLATE, render_chat
from dlm_eval.models.encoding import EncodingMemory
from dlm_eval.printable import is_text

# The letters in which byte-level tokenizers write bytes (GPT-2's).
_PRINTED = [*range(33, 127), *range(161, 173), *range(174, 256)]
BYTES = {chr(byte): byte for byte in _PRINTED} | {
    chr(256 + place): byte for place, byte in enumerate(sorted(set(range(256)) - set(_PRINTED)))
}


class TokenizerInfo:
    """Tokenizer and special ids of a checkpoint.

    Attributes:
        tokenizer: the transformers tokenizer, or None for a model without text.
        mask_id: id of the mask token.
        mask_is_regular_token: whether natural text can contain the mask id: its family says that it
            may, and its tokenizer makes it.
        eos_ids: ids that end a text, the canonical one first.
        bos_id: id that begins a text, or None.
        pad_id: id for padding.
        name: of the checkpoint, for messages.
    """

    def __init__(
        self,
        tokenizer: Any,
        mask_id: int,
        eos_ids: Sequence[int],
        bos_id: int | None,
        pad_id: int | None,
        name: str = "this checkpoint",
        mask_may_be_regular: bool = False,
    ) -> None:
        self.tokenizer = tokenizer
        self.name = name
        self.mask_id = mask_id
        self.mask_is_regular_token = mask_may_be_regular and is_word(tokenizer, mask_id)
        self.eos_ids = tuple(dict.fromkeys(eos_ids))
        self.bos_id = bos_id
        self.pad_id = pad_id if pad_id is not None else self.eos_ids[0] if self.eos_ids else 0
        added = tokenizer.added_tokens_decoder
        # Ids may have gaps: their count says nothing about the highest.
        self._known = set(tokenizer.get_vocab().values())
        special = {i for i, token in added.items() if token.special} | set(
            tokenizer.all_special_ids
        )
        # A word that serves as the mask is still a word when it is written.
        unprinted = special - ({mask_id} if self.mask_is_regular_token else set())
        self._printed = self._known - unprinted
        self._backend = tokenizer.backend_tokenizer if is_backend(tokenizer) else None
        # GPT-2's decoder joins the bytes of all tokens.
        self._memory = EncodingMemory(tokenizer, self._backend, name)
        self._bytewise = (
            self._backend is not None and type(self._backend.decoder).__name__ == "ByteLevel"
        )

    def encode(self, text: str) -> list[int]:
        """Returns the ids of `text`, with no special token added.

        Raises:
            SampleError: the tokenizer gives up on the text, or it spells the mask token, which
                would become a hole.
        """
        ids = self._memory.ids(text)
        if not self.mask_is_regular_token and self.mask_id in ids:
            spelled = self.tokenizer.convert_ids_to_tokens(self.mask_id)
            raise SampleError(
                f"the text contains the mask token '{spelled}', which would be taken for a hole"
            )
        return ids

    @functools.cached_property
    def text_start(self) -> tuple[int, ...]:
        """The special ids that the tokenizer puts before a text."""
        plain, whole = (self.tokenizer.encode("a", add_special_tokens=on) for on in (False, True))
        return text_start_of(plain, whole)

    def read_ahead(self, texts: Sequence[str]) -> None:
        """Encodes texts together, on several threads, so that `encode` has them ready.

        What is wrong with one is raised by `encode`.
        """
        self._memory.learn([text for text in texts if is_text(text)])

    def decode(self, ids: Sequence[int]) -> str:
        """Returns the text of `ids` without special and unknown ones, nothing else cleaned."""
        printed = [i for i in map(int, ids) if i in self._printed]
        text: str
        if self._backend is not None:  # transformers' own steps around it take as long as it
            text = self._backend.decode(printed, skip_special_tokens=False)
        else:
            text = self.tokenizer.decode(
                printed, skip_special_tokens=False, clean_up_tokenization_spaces=False
            )
        return text

    def token_bytes(self, token: int) -> bytes | None:
        """Returns the bytes that the id adds to a text; None if texts are not made of bytes in a row.

        `decode` then joins the bytes of all ids and reads them as UTF-8.
        """
        if not self._bytewise or token not in self._printed:
            return b"" if self._bytewise else None
        name: str = self.tokenizer.convert_ids_to_tokens(int(token))
        return (
            bytes(BYTES[letter] for letter in name) if BYTES.keys() >= set(name) else name.encode()
        )

    def token_name(self, token: int) -> str | None:
        """Returns the tokenizer's name of the id, None for one that it does not have."""
        name: str | None = (
            self.tokenizer.convert_ids_to_tokens(int(token)) if token in self._known else None
        )
        if (
            name is None
            or "\ufffd" not in self.decode([token])
            or not all(letter in BYTES for letter in name)
        ):
            return name
        # A part of a character, as sentencepiece names it.
        return "".join(f"<0x{BYTES[letter]:02X}>" for letter in name)

    @property
    def chat_templates(self) -> dict[str, str]:
        """The tokenizer's chat templates by name; a lone one is called 'default'."""
        found = self.tokenizer.chat_template
        return dict(found) if isinstance(found, dict) else {"default": found} if found else {}

    def apply_chat_template(
        self,
        messages: list[dict[str, str]],
        add_generation_prompt: bool = True,
        template: str | None = None,
    ) -> str:
        """Returns the conversation as text, special tokens spelled out, for `encode`.

        Args:
            messages: with 'role' and 'content' each.
            add_generation_prompt: the header of an answer follows. If not, the last message is the
                begun answer, and its turn stays open, as lm-eval's `hf` does it.
            template: name of one of `chat_templates`; None for the one that transformers would
                choose.

        Raises:
            UserError: the tokenizer has no chat template, or one that takes too much time or
                memory.
            SampleError: the template refuses this conversation.
        """
        if not self.chat_templates:
            raise UserError(NO_TEMPLATE)
        options = {} if template is None else {"chat_template": self.chat_templates[template]}
        return render_chat(
            self.tokenizer, messages, self.name, add_generation_prompt=add_generation_prompt,
            continue_final_message=not add_generation_prompt, **options,
        )  # fmt: skip


def text_start_of(plain: Sequence[int], whole: Sequence[int]) -> tuple[int, ...]:
    """Returns the ids before the text in `whole`, the ids of a text with special tokens.

    Args:
        plain: the ids of the same text without special tokens.
    """
    places = range(len(whole) - len(plain) + 1)
    begin = next((i for i in places if list(whole[i : i + len(plain)]) == list(plain)), 0)
    return tuple(map(int, whole[:begin]))


def is_backend(tokenizer: Any) -> bool:
    """Returns whether a tokenizer only hands texts and ids to the `tokenizers` library."""
    from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

    own = type(tokenizer)
    return (
        issubclass(own, PreTrainedTokenizerFast)
        and (own._encode_plus, own._decode)
        == (PreTrainedTokenizerFast._encode_plus, PreTrainedTokenizerFast._decode)
        and (own.encode, own.decode)
        == (PreTrainedTokenizerBase.encode, PreTrainedTokenizerBase.decode)
    )


def is_word(tokenizer: Any, token: int) -> bool:
    """Returns whether natural text can contain the id: made by merges, not added."""
    text = tokenizer.convert_ids_to_tokens(token) if token >= 0 else None
    if text is None:
        return False
    try:
        backend = tokenizer.backend_tokenizer
    except AttributeError:
        return token not in tokenizer.added_tokens_decoder
    if text not in backend.get_vocab(with_added_tokens=False):
        return False
    merges = json.loads(backend.to_str())["model"].get("merges")
    if merges is None:
        return token not in tokenizer.added_tokens_decoder
    joined = {
        "".join(pair) if isinstance(pair, list) else pair.replace(" ", "", 1) for pair in merges
    }
    return len(text) == 1 or text in joined
