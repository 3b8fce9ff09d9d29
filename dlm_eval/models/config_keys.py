"""Which keys of a config.json a family reads, and the check of a file against that table.

A key is read, or must hold its usual value (any other chooses a network that is not built here), or
is known to change no prediction. A key in no list is one warning, which the result repeats;
`strict_config=true` makes it an error. A key that the family needs and the file lacks is an error:
a library's default would be another network's. A checkpoint in the form of a class of transformers
has a table that is made from that class (`class_keys`).
"""

from __future__ import annotations

import difflib
import importlib
import inspect
import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any

from dlm_eval.errors import UserError
from dlm_eval.models.config_tables import (
    ACTIVATION,
    ANYTHING,
    COUNT,
    FLAG,
    HARMLESS,
    INDEX,
    LIST,
    NETWORK,
    NUMBER,
    POSITION,
    Kind,
    Usual,
    all_of,
    is_number,
)
from dlm_eval.models.loading import CheckpointFiles, LoadSettings
from dlm_eval.settings import shown

log = logging.getLogger(__name__)

Values = Mapping[str, Any]

# Scalings of rotary positions whose frequencies do not depend on the length of the batch, with the
# entries that each needs and may have.
SCALINGS: dict[str, tuple[set[str], set[str]]] = {
    "default": (set(), set()),
    "linear": ({"factor"}, set()),
    "llama3": (
        {"factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings"},
        set(),
    ),
    "yarn": (
        {"factor", "original_max_position_embeddings"},
        {"attention_factor", "beta_fast", "beta_slow", "mscale", "mscale_all_dim", "truncate"},
    ),
}


@dataclass(frozen=True)
class Rope:
    """Rotary positions of a family.

    Attributes:
        scalings: kinds of scaling that its network computes as its authors' code does.
        partial: whether it turns a part of each head, by `partial_rotary_factor`.
        more: further entries of `rope_parameters` that its network reads.
        needed: entries that it cannot do without.
    """

    scalings: tuple[str, ...] = ("default", "linear", "llama3", "yarn")
    partial: bool = False
    more: frozenset[str] = frozenset()
    needed: frozenset[str] = frozenset()


@dataclass(frozen=True)
class ConfigKeys:
    """What a family makes of the keys of config.json.

    Attributes:
        family: its name in messages.
        needed: keys that it reads and cannot do without; nested ones are named by dots.
        read: keys that it reads if they are there (null is the same as absent).
        defaults: values of `read` keys that are absent: those of the authors' code.
        usual: keys that must hold one of these values (absent: the first), or pass this test.
        harmless: keys that change no prediction; "training" stands for "training.weight" too.
        rope: how it reads rotary positions, or None if it has none.
    """

    family: str
    needed: Mapping[str, Kind]
    read: Mapping[str, Kind] = field(default_factory=dict)
    defaults: Values = field(default_factory=dict)
    usual: Mapping[str, Usual] = field(default_factory=dict)
    harmless: frozenset[str] = frozenset()
    rope: Rope | None = None

    def extended(
        self,
        needed: Mapping[str, Kind] | None = None,
        read: Mapping[str, Kind] | None = None,
        usual: Mapping[str, Usual] | None = None,
        harmless: frozenset[str] = frozenset(),
        **changes: Any,
    ) -> ConfigKeys:
        """Returns these facts with more entries."""
        return replace(
            self,
            needed={**self.needed, **(needed or {})},
            read={**self.read, **(read or {})},
            usual={**self.usual, **(usual or {})},
            harmless=self.harmless | harmless,
            **changes,
        )


@dataclass(frozen=True)
class Checked:
    """What a check found.

    Attributes:
        values: the needed and read keys, defaults filled in, rotary positions as `rope_parameters`
            in transformers 5's form.
        unread: keys in no list.
    """

    values: dict[str, Any]
    unread: tuple[str, ...]


ROPE_KEYS = ("rope_theta", "rope_scaling", "rope_parameters")


def check(raw: Values, facts: ConfigKeys, name: str) -> Checked:
    """Returns the values that `facts` reads of a config.json, and the keys that nobody knows.

    Args:
        raw: the file.
        facts: the family's table.
        name: the checkpoint's, for messages.

    Raises:
        UserError: a key is missing, of the wrong kind, or chooses a network that is not built here.
    """
    where = f"pretrained '{name}': config.json"
    raw = flat(raw) if any("." in key for key in facts.needed) else raw
    absent = [key for key in facts.needed if raw.get(key) is None]
    if (
        facts.rope
        and not absent
        and raw.get("rope_theta") is None
        and not raw.get("rope_parameters")
    ):
        absent = ["rope_theta"]
    if absent:
        raise UserError(
            f"pretrained '{name}' is not a {facts.family} checkpoint: "
            f"its config.json (model_type '{raw.get('model_type', 'unnamed')}') lacks "
            f"{', '.join(absent)}"
        )
    values = dict(facts.defaults)
    for key, kind in {**facts.needed, **facts.read}.items():
        value = raw.get(key)
        if value is None:
            continue
        if not kind.test(value):
            raise UserError(f"{where} has {key} {shown(repr(value))}; it must be {kind.called}")
        values[key] = value
    usual = {**NETWORK, **facts.usual}
    known = {*facts.needed, *facts.read, *(ROPE_KEYS if facts.rope else ())}
    for key in sorted((NETWORK.keys() - known - facts.harmless) | facts.usual.keys()):
        if key in raw:
            _check_usual(where, facts.family, key, raw[key], usual[key])
    if facts.rope:
        values["rope_parameters"] = rope_parameters(raw, facts.rope, facts.family, where)
    else:
        for key in ROPE_KEYS:
            if key not in known and raw.get(key) is not None and key not in facts.harmless:
                raise UserError(
                    f"{where} has {key} {shown(repr(raw[key]))}, which {facts.family} does not read"
                )
    known |= usual.keys() | facts.harmless | HARMLESS | set(ROPE_KEYS)
    return Checked(
        values,
        tuple(sorted(key for key in raw if key not in known and key.split(".")[0] not in known)),
    )


def flat(nested: Values, prefix: str = "") -> dict[str, Any]:
    """Returns nested entries by one name each, such as "model.length"."""
    found: dict[str, Any] = {}
    for key, value in nested.items():
        found |= (
            flat(value, f"{prefix}{key}.")
            if isinstance(value, Mapping)
            else {f"{prefix}{key}": value}
        )
    return found


def read_values(
    raw: Values, facts: ConfigKeys, folder: CheckpointFiles, settings: LoadSettings
) -> dict[str, Any]:
    """Returns the values that `facts` reads of config.json.

    Keys that nobody knows are a warning, and a note in the result.

    Raises:
        UserError: the table refuses the file, or it has unknown keys and `strict_config` is set.
    """
    checked = check(raw, facts, folder.name)
    if checked.unread:
        _report_unread(checked.unread, facts, folder.name, settings.strict_config)
        folder.notes["config_keys_not_read"] = list(checked.unread)
    return checked.values


def _report_unread(unread: tuple[str, ...], facts: ConfigKeys, name: str, strict: bool) -> None:
    listed = {*facts.needed, *facts.read, *facts.usual}
    guesses = []
    for key in unread:
        near = difflib.get_close_matches(key, listed - {key}, 1, 0.8)
        guesses.append(f"{key} (near {near[0]})" if near else key)
    told = f"pretrained '{name}': config.json has keys that {facts.family} does not know and does not read: {', '.join(guesses)}"
    if strict:
        raise UserError(f"{told}; strict_config=true makes this an error")
    log.warning("%s; the result lists them, strict_config=true makes this an error", told)


def _check_usual(where: str, family: str, key: str, value: Any, usual: Usual) -> None:
    if callable(usual):
        fits, must = usual(value), ""
    else:
        fits = any(
            value == one and isinstance(value, bool) == isinstance(one, bool) for one in usual
        )
        must = f"; it must be {' or '.join(json.dumps(one) if one in (None, True, False) else repr(one) for one in usual)}"
    if not fits:
        raise UserError(
            f"{where} has {key} {shown(repr(value))}, which chooses another network than the one "
            f"built for {family}{must}"
        )


# -- rotary positions, in every form in which they are written -------------------------------------


def rope_parameters(raw: Values, rope: Rope, family: str, where: str) -> dict[str, Any]:
    """Returns the rotary positions of config.json in transformers 5's form.

    They come from that form, or from `rope_theta` and `rope_scaling`.

    Raises:
        UserError: no base, two different ones, a scaling that this network does not compute, or an
            entry that nobody reads.
    """
    found = _entries(raw, where)
    base = _agreed("rope_theta", raw, found, where)
    if base is None:
        raise UserError(
            f"pretrained {where.removeprefix('pretrained ')} lacks rope_theta (in rope_parameters, "
            "or beside it)"
        )
    if not NUMBER.test(base):
        raise UserError(f"{where} has rope_theta {shown(repr(base))}; it must be {NUMBER.called}")
    kind = found["rope_type"]
    if kind not in rope.scalings:
        raise UserError(
            f"{where} scales rotary positions by '{shown(kind)}', which chooses another network "
            f"than the one built for {family}; "
            f"it must be {' or '.join(rope.scalings)}"
        )
    # what transformers takes, in every version
    if kind == "yarn" and raw.get("max_position_embeddings"):
        found.setdefault("original_max_position_embeddings", raw["max_position_embeddings"])
    partial = _agreed("partial_rotary_factor", raw, found, where)
    found.pop("partial_rotary_factor", None)
    _check_entries(found, rope, where)
    _check_partial(partial, rope, family, where)
    turned = {"partial_rotary_factor": partial} if rope.partial and partial is not None else {}
    return {**found, "rope_theta": float(base), **turned}


def _entries(raw: Values, where: str) -> dict[str, Any]:
    """Returns the entries of whichever of the two objects the file has."""
    new, old = raw.get("rope_parameters"), raw.get("rope_scaling")
    for key, value in (("rope_parameters", new), ("rope_scaling", old)):
        if value is not None and not isinstance(value, dict):
            raise UserError(f"{where} has {key} {shown(repr(value))}; it must be null or an object")
    if new:
        new = _of_all_layers(new, raw, where)
    if new and old and _scaling(new) != _scaling(old):
        raise UserError(f"{where} has rope_parameters and another rope_scaling; leave one out")
    return _canonical(new or old or {})


def _agreed(key: str, raw: Values, found: Values, where: str) -> Any:
    """Returns the value of a key among the rotary entries, or beside them, or the same in both."""
    outer, inner = raw.get(key), found.get(key)
    if outer is not None and inner is not None and outer != inner:
        raise UserError(
            f"{where} has {key} {shown(repr(outer))}, and {shown(repr(inner))} in rope_parameters; "
            "leave one out"
        )
    return inner if outer is None else outer


def _check_entries(found: Values, rope: Rope, where: str) -> None:
    kind = found["rope_type"]
    needed, more = SCALINGS[kind]
    needed, more = needed | rope.needed, more | rope.more
    if absent := sorted(needed - found.keys()):
        raise UserError(
            f"{where} scales rotary positions by '{kind}' and lacks {', '.join(absent)}"
        )
    if surplus := sorted(found.keys() - needed - more - {"rope_type", "rope_theta"}):
        raise UserError(
            f"{where} has {', '.join(surplus)} in its rotary positions, which '{kind}' does not "
            "read"
        )
    for key in sorted((needed | more) & found.keys() - {"truncate"}):
        least = NUMBER if key in ("factor", "original_max_position_embeddings") else POSITION
        if found[key] is not None and not least.test(found[key]):
            raise UserError(
                f"{where} has {key} {shown(repr(found[key]))} in its rotary positions; it must be "
                f"{least.called}"
            )


def _check_partial(partial: Any, rope: Rope, family: str, where: str) -> None:
    if partial is not None and not (is_number(partial) and 0 < partial <= 1):
        raise UserError(
            f"{where} has partial_rotary_factor {shown(repr(partial))}; it must be a number above "
            "0 and at most 1"
        )
    if partial is not None and partial != 1 and not rope.partial:
        raise UserError(
            f"{where} has partial_rotary_factor {shown(repr(partial))}, which chooses another "
            f"network than the one built for {family}; it must be 1"
        )


def _canonical(entries: Values) -> dict[str, Any]:
    """Returns rotary entries under their names of today: transformers 4 wrote `type`."""
    found = {key: value for key, value in entries.items() if key != "type"}
    found.setdefault("rope_type", entries.get("type") or "default")
    if found["rope_type"] is None:
        found["rope_type"] = "default"
    return found


def _scaling(entries: Values) -> dict[str, Any]:
    return {key: value for key, value in _canonical(entries).items() if key != "rope_theta"}


def _of_all_layers(entries: dict[str, Any], raw: Values, where: str) -> dict[str, Any]:
    """Returns the entries of all layers; transformers 5 can write some for each kind of layer."""
    kinds = {key: value for key, value in entries.items() if isinstance(value, dict)}
    if not kinds:
        return entries
    used = set(raw.get("layer_types") or kinds)
    chosen = [kinds[key] for key in sorted(used) if key in kinds]
    if len(kinds) != len(entries) or not chosen or any(one != chosen[0] for one in chosen):
        raise UserError(
            f"{where} has other rope_parameters for other layers; this network has one for all"
        )
    return chosen[0]


# -- tables that several families share ------------------------------------------------------------

# A decoder of transformers in the form of Llama: sizes, norm, activation, head.
DENSE = ConfigKeys(
    "a transformer",
    needed=all_of(
        COUNT,
        "vocab_size",
        "hidden_size",
        "intermediate_size",
        "num_hidden_layers",
        "num_attention_heads",
        "max_position_embeddings",
    )
    | {"rms_norm_eps": NUMBER},
    read={
        "hidden_act": ACTIVATION,
        "tie_word_embeddings": FLAG,
        "head_dim": COUNT,
        "num_key_value_heads": COUNT,
    },
    defaults={"hidden_act": "silu"},
    rope=Rope(),
)
# sliding_window counts only with use_sliding_window, which must be false.
WINDOWS = frozenset({"sliding_window", "max_window_layers"})
# Qwen2: q, k and v have a bias, whatever the file says.
QWEN2 = DENSE.extended(
    needed={"num_key_value_heads": COUNT},
    usual={"attention_bias": (None, True), "qkv_bias": (None, True)},
    harmless=WINDOWS,
)
# Qwen3: no such bias unless the file says so, and norms of q and k.
QWEN3 = DENSE.extended(
    needed={"num_key_value_heads": COUNT, "head_dim": COUNT},
    read={"attention_bias": FLAG},
    defaults={"hidden_act": "silu", "attention_bias": False},
    usual={"qk_norm": (None, True), "use_qk_norm": (None, True), "qk_layernorm": (None, True)},
    harmless=WINDOWS,
)
QWEN3_MOE = QWEN3.extended(
    needed=all_of(
        COUNT, "num_experts", "num_experts_per_tok", "moe_intermediate_size", "decoder_sparse_step"
    )
    | {"norm_topk_prob": FLAG},
    read={"mlp_only_layers": LIST},
    defaults={"hidden_act": "silu", "attention_bias": False, "mlp_only_layers": []},
)


# -- the table of one of transformers' own classes -------------------------------------------------

# Fields that make up an architecture: if a class has a number of its own for one, that is another
# network's.
OWN: dict[str, Kind] = all_of(
    COUNT, "vocab_size", "hidden_size", "intermediate_size", "moe_intermediate_size", "num_hidden_layers", "num_attention_heads",
    "num_key_value_heads", "head_dim", "num_experts", "num_experts_per_tok", "max_position_embeddings", "n_embd", "n_layer", "n_head",
    "n_positions", "canvas_length",
) | all_of(INDEX, "type_vocab_size") | all_of(NUMBER, "rms_norm_eps", "layer_norm_eps", "layer_norm_epsilon", "norm_eps")  # fmt: skip
TURNED = "partial_rotary_factor"


def check_class(
    config_class: Any, raw: Mapping[str, Any], folder: CheckpointFiles, settings: LoadSettings
) -> dict[str, Any]:
    """Returns the values of config.json that a config class of transformers reads.

    Raises:
        UserError: the file lacks what the class would fill in with another network's, or has what
            the class does not read.
    """
    facts = class_keys(config_class, raw)
    values = read_values(raw, facts, folder, settings)
    if "rope_parameters" in facts.read and not any(_is_base(key) for key in flat(raw)):
        raise UserError(
            f"pretrained '{folder.name}' is not a {facts.family} checkpoint: its config.json "
            "(model_type "
            f"'{raw.get('model_type', 'unnamed')}') lacks rope_theta"
        )
    return values


def class_keys(config_class: Any, raw: Mapping[str, Any]) -> ConfigKeys:
    """Returns the table of a config class.

    It reads its fields, and what its own code asks for by name (names of earlier versions).
    """
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
    return ConfigKeys(
        family, needed, all_of(ANYTHING, *sorted(read)), usual=usual, harmless=frozenset(harmless)
    )


def _is_base(key: str) -> bool:
    return key.endswith("rope_theta") or key.rpartition(".")[2] == "rotary_emb_base"


def _turns_a_part(config_class: Any) -> bool:
    """Returns whether this network turns a part of each head; others ignore that key."""
    place = config_class.__module__.replace("configuration_", "modeling_")
    return TURNED in inspect.getsource(importlib.import_module(place))
