"""From names of a checkpoint's tensors to the parts of parameters that they fill here."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

# transformers keeps the experts of a layer in two parameters: [experts, 2 x inner, hidden] and
# [experts, hidden, inner].
EXPERT = re.compile(r"(.+\.experts)\.(\d+)\.(gate|up|down)_proj\.weight")


@dataclass(frozen=True)
class Naming:
    """How a family's authors name tensors.

    Attributes:
        renames: regular expressions from their names to the network's; one group each at most.
        fused: regular expressions of tensors that hold several of the network's, one above the
            other. transformers splits them by conversions that the family registers for its class,
            which then include `renames`.
        prefixes: what the authors' class also calls a part of the network: (theirs, ours).
    """

    renames: Mapping[str, str] = field(default_factory=dict)
    fused: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    prefixes: tuple[tuple[str, str], ...] = ()

    def translate(self, name: str) -> list[str]:
        """Returns the network's names for a tensor of the checkpoint, several if it is fused."""
        for pattern, parts in self.fused.items():
            if re.search(pattern, name):
                return [re.sub(pattern, part, name) for part in parts]
        for pattern, replacement in self.renames.items():
            name = re.sub(pattern, replacement, name)
        return [name]


@dataclass(frozen=True)
class Slot:
    """Rows `begin` to `end` (None: all) of a parameter or of an expert's matrix in it."""

    parameter: str
    expert: int | None = None
    begin: int = 0
    end: int | None = None

    def of(self, parameter: Tensor) -> Tensor:
        """Returns the part, a view."""
        return (parameter if self.expert is None else parameter[self.expert])[self.begin : self.end]


def find_slots(names: list[str], parameters: Mapping[str, Tensor]) -> list[Slot] | None:
    """Returns where tensors of the network's names lie, or None if one lies nowhere."""
    slots = []
    for name in names:
        expert = EXPERT.fullmatch(name)
        if name in parameters:
            slots.append(Slot(name))
        elif expert and (slot := _expert_slot(expert, parameters)):
            slots.append(slot)
        else:
            return None
    return slots


def _expert_slot(found: re.Match[str], parameters: Mapping[str, Tensor]) -> Slot | None:
    experts, number, kind = found[1], int(found[2]), found[3]
    parameter = f"{experts}.down_proj" if kind == "down" else f"{experts}.gate_up_proj"
    if parameter not in parameters or not 0 <= number < len(parameters[parameter]):
        return None
    if kind == "down":
        return Slot(parameter, number)
    inner = parameters[parameter].shape[1] // 2
    return Slot(parameter, number, 0, inner) if kind == "gate" else Slot(parameter, number, inner)


def all_parameters(model: Any) -> dict[str, Tensor]:
    """Returns every parameter of a network by name, tied ones under each of their names."""
    return dict(model.named_parameters(remove_duplicate=False))


def own_parameter(model: Any, name: str) -> Tensor:
    """Returns the parameter of that name, untied: a change to it leaves others as they are."""
    module = model.get_submodule(name.rpartition(".")[0])
    leaf = name.rpartition(".")[2]
    parameter: Tensor = module.get_parameter(leaf)
    if sum(other is parameter for other in all_parameters(model).values()) > 1:
        parameter = torch.nn.Parameter(parameter.detach().clone(), requires_grad=False)
        setattr(module, leaf, parameter)
    return parameter
