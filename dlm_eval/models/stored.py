"""What weight files hold, read from their headers alone, and a network that is not built larger than that.

A checkpoint is data from anywhere: a header may claim a length of 2^62, a config a network of 10^12 layers. Both are refused before memory is taken.
"""

from __future__ import annotations

import json
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

from dlm_eval.errors import UserError

LONGEST_HEADER = 100_000_000  # bytes, safetensors' own limit
# Room for what a network has beyond its files: tied heads, fused weights that were stored apart, buffers, modules that are exchanged while quantizing.
TIMES, SPARE = 4, 2**24  # elements
PARTS, SPARE_PARTS = 64, 4096  # parameters and buffers per stored tensor
LARGE_AS_STORED = 8  # elements of a network per stored byte, at one bit each


@dataclass(frozen=True)
class Stored:
    """The weights of one or more files.

    Attributes:
        tensors: how many.
        elements: their elements.
        bytes: of the files.
    """

    tensors: int
    elements: int
    bytes: int


def header(file: Path) -> bytes:
    """Returns the JSON header of a safetensors file.

    Raises:
        UserError: the file is shorter than its header says, or the header is too long to be one.
    """
    size = file.stat().st_size
    if size < 8:  # such as a file of the kernel's behind a link, whose reading may never end
        raise UserError(f"{file.name} is not a safetensors file: it has {size} bytes and no header")
    with file.open("rb") as stream:
        begin = stream.read(8)
        length = struct.unpack("<Q", begin)[0] if len(begin) == 8 else -1
        if not 0 <= length <= min(LONGEST_HEADER, size - 8):
            said = "no header" if length < 0 else f"a header of {length} bytes"
            raise UserError(f"{file.name} is not a safetensors file: it has {size} bytes and {said}")
        return stream.read(length)


def entries(file: Path) -> dict[str, dict[str, Any]]:
    """Returns the tensors that a safetensors header lists: dtype, shape and data_offsets by name.

    Raises:
        UserError: the header is broken, names a tensor twice, or a tensor that is not in the file.
    """
    end = file.stat().st_size - 8
    text = header(file)
    try:
        listed = json.loads(text, object_pairs_hook=_once)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{file.name} is not a safetensors file: its header is broken ({error})") from None
    if not isinstance(listed, dict):
        raise UserError(f"{file.name} is not a safetensors file: its header is no JSON object")
    listed.pop("__metadata__", None)
    for name, entry in listed.items():
        if not (
            isinstance(entry, dict)
            and isinstance(entry.get("dtype"), str)
            and _whole_numbers(entry.get("shape"))
            and _whole_numbers(entry.get("data_offsets"))
            and len(entry["data_offsets"]) == 2
            and entry["data_offsets"][0] <= entry["data_offsets"][1] <= end - len(text)
        ):
            raise UserError(
                f"{file.name} is not a safetensors file: tensor '{name[:80]}' is not in it as its header says"
            )
    return listed


def stored(files: list[Path]) -> Stored:
    """Returns what these weight files hold; a pickle is taken for one tensor per 64 bytes and one element per byte, which it cannot exceed.

    Raises:
        UserError: a safetensors file is broken, or two files hold the same tensor.
    """
    tensors = elements = size = 0
    homes: dict[str, Path] = {}
    for file in files:
        size += file.stat().st_size
        if file.suffix != ".safetensors":
            tensors += file.stat().st_size // 64
            elements += file.stat().st_size
            continue
        for name, entry in entries(file).items():
            if name in homes:
                raise UserError(f"tensor '{name[:80]}' is in two files, {homes[name].name} and {file.name}")
            homes[name] = file
            elements += prod(entry["shape"])
    return Stored(tensors + len(homes), elements, size)


@contextmanager
def built_within(held: Stored, packed: bool, whose: str) -> Iterator[None]:
    """Ends the building of a network, in this thread, as soon as it is much larger than what the files hold.

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
                f"{whose} describes a network of more than {total} weights in {len(sizes)} tensors, "
                f"but its files hold {held.elements} in {held.tensors}; is the config.json another checkpoint's?"
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


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a name stands in it twice")
    return found


def _whole_numbers(value: Any) -> bool:
    return isinstance(value, list) and all(type(one) is int and 0 <= one < 2**63 for one in value)
