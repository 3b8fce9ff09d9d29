"""A checkpoint's tokenizer and special ids: text to ids and back, the same way for every family."""

from __future__ import annotations

import functools
import json
import logging
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import chain
from typing import Any

from dlm_eval.errors import SampleError, UserError
from dlm_eval.models.chat import NO_TEMPLATE, render_chat
from dlm_eval.models.config_tables import check_config
from dlm_eval.models.denoiser import NO_MASK
from dlm_eval.models.loading import LARGEST_JSON, CheckpointFiles, LoadSettings, first_line, locate
from dlm_eval.models.pieces import can_cut, pieces, read_rules
from dlm_eval.printable import is_text
from dlm_eval.redaction import redact_message

TEXT_FILES = ["tokenizer*", "vocab*", "merges.txt", "*.model", "spiece*", "sentencepiece*"]
MOST_KNOWN = 2**23  # characters of texts whose ids are kept
LARGEST_TEXT = 2**28  # bytes of a tokenizer's file; real ones have up to 35 million

# The letters in which byte-level tokenizers write bytes (GPT-2's).
_PRINTED = [*range(33, 127), *range(161, 173), *range(174, 256)]
BYTES = {chr(byte): byte for byte in _PRINTED} | {
    chr(256 + place): byte for place, byte in enumerate(sorted(set(range(256)) - set(_PRINTED)))
}

log = logging.getLogger(__name__)


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


def read_tokenizer(
    folder: CheckpointFiles,
    config: dict[str, Any],
    settings: LoadSettings,
    eos_tokens: Sequence[str] = (),
    mask_token: str | None = None,
    tokenizer_class: Any = None,
    default_mask: int | None = None,
    mask_may_be_regular: bool = False,
) -> TokenizerInfo:
    """Returns the vocabulary of a checkpoint folder.

    The mask is, in this order: the option, the config's, the tokenizer's, `mask_token` if the
        tokenizer
    has it, `default_mask`, the named checkpoint's.

    Args:
        folder: the checkpoint.
        config: its config.json.
        settings: `mask_id`, `tokenizer` and the named checkpoint are used.
        eos_tokens: texts of tokens that end a text in this family, in order; those that the
            tokenizer lacks are left out.
        mask_token: text of this family's mask token.
        tokenizer_class: transformers class for a folder without tokenizer.json.
        default_mask: mask id that the family's architecture implies.
        mask_may_be_regular: whether the family's mask may be an ordinary word, which texts may
            contain.

    Raises:
        UserError: no tokenizer, no mask token, or config and tokenizer disagree about it.
    """
    where = locate(settings.tokenizer, setting="tokenizer") if settings.tokenizer else folder
    tokenizer = load_tokenizer(where, tokenizer_class)
    mask_id = _mask_id(tokenizer, folder, config, settings, mask_token, default_mask)
    known = [i for i in (token_id(tokenizer, text) for text in eos_tokens) if i is not None]
    generation = folder.read_json("generation_config.json")
    check_config(generation, f"pretrained '{folder.name}'", "generation_config.json")
    stated = (tokenizer.eos_token_id, config.get("eos_token_id"), generation.get("eos_token_id"))
    ends = [*known, *(i for value in stated for i in _ids(value))]
    bos = (
        tokenizer.bos_token_id if tokenizer.bos_token_id is not None else config.get("bos_token_id")
    )
    pad = (
        tokenizer.pad_token_id if tokenizer.pad_token_id is not None else config.get("pad_token_id")
    )
    built = TokenizerInfo(tokenizer, mask_id, ends, bos, pad, where.name, mask_may_be_regular)
    _refuse_equal(built, folder, settings)
    return built


def load_tokenizer(folder: CheckpointFiles, tokenizer_class: Any = None) -> Any:
    """Returns the folder's tokenizer, without remote code: tokenizer.json as it is if there is one.

    Raises:
        UserError: the folder has no tokenizer that transformers can read.
    """
    from transformers import AutoTokenizer, PreTrainedTokenizerFast

    try:
        _check_files(folder)
        if (folder.path / "tokenizer.json").is_file():
            found = PreTrainedTokenizerFast.from_pretrained(folder.path, local_files_only=True)
        elif tokenizer_class is not None:
            found = tokenizer_class.from_pretrained(folder.path, local_files_only=True)
        else:
            found = AutoTokenizer.from_pretrained(
                folder.path, trust_remote_code=False, local_files_only=True
            )
        # or its entries do not fit
        found.decode(found.encode("A word.", add_special_tokens=False, verbose=False))
        return found
    except BaseException as error:  # whatever the files break: transformers raises many kinds here
        if not isinstance(error, Exception) and not is_panic(error):
            raise
        reason = " ".join(redact_message(str(error)).split())[:200]
        raise UserError(
            f"pretrained '{folder.name}' has no tokenizer that can be read ({reason}); add "
            "tokenizer.json, or set tokenizer=ID_OR_DIR"
        ) from None


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


def _check_files(folder: CheckpointFiles) -> None:
    """Raises ValueError or UserError if a file is too large, no JSON, or makes long texts."""
    for name in ("tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"):
        folder.read_json(name)
    for pattern, most in (
        *((name, LARGEST_TEXT) for name in TEXT_FILES),
        ("**/*.jinja", LARGEST_JSON),
    ):
        for file in folder.path.glob(pattern):
            size = file.stat().st_size
            if file.is_file() and size > most:
                raise ValueError(f"{file.name} has more than {most >> 20} MiB")
            if file.is_file() and size == 0:  # or a file of the kernel's behind a link
                raise ValueError(f"{file.name} is empty")
    rules = folder.path / "tokenizer.json"
    if rules.is_file():
        check_growth(json.loads(rules.read_bytes()))


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


def token_id(tokenizer: Any, text: str | None) -> int | None:
    """Returns the id of the single token `text`, or None if the tokenizer lacks it."""
    if text is None:
        return None
    found = tokenizer.get_vocab().get(text)
    return None if found is None else int(found)


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


def _refuse_equal(
    vocabulary: TokenizerInfo, folder: CheckpointFiles, settings: LoadSettings
) -> None:
    """Raises UserError if the mask is also another special token, as each hole would be."""
    allowed = settings.known.equal_ids if settings.known else ()
    for name, ids in (
        ("bos", [vocabulary.bos_id]),
        ("pad", [vocabulary.pad_id]),
        ("eos", vocabulary.eos_ids),
    ):
        if vocabulary.mask_id in ids and vocabulary.mask_id != NO_MASK and name not in allowed:
            raise UserError(
                f"pretrained '{folder.name}': its mask token and its {name} token are one id, "
                f"{vocabulary.mask_id}; "
                "set mask_id= to another, or mend its files"
            )


def _mask_id(
    tokenizer: Any,
    folder: CheckpointFiles,
    config: dict[str, Any],
    settings: LoadSettings,
    text: str | None,
    default: int | None,
) -> int:
    if settings.mask_id is not None:
        return settings.mask_id
    stated, own = config.get("mask_token_id"), tokenizer.mask_token_id
    if stated is not None and own is not None and stated != own:
        raise UserError(
            f"pretrained '{folder.name}': config.json says mask_token_id {stated}, the tokenizer "
            f"{own}; choose one with mask_id="
        )
    expected = settings.known.mask_id if settings.known else None
    found = next(
        (i for i in (stated, own, token_id(tokenizer, text), default, expected) if i is not None),
        None,
    )
    if found is None:
        raise UserError(
            f"pretrained '{folder.name}': neither its tokenizer nor its config.json names a mask "
            "token; set mask_id="
        )
    if expected is not None and found != expected:
        log.warning("%s: mask id %d, where %d was expected", folder.name, found, expected)
    return int(found)


def _ids(value: Any) -> list[int]:
    return (
        [] if value is None else list(value) if isinstance(value, (list, tuple)) else [int(value)]
    )


# -- how much longer a tokenizer.json can make a text ----------------------------------------------
# A few replacements, one after the other, multiply it without end.

LONGEST_GROWTH = 1000  # times; of published tokenizers, the most is below 40
PARTS = ("normalizers", "pretokenizers", "decoders", "processors")
STEPS = ("normalizer", "pre_tokenizer", "post_processor", "decoder")
UNICODE = 18  # times, which is what NFKC makes of U+FDFA
LONGER = {"NFC": 3, "NFD": 4, "NFKC": UNICODE, "NFKD": UNICODE, "Precompiled": UNICODE, "BertNormalizer": 4, "ByteLevel": 4}  # fmt: skip


def check_growth(tokenizer: Any) -> None:
    """Raises ValueError if a step of a tokenizer.json makes texts too much longer."""
    if not isinstance(tokenizer, Mapping):
        raise ValueError("tokenizer.json is no mapping")
    for step in STEPS:
        if _growth(tokenizer.get(step)) > LONGEST_GROWTH:
            raise ValueError(
                f"tokenizer.json has a {step} that makes a text more than {LONGEST_GROWTH} times "
                "longer"
            )


def _growth(part: Any) -> float:
    """Returns the most by which one step multiplies the length of a text."""
    if not isinstance(part, Mapping):
        return 1
    inner = [each for name in PARTS if isinstance(part.get(name), list) for each in part[name]]
    own = LONGER.get(str(part.get("type")), 1)
    return math.prod([own, *map(_growth, inner)], start=_written(part))


def _written(part: Mapping[str, Any]) -> float:
    content, pattern = part.get("content"), part.get("pattern")
    if isinstance(content, str) and isinstance(pattern, Mapping):
        # an empty one is found everywhere, and so may a regular expression be
        found = pattern.get("String")
        return (
            max(1, len(content) / len(found))
            if isinstance(found, str) and found
            else len(content) + 1
        )
    if isinstance(part.get("prepend"), str):
        return len(part["prepend"]) + 1
    single = part.get("single")
    return max(1, sum("Sequence" in piece for piece in single)) if isinstance(single, list) else 1
