"""What a LoRA adapter's files may say. peft would unpickle weights, import a module that the config names, load a tokenizer with the config's
arguments, and match the network's names with the config's regular expressions, for ever if need be.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

try:
    from re import _constants as codes  # type: ignore[attr-defined]
    from re import _parser as parser  # type: ignore[attr-defined]
except ImportError:  # Python 3.10
    import sre_constants as codes  # type: ignore[no-redef]
    import sre_parse as parser  # type: ignore[no-redef]

from dlm_eval.errors import UserError
from dlm_eval.models.loading import CheckpointFiles

WEIGHTS = "adapter_model.safetensors"
LARGEST_RANK = 2**16
LONGEST_PATTERN = 4096  # characters
# entries with which peft runs other code, or computes weights anew from the network's
REFUSED = [
    "megatron_config",
    "tokenizer_kwargs",
    "loftq_config",
    "eva_config",
    "corda_config",
    "lora_ga_config",
]
PATTERNS = ["target_modules", "exclude_modules", "layers_pattern", "modules_to_save", "target_parameters"]
PATTERN_TABLES = ["rank_pattern", "alpha_pattern"]


def check_adapter(folder: CheckpointFiles) -> None:
    """Raises UserError if the folder is no LoRA adapter in safetensors, or if its config asks for more than weights that are added."""
    whose = f"model_args peft '{folder.name}'"
    if not (folder.path / "adapter_config.json").is_file():
        raise UserError(f"{whose} has no adapter_config.json; it must be a folder saved by peft")
    if not (folder.path / WEIGHTS).is_file():
        pickle = (folder.path / "adapter_model.bin").is_file()
        why = "; adapter_model.bin is a pickle, which can run code and is not read: save it as safetensors"
        raise UserError(f"{whose} has no {WEIGHTS}{why if pickle else ''}")
    config = folder.read_json("adapter_config.json")
    if config.get("peft_type") != "LORA":
        raise UserError(f"{whose} has peft_type '{config.get('peft_type')}'; only LORA can be merged")
    for key in REFUSED:
        if config.get(key):
            raise UserError(f"{whose}: adapter_config.json has {key}, which is not run; an adapter is weights alone")
    ranks = config.get("rank_pattern") or {}
    for rank in [config.get("r"), *(ranks.values() if isinstance(ranks, dict) else [ranks])]:
        if type(rank) is not int or not 1 <= rank <= LARGEST_RANK:
            raise UserError(f"{whose}: rank {str(rank)[:40]} is not possible; it must be 1 to {LARGEST_RANK}")
    for pattern in _patterns(config):
        if len(pattern) > LONGEST_PATTERN or explodes(pattern):
            raise UserError(
                f"{whose}: the regular expression '{pattern[:60]}' can run for ever; name the modules plainly"
            )


def explodes(pattern: str) -> bool:
    """Returns whether a regular expression repeats something that repeats or chooses itself, such as (a+)+: exponential time on some texts."""
    try:
        return _nested(parser.parse(pattern), inside=False)
    except (re.error, RecursionError, OverflowError):
        return True


def _nested(tree: Any, inside: bool) -> bool:
    for code, value in tree:
        if code in (codes.MAX_REPEAT, codes.MIN_REPEAT):
            least, most, body = value
            several = most > 1
            if (inside and most > least) or _nested(body, inside or several):
                return True
        elif code is codes.BRANCH:
            if inside or any(_nested(branch, inside) for branch in value[1]):
                return True
        elif code is codes.SUBPATTERN:
            if _nested(value[-1], inside):
                return True
        elif code in (codes.ASSERT, codes.ASSERT_NOT):
            if _nested(value[1], inside):
                return True
        elif code is codes.GROUPREF_EXISTS:
            return True
    return False


def _patterns(config: dict[str, Any]) -> Iterator[str]:
    """Yields every text that peft takes, or could take, for a regular expression."""
    for key in PATTERNS:
        value = config.get(key)
        yield from [value] if isinstance(value, str) else map(str, value or ())
    for key in PATTERN_TABLES:
        yield from map(str, config.get(key) or ())
