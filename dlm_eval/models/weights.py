"""From files to a network on its device: every weight in its place, or an error."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from accelerate import init_empty_weights
from safetensors import SafetensorError
from torch import Tensor, nn

from dlm_eval.errors import UserError
from dlm_eval.models.loading import (
    CheckpointFiles,
    LoadSettings,
    first_line,
    read_config,
    resolve_device,
    resolve_dtype,
)
from dlm_eval.models.lora import Adapter, read_adapter
from dlm_eval.models.naming import Naming
from dlm_eval.models.quantization import quantization_config
from dlm_eval.models.weight_files import Stored, choose, refuse_duplicate

PLAIN = Naming()
# Room for what a network has beyond its files: tied heads, fused weights that were stored apart,
# buffers, modules that are exchanged while quantizing.
TIMES, SPARE = 4, 2**24  # elements
PARTS, SPARE_PARTS = 64, 4096  # parameters and buffers per stored tensor
LARGE_AS_STORED = 8  # elements of a network per stored byte, at one bit each
QUIET_BELOW = 2**30  # bytes of weights below which no progress bar is shown


@dataclass(frozen=True)
class Pretrained:
    """A network of transformers: class, config, and how the checkpoint names its tensors."""

    model_class: Any
    config: Any
    naming: Naming = PLAIN

    def load(self, files: CheckpointFiles, settings: LoadSettings) -> Any:
        """Returns the network with its weights, in eval mode, on its device in its dtype.

        On device 'meta' it has no weights. Of `settings` dtype, device, device_map,
        attn_implementation, quantization and peft are used.

        Raises:
            UserError: a weight is missing, left over or of the wrong shape (transformers would log
                it and go on at random).
        """
        device = resolve_device(settings.device)
        raw, held = read_config(files), files.holds()
        within = built_within(
            held, "quantization_config" in raw, f"pretrained '{files.name}': config.json"
        )
        dtype = resolve_dtype(settings.dtype, raw, files)
        _settle_head(self.model_class, self.config, raw, files, self.naming)
        if device.type == "meta":
            self.config._attn_implementation = settings.attn_implementation
            with device, within:
                empty = self.model_class(self.config).to(dtype).eval().requires_grad_(False)
            _adapt(empty, files, settings, self.naming)
            return empty
        name_weights(self.config, files)
        if (
            settings.device_map is None
            and settings.quantization is None
            and "quantization_config" not in raw
        ):
            _require_room(held, dtype, device, files)
        place = _place(settings.device_map) or {"": device}
        extra: dict[str, Any] = (
            {"attn_implementation": settings.attn_implementation}
            if settings.attn_implementation
            else {}
        )
        if settings.quantization:
            extra["quantization_config"] = quantization_config(settings.quantization, place)
        key_mapping = None if self.naming.fused else dict(self.naming.renames) or None
        try:
            with _hushed(files), within:
                model, info = self.model_class.from_pretrained(
                    files.path, config=self.config, key_mapping=key_mapping, dtype=dtype, device_map=place,
                    output_loading_info=True, ignore_mismatched_sizes=True, local_files_only=True, **extra,
                )  # fmt: skip
        except (
            OSError,
            ValueError,
            ImportError,
            RuntimeError,
            SafetensorError,
            UnpicklingError,
            EOFError,
        ) as error:
            raise UserError(
                f"pretrained '{files.name}' cannot be loaded: {first_line(error)}"
            ) from None
        check_keys(
            files.name, info["missing_keys"], info["unexpected_keys"], info["mismatched_keys"]
        )
        if (adapter := _adapt(model, files, settings, self.naming)) is not None:
            adapter.apply(model)
        return model.eval().requires_grad_(False)


@dataclass(frozen=True)
class OwnModule:
    """A network of ours: how it is built, and how its state is made of the checkpoint's."""

    build: Callable[[], nn.Module]
    rename: Callable[[dict[str, Tensor]], dict[str, Tensor]] = dict

    def load(self, files: CheckpointFiles, settings: LoadSettings) -> nn.Module:
        """Returns the network with its weights, as `Pretrained.load` does.

        It is built without allocating weights. Of `settings` dtype and device are used.

        Raises:
            UserError: a weight is missing, left over or of the wrong shape, or an option that only
                transformers' classes have was set.
        """
        for option in ("device_map", "attn_implementation", "quantization", "peft"):
            if getattr(settings, option) is not None:
                raise UserError(
                    f"model_args {option} '{getattr(settings, option)}' is not possible for this "
                    "family; leave it out"
                )
        held = files.holds()
        device = resolve_device(settings.device)
        dtype = resolve_dtype(settings.dtype, files.read_json("config.json"), files)
        within = built_within(held, False, f"pretrained '{files.name}': config.json")
        if device.type == "meta":
            with device, within:
                return self.build().to(dtype).eval().requires_grad_(False)
        _require_room(held, dtype, device, files)
        with init_empty_weights(include_buffers=False), within:
            module = self.build()
        state = self.rename(read_state(files, files.weights, device))
        for key in state:  # one at a time, so that the weights are never whole in both dtypes
            state[key] = state[key].to(dtype)
        wanted = module.state_dict()
        wrong = [
            key
            for key, value in state.items()
            if key in wanted and wanted[key].shape != value.shape
        ]
        check_keys(files.name, wanted.keys() - state.keys(), state.keys() - wanted.keys(), wrong)
        module.load_state_dict(state, assign=True)
        return module.to(device).requires_grad_(False).eval()


Network = Pretrained | OwnModule


@contextmanager
def built_within(held: Stored, packed: bool, whose: str) -> Iterator[None]:
    """Ends the building of a network, in this thread, as soon as it is much larger than what the
    files hold.

    Args:
        held: what the files hold.
        packed: whether they hold several weights per element (a quantized checkpoint).
        whose: names the files, for the message.

    Raises:
        UserError: it became too large.
    """
    from torch.nn.modules import module

    most = TIMES * (held.bytes * LARGE_AS_STORED if packed else held.elements) + SPARE
    parts = PARTS * held.tensors + SPARE_PARTS
    owner, total = threading.get_ident(), 0
    sizes: dict[tuple[int, str], int] = {}

    def count(owned: Any, name: str, value: Any) -> None:
        nonlocal total
        if value is None or threading.get_ident() != owner:
            return
        size, key = value.numel(), (id(owned), name)
        total += size - sizes.get(key, 0)
        sizes[key] = size
        if total > most or len(sizes) > parts:
            raise UserError(
                f"{whose} describes a network of more than {total} weights in {len(sizes)} "
                "tensors, "
                f"but its files hold {held.elements} in {held.tensors}; is the config.json another "
                "checkpoint's?"
            )

    handles = [
        module.register_module_parameter_registration_hook(count),
        module.register_module_buffer_registration_hook(count),
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def read_state(
    folder: CheckpointFiles, files: list[Path], device: torch.device
) -> dict[str, Tensor]:
    """Returns all tensors of these weight files of the folder, straight to `device`."""
    from safetensors.torch import load_file

    state: dict[str, Tensor] = {}
    place: dict[str, Path] = {}
    for file in files:
        try:
            if file.suffix == ".safetensors":
                part = load_file(file, device=str(device))
            else:
                part = _without_views(torch.load(file, map_location=device, weights_only=True))
        except (
            Exception
        ) as error:  # safetensors and torch raise kinds of their own for a broken file
            raise UserError(
                f"pretrained '{folder.name}': {file.name} cannot be read: {first_line(error)}"
            ) from None
        for key in part:
            refuse_duplicate(key, file, place, folder.name)
        state |= part
    return state


def read_tensor(folder: CheckpointFiles, key: str) -> Tensor:
    """Returns one tensor of the folder's weight files, on the CPU."""
    from safetensors import safe_open

    for file in folder.weights:
        if file.suffix == ".safetensors":
            with safe_open(file, "pt") as opened:
                if key in opened.keys():  # noqa: SIM118  (it is no dict)
                    tensor: Tensor = opened.get_tensor(key)
                    return tensor
        elif key in (
            state := _without_views(
                torch.load(file, map_location="cpu", weights_only=True, mmap=True)
            )
        ):
            return state[key]
    raise KeyError(key)


def name_weights(config: Any, folder: CheckpointFiles) -> None:
    """Tells transformers which files to read: it prefers model.safetensors to an index."""
    entry = choose(folder.path, folder.name).entry
    if entry and ".safetensors" in entry:
        config.transformers_weights = entry


def _without_views(state: Any) -> dict[str, Tensor]:
    """Returns the tensors of a pickle that holds nothing else, each in memory as large as its shape
    says.

    Raises:
        ValueError: something else is in it.
    """
    if not isinstance(state, dict) or not all(
        isinstance(value, Tensor) for value in state.values()
    ):
        raise ValueError("it holds more than tensors by name")
    for name, value in state.items():
        if value.numel() * value.element_size() > value.untyped_storage().nbytes():
            raise ValueError(f"{name} is larger than what is stored of it")
    return state


def _require_room(
    held: Stored, dtype: torch.dtype, device: torch.device, folder: CheckpointFiles
) -> None:
    """Raises UserError if the weights are larger than all the memory of their device."""
    if device.type == "cuda":
        room = torch.cuda.get_device_properties(device).total_memory
    else:
        room = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    # whose elements are known only once it is read
    pickled = folder.weights[0].suffix != ".safetensors"
    needed = held.bytes if pickled else held.elements * dtype.itemsize
    if needed > room:
        raise UserError(
            f"pretrained '{folder.name}': its weights take {needed / 2**30:.1f} GiB in "
            f"{str(dtype).removeprefix('torch.')}, "
            f"{device} has {room / 2**30:.1f} GiB; set another dtype, quantization= or device_map="
        )


def _place(device_map: str | None) -> Any:
    """Returns the option's device map: a word, or JSON of module -> device ('cpu', 'disk')."""
    if device_map is None or not device_map.startswith("{"):
        return device_map
    try:
        return json.loads(device_map)
    except ValueError as error:
        raise UserError(f"model_args device_map '{device_map}' is not JSON ({error})") from None


@contextmanager
def _hushed(folder: CheckpointFiles) -> Iterator[None]:
    """Keeps transformers' report of surprises (our errors) quiet, and bars of small files."""
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
    """Raises UserError if the weights in the files are not those of the network."""
    found = {"lacks": missing, "has surplus": surplus, "has of another shape": mismatched}
    faults = [f"{word} {_listed(keys)}" for word, keys in found.items() if keys]
    if faults:
        raise UserError(
            f"pretrained '{name}' does not fit its config: it {'; '.join(faults)} (another family "
            "or a broken file?)"
        )


def _adapt(
    model: Any, folder: CheckpointFiles, settings: LoadSettings, naming: Naming
) -> Adapter | None:
    """Returns the adapter of the option peft, with places in `model`, not applied, or None."""
    if settings.peft is None:
        return None
    adapter = read_adapter(settings.peft, model, folder, naming)
    folder.notes["peft_applied"] = adapter.describe()
    return adapter


def _settle_head(
    model_class: Any, config: Any, raw: Mapping[str, Any], folder: CheckpointFiles, naming: Naming
) -> None:
    """Ties the head to the embedding if config.json says nothing and the files hold no head.

    If config.json and files disagree, the result notes which head is used.
    """
    tied = model_class._tied_weights_keys
    if not isinstance(tied, dict) or config.is_encoder_decoder:
        return
    files = {name: key for key in folder.shapes() for name in naming.translate(key)}
    for head, embedding in tied.items():
        if (
            raw.get("tie_word_embeddings") is None
            and raw.get("weight_tying") is None
            and head not in files
        ):
            config.tie_word_embeddings = True
        if config.tie_word_embeddings and head in files and embedding in files:
            state = [read_tensor(folder, files[name]) for name in (head, embedding)]
            if not torch.equal(*state):
                folder.notes["head"] = (
                    "its own: config.json ties the head to the embedding, but the files hold "
                    "another head, which is used, as "
                    "transformers 5 does; transformers 4 and the authors' code use the embedding"
                )


def _listed(keys: Any) -> str:
    names = sorted(str(key[0] if isinstance(key, tuple) else key)[:100] for key in keys)
    return f"{', '.join(names[:3])}{f' and {len(names) - 3} more' if len(names) > 3 else ''}"
