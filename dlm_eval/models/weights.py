"""From files to a network on its device: every weight in its place, or an error.

Two ways: `load_weights` for transformers' classes, `load_module` for modules of ours.
"""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, TypeVar

import torch
from accelerate import init_empty_weights
from safetensors import SafetensorError
from torch import Tensor, nn

from dlm_eval.errors import UserError
from dlm_eval.models.adapter import WEIGHTS, check_adapter
from dlm_eval.models.loading import Folder, LoadSettings, first_line, locate, read_config, resolve_device, resolve_dtype
from dlm_eval.models.quantization import quantization_config
from dlm_eval.models.stored import Stored, built_within, stored

QUIET_BELOW = 2**30  # bytes of weights below which no progress bar is shown

M = TypeVar("M", bound=nn.Module)


def load_weights(
    model_class: Any, config: Any, folder: Folder, settings: LoadSettings, key_mapping: Mapping[str, str] | None = None
) -> Any:
    """Returns `model_class` with the folder's weights, in eval mode, on its device in its dtype (device meta: without weights).

    Args:
        model_class: a transformers class with `from_pretrained`.
        config: its config, built by the adapter.
        folder: the checkpoint.
        settings: dtype, device, device_map, attn_implementation, quantization and peft are used.
        key_mapping: regular expressions from the checkpoint's names to the class's; only one group each is substituted.

    Raises:
        UserError: a weight is missing, left over or of the wrong shape (transformers would log it and go on at random).
    """
    device = resolve_device(settings.device)
    raw, held = read_config(folder), folder.holds()
    within = built_within(held, "quantization_config" in raw, f"pretrained '{folder.name}': config.json")
    dtype = resolve_dtype(settings.dtype, raw, folder)
    if device.type == "meta":
        config._attn_implementation = settings.attn_implementation
        with device, within:
            return model_class(config).to(dtype).eval().requires_grad_(False)
    if settings.device_map is None and settings.quantization is None and "quantization_config" not in raw:
        _require_room(held, dtype, device, folder)
    place = _place(settings.device_map) or {"": device}
    extra: dict[str, Any] = (
        {"attn_implementation": settings.attn_implementation} if settings.attn_implementation else {}
    )
    if settings.quantization:
        extra["quantization_config"] = quantization_config(settings.quantization, place)
    try:
        with _hushed(folder), within:
            model, info = model_class.from_pretrained(
                folder.path, config=config, key_mapping=dict(key_mapping or {}) or None, dtype=dtype, device_map=place,
                output_loading_info=True, ignore_mismatched_sizes=True, local_files_only=True, **extra,
            )  # fmt: skip
    except (OSError, ValueError, ImportError, RuntimeError, SafetensorError, UnpicklingError, EOFError) as error:
        raise UserError(f"pretrained '{folder.name}' cannot be loaded: {first_line(error)}") from None
    check_keys(folder.name, info["missing_keys"], info["unexpected_keys"], info["mismatched_keys"])
    return merge_adapter(model, settings).eval().requires_grad_(False)


def load_module(
    build: Callable[[], M],
    folder: Folder,
    settings: LoadSettings,
    rename: Callable[[dict[str, Tensor]], dict[str, Tensor]],
) -> M:
    """Returns a module of ours with the folder's weights, in eval mode, on its device in its dtype (device meta: without weights).

    Args:
        build: makes the module; it runs without allocating weights.
        folder: the checkpoint.
        settings: dtype and device are used.
        rename: from the checkpoint's state to the module's.

    Raises:
        UserError: a weight is missing, left over or of the wrong shape, or an option that only transformers' classes have was set.
    """
    for option in ("device_map", "attn_implementation", "quantization", "peft"):
        if getattr(settings, option) is not None:
            raise UserError(
                f"model_args {option} '{getattr(settings, option)}' is not possible for this family; leave it out"
            )
    held = folder.holds()
    device = resolve_device(settings.device)
    dtype = resolve_dtype(settings.dtype, folder.read_json("config.json"), folder)
    within = built_within(held, False, f"pretrained '{folder.name}': config.json")
    if device.type == "meta":
        with device, within:
            return build().to(dtype).eval().requires_grad_(False)
    _require_room(held, dtype, device, folder)
    with init_empty_weights(include_buffers=False), within:
        module = build()
    state = rename(read_state(folder, folder.weights, device))
    for key in state:  # one at a time, so that the file's dtype and ours never stand side by side whole
        state[key] = state[key].to(dtype)
    wanted = module.state_dict()
    wrong = [key for key, value in state.items() if key in wanted and wanted[key].shape != value.shape]
    check_keys(folder.name, wanted.keys() - state.keys(), state.keys() - wanted.keys(), wrong)
    module.load_state_dict(state, assign=True)
    return module.to(device).requires_grad_(False).eval()


def read_state(folder: Folder, files: list[Path], device: torch.device) -> dict[str, Tensor]:
    """Returns all tensors of these weight files of the folder, straight to `device`."""
    from safetensors.torch import load_file

    state: dict[str, Tensor] = {}
    for file in files:
        try:
            if file.suffix == ".safetensors":
                state |= load_file(file, device=str(device))
            else:
                state |= _without_views(torch.load(file, map_location=device, weights_only=True))
        except Exception as error:  # safetensors and torch raise kinds of their own for a broken file
            raise UserError(f"pretrained '{folder.name}': {file.name} cannot be read: {first_line(error)}") from None
    return state


def _without_views(state: Any) -> dict[str, Tensor]:
    """Returns the tensors of a pickle that holds nothing else, each in memory as large as its shape says.

    Raises:
        ValueError: something else is in it.
    """
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise ValueError("it holds more than tensors by name")
    for name, value in state.items():
        if value.numel() * value.element_size() > value.untyped_storage().nbytes():
            raise ValueError(f"{name} is larger than what is stored of it")
    return state


def _require_room(held: Stored, dtype: torch.dtype, device: torch.device, folder: Folder) -> None:
    """Raises UserError if the weights are larger than all the memory of the device that they go to."""
    if device.type == "cuda":
        room = torch.cuda.get_device_properties(device).total_memory
    else:
        room = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    pickled = folder.weights[0].suffix != ".safetensors"  # whose elements are known only once it is read
    needed = held.bytes if pickled else held.elements * dtype.itemsize
    if needed > room:
        raise UserError(
            f"pretrained '{folder.name}': its weights take {needed / 2**30:.1f} GiB in {str(dtype).removeprefix('torch.')}, "
            f"{device} has {room / 2**30:.1f} GiB; set another dtype, quantization= or device_map="
        )


def _place(device_map: str | None) -> Any:
    """Returns the device map of the option: a word, or JSON of module -> device ('cpu' and 'disk' among them)."""
    if device_map is None or not device_map.startswith("{"):
        return device_map
    try:
        return json.loads(device_map)
    except ValueError as error:
        raise UserError(f"model_args device_map '{device_map}' is not JSON ({error})") from None


@contextmanager
def _hushed(folder: Folder) -> Iterator[None]:
    """Keeps transformers' own report of surprises quiet (they become errors of ours), and the progress bar of small files."""
    from transformers.utils import logging

    level, bar = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    if sum(file.stat().st_size for file in folder.weights) < QUIET_BELOW:
        logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bar:
            logging.enable_progress_bar()


def check_keys(name: str, missing: Any, surplus: Any, mismatched: Any = ()) -> None:
    """Raises UserError where the weights in the files are not those of the network."""
    found = {"lacks": missing, "has surplus": surplus, "has of another shape": mismatched}
    faults = [f"{word} {_listed(keys)}" for word, keys in found.items() if keys]
    if faults:
        raise UserError(
            f"pretrained '{name}' does not fit its config: it {'; '.join(faults)} (another family or a broken file?)"
        )


def merge_adapter(model: Any, settings: LoadSettings) -> Any:
    """Returns the model with the LoRA adapter `settings.peft` merged into its weights."""
    if settings.peft is None:
        return model
    try:
        from peft import PeftModel
    except ImportError:
        raise UserError("model_args peft needs the package peft; install it: pip install peft") from None
    folder = locate(settings.peft, setting="peft")
    check_adapter(folder)
    whose = f"model_args peft '{folder.name}'"
    try:
        held = stored([folder.path / WEIGHTS])
        with built_within(held, False, "adapter_config.json"), warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            adapted = PeftModel.from_pretrained(model, str(folder.path))
        merged = adapted.merge_and_unload()
    except UserError as error:
        raise UserError(f"{whose}: {error}") from None
    except Exception as error:  # whatever the two files break: peft raises many kinds here
        raise UserError(f"{whose} cannot be used: {first_line(error)}") from None
    if absent := [str(one.message) for one in said if "missing adapter keys" in str(one.message)]:
        raise UserError(f"{whose} lacks weights that its config names: {' '.join(absent[0].split())[:200]}")
    return merged


def _listed(keys: Any) -> str:
    names = sorted(str(key[0] if isinstance(key, tuple) else key)[:100] for key in keys)
    return f"{', '.join(names[:3])}{f' and {len(names) - 3} more' if len(names) > 3 else ''}"
