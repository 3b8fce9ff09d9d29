"""LoRA adapters as peft saves them, merged into the weights: W + s B A.

All of an adapter is applied, or it is refused. peft would unpickle weights, import a module that the
config names, load a tokenizer with the config's arguments, and match the network's names with the
config's regular expressions, for ever if need be.

    adapter_config.json -> lora_config -> tensors -> lora_names (their places) -> changes -> weights
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers.pytorch_utils import Conv1D

from dlm_eval.errors import UserError
from dlm_eval.models.loading import CheckpointFiles, first_line, locate
from dlm_eval.models.lora_config import WEIGHTS, read_config
from dlm_eval.models.lora_names import first_of, fitting_names, possible_names
from dlm_eval.models.naming import Naming, Slot, all_parameters, own_parameter
from dlm_eval.models.weight_files import entries

PAIR = re.compile(r"(?:base_model\.model\.)?(.+)\.lora_([AB])(?:\.[^.]+)?\.weight")
# What else an adapter may hold, none of which is a term s B A of a linear layer.
OTHER = {
    "DoRA's magnitudes": "lora_magnitude_vector",
    "LoRA of an embedding": "lora_embedding_",
    "a bias of LoRA": "lora_B.bias",
    "trained tokens": "trainable_tokens",
}


@dataclass(frozen=True, eq=False)
class Change:
    """One module's s B A.

    Attributes:
        module: its name in the adapter.
        down: A [rank, in].
        up: B [out, rank].
        scale: s.
        slots: the parts of parameters that it fills, one above the other.
    """

    module: str
    down: Tensor
    up: Tensor
    scale: float
    slots: tuple[Slot, ...]


@dataclass(frozen=True, eq=False)
class Adapter:
    """A LoRA adapter whose every tensor has its place in a network."""

    folder: CheckpointFiles
    changes: tuple[Change, ...]

    def describe(self) -> dict[str, Any]:
        """Returns what was applied, for the result."""
        return {
            "modules": len(self.changes),
            "targets": sorted({change.module.rpartition(".")[2] for change in self.changes}),
            "ranks": sorted({len(change.down) for change in self.changes}),
            "scales": sorted({change.scale for change in self.changes}),
        }

    @torch.no_grad()
    def apply(self, model: Any) -> None:
        """Adds every change to the network's weights; to quantized ones, to what their layers give.

        Raises:
            UserError: a weight is not on this machine's devices, or is quantized and no linear
                layer's.
        """
        where = f"model_args peft '{self.folder.name}'"
        for change in self.changes:
            begin = 0
            for slot in change.slots:
                begin += _apply(change, slot, begin, model, where)


def _apply(change: Change, slot: Slot, begin: int, model: Any, where: str) -> int:
    """Adds the rows from `begin` of a change to a slot, and returns their number."""
    parameter, module = own_parameter(model, slot.parameter), _module(model, slot)
    if parameter.is_meta:
        raise UserError(
            f"{where} is not possible with weights offloaded by device_map ({slot.parameter})"
        )
    plain = type(parameter.data) is Tensor and parameter.is_floating_point()
    count: int = _size(slot, parameter, module)[0] if plain else module.out_features
    up = change.up[begin : begin + count]
    if plain:
        _add(slot.of(parameter), change.scale * (up.float() @ change.down.float()), module)
    elif slot.expert is None:
        module.register_forward_hook(_Addition(change.down, up, change.scale))
    else:
        raise UserError(f"{where} is not possible with quantized experts; merge it first")
    return count


def _module(model: Any, slot: Slot) -> Any:
    return model.get_submodule(slot.parameter.rpartition(".")[0])


class _Addition:
    """Adds s B A x to what a layer gives for x."""

    def __init__(self, down: Tensor, up: Tensor, scale: float) -> None:
        self.down, self.up, self.scale = down, up, scale

    def __call__(self, module: Any, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        x = inputs[0]
        down, up = (part.to(x.device, x.dtype) for part in (self.down, self.up))
        return output + (self.scale * F.linear(F.linear(x, down), up)).to(output.dtype)


def _add(part: Tensor, change: Tensor, module: Any) -> None:
    change = change.t() if isinstance(module, Conv1D) else change
    part.copy_(part.float() + change.to(part.device))


def read_adapter(setting: str, model: Any, base: CheckpointFiles, naming: Naming) -> Adapter:
    """Returns the adapter `setting` (folder or hub id) with the places of its tensors in `model`.

    The model's weights may be on no device yet.

    Args:
        setting: the option peft.
        model: the network, after its weights were put in place.
        base: the checkpoint, whose tensor names are those of its authors' class.
        naming: of the family.

    Raises:
        UserError: no adapter, one that is more than LoRA of linear layers, a tensor with no place,
            or a place with no tensor.
    """
    folder = locate(setting, setting="peft")
    where = f"model_args peft '{folder.name}'"
    config = read_config(folder, where)
    pairs = _pairs(_tensors(folder, where), where)
    named = fitting_names(pairs, config, possible_names(model, base, naming), where)
    parameters = all_parameters(model)
    changes = [
        _change(module, pairs[module], config, tuple(named[module]), parameters, model, where)
        for module in sorted(pairs)
    ]
    return Adapter(folder, tuple(changes))


def _tensors(folder: CheckpointFiles, where: str) -> dict[str, Tensor]:
    from safetensors.torch import load_file

    try:
        entries(folder.path / WEIGHTS)
        tensors: dict[str, Tensor] = load_file(folder.path / WEIGHTS)
        return tensors
    except Exception as error:  # safetensors raises kinds of its own for a broken file
        raise UserError(f"{where}: {first_line(error)}") from None


def _pairs(tensors: Mapping[str, Tensor], where: str) -> dict[str, dict[str, Tensor]]:
    """Returns A and B of each module."""
    pairs: dict[str, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        found = PAIR.fullmatch(key)
        if found is None:
            kind = next((called for called, part in OTHER.items() if part in key), "more than LoRA")
            raise UserError(
                f"{where} holds {key}, which is {kind} and not applied here; merge the adapter "
                "into its base model first"
            )
        pairs.setdefault(found[1], {})[found[2]] = value
    if half := sorted(module for module, pair in pairs.items() if len(pair) < 2):
        raise UserError(
            f"{where} holds lora_{next(iter(pairs[half[0]]))} of {first_of(half)} without its other "
            "half"
        )
    if not pairs:
        raise UserError(f"{where} holds no tensors")
    return pairs


def _change(
    module: str,
    pair: Mapping[str, Tensor],
    config: Mapping[str, Any],
    slots: tuple[Slot, ...],
    parameters: Mapping[str, Tensor],
    model: Any,
    where: str,
) -> Change:
    down, up = pair["A"], pair["B"]
    rank = _by_pattern(config.get("rank_pattern"), module, config["r"])
    alpha = _by_pattern(config.get("alpha_pattern"), module, config["lora_alpha"])
    if down.dim() != 2 or up.dim() != 2 or len(down) != rank or up.shape[1] != rank:
        raise UserError(
            f"{where}: LoRA of {module} has shapes {list(down.shape)} and {list(up.shape)}; its "
            f"rank is {rank}"
        )
    sizes = [_size(slot, parameters[slot.parameter], _module(model, slot)) for slot in slots]
    # quantized ones are packed
    plain = all(type(parameters[slot.parameter].data) is Tensor for slot in slots)
    if plain and (
        len(up) != sum(rows for rows, _ in sizes)
        or any(down.shape[1] != columns for _, columns in sizes)
    ):
        expected = [sum(rows for rows, _ in sizes), sizes[0][1]]
        raise UserError(
            f"{where}: LoRA of {module} is for a weight of {[len(up), down.shape[1]]}, and the "
            f"network's is {expected} (another base model?)"
        )
    scale = alpha / (rank**0.5 if config.get("use_rslora") else rank)
    return Change(module, down, up, float(scale), slots)


def _by_pattern(pattern: Mapping[str, Any] | None, module: str, default: Any) -> Any:
    """Returns the value of the first pattern that is this module's name or the end of it."""
    for key, value in (pattern or {}).items():
        if re.match(rf"(.*\.)?({key})$", module):
            return value
    return default


def _size(slot: Slot, parameter: Tensor, module: Any) -> tuple[int, int]:
    """Returns rows and columns of the matrix that the slot's layer multiplies with."""
    shape = slot.of(parameter).shape
    return (shape[1], shape[0]) if isinstance(module, Conv1D) else (shape[0], shape[1])
