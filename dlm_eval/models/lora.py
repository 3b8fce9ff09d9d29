"""LoRA adapters as peft saves them, merged into the weights: W + s B A.

An adapter names modules of its authors' class, of transformers' class, or of either without its
head. All of it is applied, or it is refused. peft would unpickle weights, import a module that the
config names, load a tokenizer with the config's arguments, and match the network's names with the
config's regular expressions, for ever if need be.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from re import _constants as codes  # type: ignore[attr-defined]
from re import _parser as parser  # type: ignore[attr-defined]
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers.pytorch_utils import Conv1D

from dlm_eval.errors import UserError
from dlm_eval.models.config_tables import COUNT, FLAG, NUMBER
from dlm_eval.models.loading import CheckpointFiles, first_line, locate
from dlm_eval.models.naming import Naming, Slot, all_parameters, find_slots, own_parameter
from dlm_eval.models.weight_files import entries
from dlm_eval.settings import shown

WEIGHTS = "adapter_model.safetensors"
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
        for change in self.changes:
            begin = 0
            for slot in change.slots:
                parameter = own_parameter(model, slot.parameter)
                module = model.get_submodule(slot.parameter.rpartition(".")[0])
                if parameter.is_meta:
                    raise UserError(
                        f"model_args peft '{self.folder.name}' is not possible with weights "
                        f"offloaded by device_map ({slot.parameter})"
                    )
                plain = type(parameter.data) is Tensor and parameter.is_floating_point()
                count = _size(slot, parameter, module)[0] if plain else module.out_features
                up = change.up[begin : begin + count]
                begin += count
                if plain:
                    _add(
                        slot.of(parameter),
                        change.scale * (up.float() @ change.down.float()),
                        module,
                    )
                elif slot.expert is None:
                    module.register_forward_hook(_Addition(change.down, up, change.scale))
                else:
                    raise UserError(
                        f"model_args peft '{self.folder.name}' is not possible with quantized "
                        "experts; merge it first"
                    )


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
    config = _read_config(folder, where)
    pairs = _pairs(_tensors(folder, where), where)
    named = _fitting(pairs, config, _worlds(model, base, naming), where)
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
            f"{where} holds lora_{next(iter(pairs[half[0]]))} of {_listed(half)} without its other "
            "half"
        )
    if not pairs:
        raise UserError(f"{where} holds no tensors")
    return pairs


def _worlds(model: Any, base: CheckpointFiles, naming: Naming) -> list[dict[str, list[Slot]]]:
    """Returns the places of linear layers by each set of names that an adapter may use."""
    parameters = all_parameters(model)
    shapes = base.shapes()
    theirs = [key for key, shape in shapes.items() if len(shape) == 2]
    ours = [key for key, value in parameters.items() if value.dim() == 2]
    worlds = [_placed(theirs, naming, parameters), _placed(ours, Naming(), parameters)]
    for name, alias in naming.prefixes:
        worlds += [
            {
                name + key.removeprefix(alias): slots
                for key, slots in worlds[1].items()
                if key.startswith(alias)
            }
        ]
    inner = [one for world in worlds for one in _inside(world)]
    return worlds + inner + [one for world in inner for one in _inside(world)]


def _inside(world: dict[str, list[Slot]]) -> list[dict[str, list[Slot]]]:
    """Returns the names as the modules one level down would give them."""
    levels = sorted({key.partition(".")[0] for key in world if "." in key})
    return [
        {
            key.removeprefix(f"{first}."): slots
            for key, slots in world.items()
            if key.startswith(f"{first}.")
        }
        for first in levels
    ]


def _placed(
    keys: list[str], naming: Naming, parameters: Mapping[str, Tensor]
) -> dict[str, list[Slot]]:
    placed = {}
    for key in keys:
        slots = find_slots(naming.translate(key), parameters)
        if slots is not None and key.endswith(".weight"):
            placed[key.removesuffix(".weight")] = slots
    return placed


def _fitting(
    pairs: Mapping[str, Any],
    config: Mapping[str, Any],
    worlds: list[dict[str, list[Slot]]],
    where: str,
) -> dict[str, list[Slot]]:
    """Returns the names of which the adapter has all that it targets and no other.

    Raises:
        UserError: there are none; the message is about the nearest ones.
    """
    fitting = [world for world in worlds if pairs.keys() <= world.keys()]
    if not fitting:
        surplus = min(
            (sorted(pairs.keys() - world.keys()) for world in worlds), key=lambda names: len(names)
        )
        raise UserError(
            f"{where} holds LoRA of {_listed(surplus)}, for which this network has no place "
            "(another base model?)"
        )
    lacking = [
        [module for module in world if _targeted(module, config) and module not in pairs]
        for world in fitting
    ]
    absent = min(lacking, key=len)
    if absent:
        raise UserError(
            f"{where} lacks weights that its config names: LoRA of {_listed(sorted(absent))}"
        )
    stray = [module for module in sorted(pairs) if not _targeted(module, config)]
    if stray and config.get("target_modules") not in (None, "all-linear"):
        raise UserError(
            f"{where} holds LoRA of {_listed(stray)}, which its target_modules does not name"
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
    found = next(
        (
            match
            for match in (re.match(rf".*\.{one}\.(\d+)\.", module) for one in patterns)
            if match
        ),
        None,
    )
    return found is not None and int(found[1]) in (layers if isinstance(layers, list) else [layers])


def _named(module: str, wanted: Any) -> bool:
    if wanted == "all-linear":
        # what is linear differs from class to class: only what the file holds is known
        return False
    if isinstance(wanted, str):
        return re.fullmatch(wanted, module) is not None
    return any(module == one or module.endswith(f".{one}") for one in wanted)


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
    sizes = [
        _size(
            slot, parameters[slot.parameter], model.get_submodule(slot.parameter.rpartition(".")[0])
        )
        for slot in slots
    ]
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


def _listed(names: list[str]) -> str:
    return f"{names[0]}{f' and {len(names) - 1} more' if len(names) > 1 else ''}"


def adapter_files(path: Path) -> list[Path]:
    """Returns the files of an adapter that count."""
    return [path / "adapter_config.json", path / WEIGHTS]


# -- what an adapter's files may say ---------------------------------------------------------------

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


def _read_config(folder: CheckpointFiles, whose: str) -> dict[str, Any]:
    """Returns the config of a LoRA adapter in safetensors whose weights are the plain sum W + s B
    A.

    Raises:
        UserError: it is no such adapter, or its config asks for more.
    """
    if not (folder.path / "adapter_config.json").is_file():
        raise UserError(f"{whose} has no adapter_config.json; it must be a folder saved by peft")
    if not (folder.path / WEIGHTS).is_file():
        pickle = (folder.path / "adapter_model.bin").is_file()
        why = "; adapter_model.bin is a pickle, which can run code and is not read: save it as safetensors"
        raise UserError(f"{whose} has no {WEIGHTS}{why if pickle else ''}")
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
    ranks = config.get("rank_pattern") or {}
    for rank in [config.get("r"), *(ranks.values() if isinstance(ranks, dict) else [ranks])]:
        if type(rank) is not int or not 1 <= rank <= LARGEST_RANK:
            raise UserError(
                f"{whose}: rank {str(rank)[:40]} is not possible; it must be 1 to {LARGEST_RANK}"
            )
    for pattern in _patterns(config):
        if len(pattern) > LONGEST_PATTERN or explodes(pattern):
            raise UserError(
                f"{whose}: the regular expression '{pattern[:60]}' can run for ever; name the "
                "modules plainly"
            )
    _check_sum(config, f"{whose}: adapter_config.json")
    return config


def explodes(pattern: str) -> bool:
    """Returns whether a regular expression takes exponential time on some texts.

    That is the case if it repeats something that repeats or chooses itself, such as (a+)+.
    """
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


def _check_sum(config: Mapping[str, Any], where: str) -> None:
    for key, allowed in USUAL.items():
        value = config.get(key, allowed[0])
        if not any(
            value == one and isinstance(value, bool) == isinstance(one, bool) for one in allowed
        ):
            raise UserError(
                f"{where} has {key} {shown(repr(value))}, which is not applied here; merge the "
                "adapter into its base model first"
            )
    for key in config.keys() - USUAL.keys() - READ - HARMLESS:
        if config[key] not in (None, False, [], {}, ""):
            raise UserError(
                f"{where} has {key} {shown(repr(config[key]))}, which nobody here knows; merge the "
                "adapter into its base model first"
            )
    if not NUMBER.test(config.get("lora_alpha")):
        raise UserError(
            f"{where} has lora_alpha {shown(repr(config.get('lora_alpha')))}; it must be "
            f"{NUMBER.called}"
        )
    if not FLAG.test(config.get("use_rslora", False)):
        raise UserError(
            f"{where} has use_rslora {shown(repr(config['use_rslora']))}; it must be {FLAG.called}"
        )
    for key, kind in (("rank_pattern", COUNT), ("alpha_pattern", NUMBER)):
        pattern = config.get(key) or {}
        if not isinstance(pattern, dict) or not all(kind.test(value) for value in pattern.values()):
            raise UserError(
                f"{where} has {key} {shown(repr(pattern))}; it must map module names to "
                f"{kind.called}"
            )
