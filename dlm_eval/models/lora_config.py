"""What the files of a LoRA adapter may say: adapter_config.json of a plain sum W + s B A."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from dlm_eval.errors import UserError
from dlm_eval.models.config_tables import COUNT, FLAG, NUMBER
from dlm_eval.models.loading import CheckpointFiles
from dlm_eval.models.regular_expressions import explodes
from dlm_eval.settings import shown

WEIGHTS = "adapter_model.safetensors"
# Keys of adapter_config.json with the values under which the adapter is the plain sum.
USUAL: dict[str, tuple[Any, ...]] = {
    "bias": ("none", None),
    "use_dora": (False, None),
    "modules_to_save": (None, []),
    "lora_bias": (False, None),
    "trainable_token_indices": (None, [], {}),
    "layer_replication": (None, []),
    "target_parameters": (None, []),
    "alora_invocation_tokens": (None, []),
    "use_qalora": (False, None),
    "use_bdlora": (False, None),
    "arrow_config": (None,),
    "kasa_config": (None,),
    "velora_config": (None,),
    "monteclora_config": (None,),
    "ensure_weight_tying": (False, None),
    # The others change the base weights when they begin: the sum would be on top of weights that
    # are not in the checkpoint.
    "init_lora_weights": (True, False, None, "gaussian", "eva", "orthogonal"),
}
READ = {
    "peft_type", "r", "lora_alpha", "use_rslora", "rank_pattern", "alpha_pattern", "target_modules", "exclude_modules",
    "layers_to_transform", "layers_pattern",
}  # fmt: skip
HARMLESS = {
    "task_type", "auto_mapping", "peft_version", "base_model_name_or_path", "revision", "inference_mode", "lora_dropout",
    "fan_in_fan_out", "megatron_core", "qalora_group_size", "runtime_config",
}  # fmt: skip
LARGEST_RANK = 2**16
LONGEST_PATTERN = 4096  # characters
# Entries with which peft runs other code, or computes weights anew from the network's
REFUSED = [
    "megatron_config",
    "tokenizer_kwargs",
    "loftq_config",
    "eva_config",
    "corda_config",
    "lora_ga_config",
]
PATTERNS = [
    "target_modules",
    "exclude_modules",
    "layers_pattern",
    "modules_to_save",
    "target_parameters",
]
PATTERN_TABLES = ["rank_pattern", "alpha_pattern"]


def adapter_files(path: Path) -> list[Path]:
    """Returns the files of an adapter that count."""
    return [path / "adapter_config.json", path / WEIGHTS]


def read_config(folder: CheckpointFiles, whose: str) -> dict[str, Any]:
    """Returns the config of a LoRA adapter in safetensors whose weights are the plain sum W + s B A.

    Raises:
        UserError: it is no such adapter, or its config asks for more.
    """
    _check_files(folder, whose)
    config = folder.read_json("adapter_config.json")
    if config.get("peft_type") != "LORA":
        raise UserError(
            f"{whose} has peft_type '{config.get('peft_type')}'; only LORA can be merged"
        )
    for key in REFUSED:
        if config.get(key):
            raise UserError(
                f"{whose}: adapter_config.json has {key}, which is not run; an adapter is weights "
                "alone"
            )
    _check_ranks(config, whose)
    for pattern in _patterns(config):
        if len(pattern) > LONGEST_PATTERN or explodes(pattern):
            raise UserError(
                f"{whose}: the regular expression '{pattern[:60]}' can run for ever; name the "
                "modules plainly"
            )
    _check_sum(config, f"{whose}: adapter_config.json")
    _check_scale(config, f"{whose}: adapter_config.json")
    return config


def _check_files(folder: CheckpointFiles, whose: str) -> None:
    if not (folder.path / "adapter_config.json").is_file():
        raise UserError(f"{whose} has no adapter_config.json; it must be a folder saved by peft")
    if not (folder.path / WEIGHTS).is_file():
        pickle = (folder.path / "adapter_model.bin").is_file()
        why = "; adapter_model.bin is a pickle, which can run code and is not read: save it as safetensors"
        raise UserError(f"{whose} has no {WEIGHTS}{why if pickle else ''}")


def _check_ranks(config: Mapping[str, Any], whose: str) -> None:
    ranks = config.get("rank_pattern") or {}
    for rank in [config.get("r"), *(ranks.values() if isinstance(ranks, dict) else [ranks])]:
        if type(rank) is not int or not 1 <= rank <= LARGEST_RANK:
            raise UserError(
                f"{whose}: rank {str(rank)[:40]} is not possible; it must be 1 to {LARGEST_RANK}"
            )


def _patterns(config: dict[str, Any]) -> Iterator[str]:
    """Yields every text that peft takes, or could take, for a regular expression."""
    for key in PATTERNS:
        value = config.get(key)
        yield from [value] if isinstance(value, str) else map(str, value or ())
    for key in PATTERN_TABLES:
        yield from map(str, config.get(key) or ())


def _check_sum(config: Mapping[str, Any], where: str) -> None:
    """Raises UserError if an entry asks for more than the sum."""
    for key, allowed in USUAL.items():
        value = config.get(key, allowed[0])
        if not any(
            value == one and isinstance(value, bool) == isinstance(one, bool) for one in allowed
        ):
            raise _not_merged(where, key, value, "is not applied here")
    for key in config.keys() - USUAL.keys() - READ - HARMLESS:
        if config[key] not in (None, False, [], {}, ""):
            raise _not_merged(where, key, config[key], "nobody here knows")


def _not_merged(where: str, key: str, value: Any, why: str) -> UserError:
    return UserError(
        f"{where} has {key} {shown(repr(value))}, which {why}; merge the adapter into its base "
        "model first"
    )


def _check_scale(config: Mapping[str, Any], where: str) -> None:
    """Raises UserError if an entry that the scale is made of has another type."""
    for key, value, kind in (
        ("lora_alpha", config.get("lora_alpha"), NUMBER),
        ("use_rslora", config.get("use_rslora", False), FLAG),
    ):
        if not kind.test(value):
            raise UserError(f"{where} has {key} {shown(repr(value))}; it must be {kind.called}")
    for key, kind in (("rank_pattern", COUNT), ("alpha_pattern", NUMBER)):
        pattern = config.get(key) or {}
        if not isinstance(pattern, dict) or not all(kind.test(value) for value in pattern.values()):
            raise UserError(
                f"{where} has {key} {shown(repr(pattern))}; it must map module names to "
                f"{kind.called}"
            )
