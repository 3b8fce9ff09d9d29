"""The tokenizer and the special ids of a checkpoint, from its files."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from typing import Any

from dlm_eval.errors import UserError
from dlm_eval.models.config_tables import check_config
from dlm_eval.models.denoiser import NO_MASK
from dlm_eval.models.encoding import is_panic
from dlm_eval.models.loading import LARGEST_JSON, CheckpointFiles, LoadSettings, locate
from dlm_eval.models.text_growth import check_growth
from dlm_eval.models.tokenizer import TokenizerInfo
from dlm_eval.redaction import redact_message

TEXT_FILES = ["tokenizer*", "vocab*", "merges.txt", "*.model", "spiece*", "sentencepiece*"]
LARGEST_TEXT = 2**28  # bytes of a tokenizer's file; real ones have up to 35 million
log = logging.getLogger(__name__)


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
    tokenizer has it, `default_mask`, the named checkpoint's.

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
    own = {"bos_token_id": tokenizer.bos_token_id, "pad_token_id": tokenizer.pad_token_id}
    bos, pad = (config.get(key) if value is None else value for key, value in own.items())
    built = TokenizerInfo(tokenizer, mask_id, ends, bos, pad, where.name, mask_may_be_regular)
    _refuse_equal(built, folder, settings)
    return built


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


def _ids(value: Any) -> list[int]:
    return (
        [] if value is None else list(value) if isinstance(value, (list, tuple)) else [int(value)]
    )


def token_id(tokenizer: Any, text: str | None) -> int | None:
    """Returns the id of the single token `text`, or None if the tokenizer lacks it."""
    if text is None:
        return None
    found = tokenizer.get_vocab().get(text)
    return None if found is None else int(found)


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
