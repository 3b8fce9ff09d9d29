"""Which keys of a config.json a family reads, and the check of a file against that table.

A key is read, or must hold its usual value (any other chooses a network that is not built here), or is known to
change no prediction. A key in no list is one warning, which the result repeats; `strict_config=true` makes it an
error. A key that the family needs and the file lacks is an error: a library's default would be another network's.
"""

from __future__ import annotations

import difflib
import logging
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from dlm_eval.errors import UserError
from dlm_eval.models.config_tables import ACTIVATION, COUNT, FLAG, HARMLESS, LIST, NETWORK, NUMBER, Kind, Usual, all_of
from dlm_eval.models.rope_keys import Rope, rope_parameters

log = logging.getLogger(__name__)

Values = Mapping[str, Any]


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
        values: the needed and read keys, defaults filled in, rotary positions as `rope_parameters` in transformers 5's form.
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
    if facts.rope and not absent and raw.get("rope_theta") is None and not raw.get("rope_parameters"):
        absent = ["rope_theta"]
    if absent:
        raise UserError(
            f"pretrained '{name}' is not a {facts.family} checkpoint: its config.json (model_type '{raw.get('model_type', 'unnamed')}') "
            f"lacks {', '.join(absent)}"
        )
    values = dict(facts.defaults)
    for key, kind in {**facts.needed, **facts.read}.items():
        value = raw.get(key)
        if value is None:
            continue
        if not kind.test(value):
            raise UserError(f"{where} has {key} {value!r}; it must be {kind.called}")
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
                raise UserError(f"{where} has {key} {raw[key]!r}, which {facts.family} does not read")
    known |= usual.keys() | facts.harmless | HARMLESS | set(ROPE_KEYS)
    return Checked(values, tuple(sorted(key for key in raw if key not in known and key.split(".")[0] not in known)))


def flat(nested: Values, prefix: str = "") -> dict[str, Any]:
    """Returns nested entries by one name each, such as "model.length"."""
    found: dict[str, Any] = {}
    for key, value in nested.items():
        found |= flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return found


def report_unread(unread: tuple[str, ...], facts: ConfigKeys, name: str, strict: bool) -> None:
    """Warns of keys that nobody knows, in one line; with `strict` raises UserError."""
    if not unread:
        return
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
        if not usual(value):
            raise UserError(
                f"{where} has {key} {value!r}, which chooses another network than the one built for {family}"
            )
        return
    if not any(value == one and isinstance(value, bool) == isinstance(one, bool) for one in usual):
        allowed = " or ".join(
            "null" if one is None else str(one).lower() if isinstance(one, bool) else repr(one) for one in usual
        )
        raise UserError(
            f"{where} has {key} {value!r}, which chooses another network than the one built for {family}; it must be {allowed}"
        )


# -- tables that several families share ----------------------------------------------------------------

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
    read={"hidden_act": ACTIVATION, "tie_word_embeddings": FLAG, "head_dim": COUNT, "num_key_value_heads": COUNT},
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
    needed=all_of(COUNT, "num_experts", "num_experts_per_tok", "moe_intermediate_size", "decoder_sparse_step")
    | {"norm_topk_prob": FLAG},
    read={"mlp_only_layers": LIST},
    defaults={"hidden_act": "silu", "attention_bias": False, "mlp_only_layers": []},
)
