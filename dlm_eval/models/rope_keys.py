"""Rotary positions of a config.json, in every form in which they are written, checked against what a family's network computes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from dlm_eval.errors import UserError
from dlm_eval.models.config_tables import NUMBER, POSITION, is_number

Values = Mapping[str, Any]

# Scalings of rotary positions whose frequencies do not depend on the length of the batch, with the entries that each needs and may have.
SCALINGS: dict[str, tuple[set[str], set[str]]] = {
    "default": (set(), set()),
    "linear": ({"factor"}, set()),
    "llama3": ({"factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings"}, set()),
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


def rope_parameters(raw: Values, rope: Rope, family: str, where: str) -> dict[str, Any]:
    """Returns the rotary positions of config.json in transformers 5's form, from that form or from `rope_theta` and `rope_scaling`.

    Raises:
        UserError: no base, two different ones, a scaling that this network does not compute, or an entry that nobody reads.
    """
    found = _entries(raw, where)
    base = _agreed("rope_theta", raw, found, where)
    if base is None:
        raise UserError(
            f"pretrained {where.removeprefix('pretrained ')} lacks rope_theta (in rope_parameters, or beside it)"
        )
    if not NUMBER.test(base):
        raise UserError(f"{where} has rope_theta {base!r}; it must be {NUMBER.called}")
    kind = found["rope_type"]
    if kind not in rope.scalings:
        raise UserError(
            f"{where} scales rotary positions by '{kind}', which chooses another network than the one built for {family}; "
            f"it must be {' or '.join(rope.scalings)}"
        )
    if kind == "yarn" and raw.get("max_position_embeddings"):  # what transformers takes, in every version
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
            raise UserError(f"{where} has {key} {value!r}; it must be null or an object")
    if new:
        new = _of_all_layers(new, raw, where)
    if new and old and _scaling(new) != _scaling(old):
        raise UserError(f"{where} has rope_parameters and another rope_scaling; leave one out")
    return _canonical(new or old or {})


def _agreed(key: str, raw: Values, found: Values, where: str) -> Any:
    """Returns the value of a key that may be among the rotary entries, beside them, or in both places if it is the same."""
    outer, inner = raw.get(key), found.get(key)
    if outer is not None and inner is not None and outer != inner:
        raise UserError(f"{where} has {key} {outer!r}, and {inner!r} in rope_parameters; leave one out")
    return inner if outer is None else outer


def _check_entries(found: Values, rope: Rope, where: str) -> None:
    kind = found["rope_type"]
    needed, more = SCALINGS[kind]
    needed, more = needed | rope.needed, more | rope.more
    if absent := sorted(needed - found.keys()):
        raise UserError(f"{where} scales rotary positions by '{kind}' and lacks {', '.join(absent)}")
    if surplus := sorted(found.keys() - needed - more - {"rope_type", "rope_theta"}):
        raise UserError(f"{where} has {', '.join(surplus)} in its rotary positions, which '{kind}' does not read")
    for key in sorted((needed | more) & found.keys() - {"truncate"}):
        least = NUMBER if key in ("factor", "original_max_position_embeddings") else POSITION
        if found[key] is not None and not least.test(found[key]):
            raise UserError(f"{where} has {key} {found[key]!r} in its rotary positions; it must be {least.called}")


def _check_partial(partial: Any, rope: Rope, family: str, where: str) -> None:
    if partial is not None and not (is_number(partial) and 0 < partial <= 1):
        raise UserError(f"{where} has partial_rotary_factor {partial!r}; it must be a number above 0 and at most 1")
    if partial is not None and partial != 1 and not rope.partial:
        raise UserError(
            f"{where} has partial_rotary_factor {partial!r}, which chooses another network than the one built for {family}; it must be 1"
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
    """Returns the entries that hold for every layer; transformers 5 also writes one object for each kind of layer."""
    kinds = {key: value for key, value in entries.items() if isinstance(value, dict)}
    if not kinds:
        return entries
    used = set(raw.get("layer_types") or kinds)
    chosen = [kinds[key] for key in sorted(used) if key in kinds]
    if len(kinds) != len(entries) or not chosen or any(one != chosen[0] for one in chosen):
        raise UserError(f"{where} has other rope_parameters for other layers; this network has one for all")
    return chosen[0]
