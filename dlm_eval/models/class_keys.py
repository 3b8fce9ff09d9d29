"""The table of config keys (see `config_facts`) of a checkpoint in the form of one of transformers' own classes."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from dlm_eval.errors import UserError
from dlm_eval.models.config_keys import WINDOWS, ConfigKeys, flat
from dlm_eval.models.config_tables import ANYTHING, COUNT, INDEX, NUMBER, Kind, Usual, all_of
from dlm_eval.models.loading import CheckpointFiles, LoadSettings, read_values

# Fields that make up an architecture: where a class has a number of its own for one, that is another network's.
OWN: dict[str, Kind] = all_of(
    COUNT, "vocab_size", "hidden_size", "intermediate_size", "moe_intermediate_size", "num_hidden_layers", "num_attention_heads",
    "num_key_value_heads", "head_dim", "num_experts", "num_experts_per_tok", "max_position_embeddings", "n_embd", "n_layer", "n_head",
    "n_positions", "canvas_length",
) | all_of(INDEX, "type_vocab_size") | all_of(NUMBER, "rms_norm_eps", "layer_norm_eps", "layer_norm_epsilon", "norm_eps")  # fmt: skip
ROPE_KEYS = ("rope_theta", "rope_scaling", "rope_parameters")
TURNED = "partial_rotary_factor"


def check_class(
    config_class: Any, raw: Mapping[str, Any], folder: CheckpointFiles, settings: LoadSettings
) -> dict[str, Any]:
    """Returns the values of config.json that a config class of transformers reads.

    Raises:
        UserError: the file lacks what the class would fill in with another network's, or has what the class does not read.
    """
    facts = class_keys(config_class, raw)
    values = read_values(raw, facts, folder, settings)
    if "rope_parameters" in facts.read and not any(_is_base(key) for key in flat(raw)):
        raise UserError(
            f"pretrained '{folder.name}' is not a {facts.family} checkpoint: its config.json (model_type "
            f"'{raw.get('model_type', 'unnamed')}') lacks rope_theta"
        )
    return values


def class_keys(config_class: Any, raw: Mapping[str, Any]) -> ConfigKeys:
    """Returns the table of a config class: it reads its fields and what its own code asks for by name (names of earlier versions)."""
    defaults = {field.name: field.default for field in fields(config_class)}
    asked = inspect.getsource(config_class)
    needed = {key: kind for key, kind in OWN.items() if isinstance(defaults.get(key), (int, float))}
    read = {key for key in defaults if key not in needed} | {
        key for key in raw if f'"{key}"' in asked and key not in needed
    }
    if "rope_parameters" in defaults:
        read |= {*ROPE_KEYS, *([TURNED] if _turns_a_part(config_class) else [])}
    usual: dict[str, Usual] = {"is_causal": (None, False, True)}
    if "use_sliding_window" not in defaults and "sliding_window" not in defaults:
        usual["sliding_window"] = (None,)
    # A block is an option here, not the file's.
    harmless = (
        {"block_size", "block_length"}
        | WINDOWS - usual.keys()
        | ({"hidden_act"} if "hidden_activation" in defaults else set())
    )
    family = config_class.__name__.removesuffix("Config")
    return ConfigKeys(family, needed, all_of(ANYTHING, *sorted(read)), usual=usual, harmless=frozenset(harmless))


def _is_base(key: str) -> bool:
    return key.endswith("rope_theta") or key.rpartition(".")[2] == "rotary_emb_base"


def _turns_a_part(config_class: Any) -> bool:
    """Returns whether the network of this class turns a part of each head by `partial_rotary_factor`; others ignore it."""
    place = config_class.__module__.replace("configuration_", "modeling_")
    return TURNED in inspect.getsource(importlib.import_module(place))
