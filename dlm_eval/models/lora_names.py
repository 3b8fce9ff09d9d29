"""The modules that a LoRA adapter names, and their places in a network.

An adapter names modules of its authors' class, of transformers' class, or of either without its head.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from dlm_eval.errors import UserError
from dlm_eval.models.loading import CheckpointFiles
from dlm_eval.models.naming import Naming, Slot, all_parameters, find_slots

Places = dict[str, list[Slot]]  # names of linear layers, and the parts of parameters they are


def possible_names(model: Any, base: CheckpointFiles, naming: Naming) -> list[Places]:
    """Returns the places of linear layers for each set of names that an adapter may use."""
    parameters = all_parameters(model)
    shapes = base.shapes()
    theirs = [key for key, shape in shapes.items() if len(shape) == 2]
    ours = [key for key, value in parameters.items() if value.dim() == 2]
    candidates = [_placed(theirs, naming, parameters), _placed(ours, Naming(), parameters)]
    for name, alias in naming.prefixes:
        candidates += [
            {
                name + key.removeprefix(alias): slots
                for key, slots in candidates[1].items()
                if key.startswith(alias)
            }
        ]
    inner = [one for places in candidates for one in _inside(places)]
    return candidates + inner + [one for places in inner for one in _inside(places)]


def _inside(places: Places) -> list[Places]:
    """Returns the names as the modules one level down would give them."""
    levels = sorted({key.partition(".")[0] for key in places if "." in key})
    return [
        {
            key.removeprefix(f"{first}."): slots
            for key, slots in places.items()
            if key.startswith(f"{first}.")
        }
        for first in levels
    ]


def _placed(keys: list[str], naming: Naming, parameters: Mapping[str, Tensor]) -> Places:
    placed = {}
    for key in keys:
        slots = find_slots(naming.translate(key), parameters)
        if slots is not None and key.endswith(".weight"):
            placed[key.removesuffix(".weight")] = slots
    return placed


def fitting_names(
    pairs: Mapping[str, Any], config: Mapping[str, Any], candidates: list[Places], where: str
) -> Places:
    """Returns the names of which the adapter has all that it targets and no other.

    Raises:
        UserError: there are none; the message is about the nearest ones.
    """
    fitting = [places for places in candidates if pairs.keys() <= places.keys()]
    if not fitting:
        surplus = min((sorted(pairs.keys() - places.keys()) for places in candidates), key=len)
        raise UserError(
            f"{where} holds LoRA of {first_of(surplus)}, for which this network has no place "
            "(another base model?)"
        )
    lacking = [
        [module for module in places if _targeted(module, config) and module not in pairs]
        for places in fitting
    ]
    absent = min(lacking, key=len)
    if absent:
        raise UserError(
            f"{where} lacks weights that its config names: LoRA of {first_of(sorted(absent))}"
        )
    stray = [module for module in sorted(pairs) if not _targeted(module, config)]
    if stray and config.get("target_modules") not in (None, "all-linear"):
        raise UserError(
            f"{where} holds LoRA of {first_of(stray)}, which its target_modules does not name"
        )
    return fitting[lacking.index(absent)]


def _targeted(module: str, config: Mapping[str, Any]) -> bool:
    """Returns whether target_modules and what limits it name this module, as peft reads them."""
    if config.get("exclude_modules") and _named(module, config["exclude_modules"]):
        return False
    wanted = config.get("target_modules")
    if not wanted or not _named(module, wanted):
        return False
    layers = config.get("layers_to_transform")
    if layers is None or isinstance(wanted, str):
        return True
    patterns = config.get("layers_pattern") or ["[^.]*"]
    patterns = [patterns] if isinstance(patterns, str) else patterns
    matches = (re.match(rf".*\.{one}\.(\d+)\.", module) for one in patterns)
    found = next(filter(None, matches), None)
    return found is not None and int(found[1]) in (layers if isinstance(layers, list) else [layers])


def _named(module: str, wanted: Any) -> bool:
    if wanted == "all-linear":
        # what is linear differs from class to class: only what the file holds is known
        return False
    if isinstance(wanted, str):
        return re.fullmatch(wanted, module) is not None
    return any(module == one or module.endswith(f".{one}") for one in wanted)


def first_of(names: list[str]) -> str:
    """Returns the first name, and how many more there are."""
    return f"{names[0]}{f' and {len(names) - 1} more' if len(names) > 1 else ''}"
