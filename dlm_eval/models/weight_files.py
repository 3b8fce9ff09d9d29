"""The weight files of a checkpoint: which of a folder's files they are, and what their headers say
they hold.

A checkpoint is data from anywhere. A header may claim a length of 2^62, and is refused before
memory is taken.
"""

from __future__ import annotations

import hashlib
import json
import re
import struct
from collections.abc import Iterable
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

from dlm_eval.errors import UserError

SAFE, TORCH = "model.safetensors", "pytorch_model.bin"
SHARD = re.compile(r"(.+)-\d{5}-of-(\d{5})\.(safetensors|bin)$")
OTHER = {"length_head.safetensors", "adapter_model.safetensors"}  # what else lies beside weights
LONGEST_HEADER = 100_000_000  # bytes, safetensors' own limit
# bytes of weights up to which files are hashed whole; above, their headers and sizes are
HASHED_WHOLE = 256 * 2**20


@dataclass(frozen=True)
class WeightFiles:
    """A folder's weight files, sorted, and the entry: the index, the only file, or None."""

    files: list[Path]
    entry: str | None


def choose(folder: Path, name: str) -> WeightFiles:
    """Returns the weight files of a folder: those of the index, else model.safetensors, else the
    single *.safetensors; else the PyTorch files by the same rule.

    Other files in the folder (weights of another average, of another format) are never merged in.

    Args:
        folder: of the checkpoint.
        name: the checkpoint's, for messages.

    Raises:
        UserError: shards without their index, a file of the index that is not there, or several
            files of which none is named as usual.
    """
    for usual, pattern in ((SAFE, "*.safetensors"), (TORCH, "pytorch_model*.bin")):
        index = folder / f"{usual}.index.json"
        if index.is_file() and usual == TORCH and (folder / usual).is_file():
            raise UserError(f"pretrained '{name}' has {usual} and {index.name}; leave one out")
        if index.is_file():
            return WeightFiles(_of_index(index, name), index.name)
        if (folder / usual).is_file():
            return WeightFiles([folder / usual], usual)
        files = sorted(
            path for path in folder.glob(pattern) if path.name not in OTHER and path.is_file()
        )
        if any(SHARD.match(path.name) for path in files):
            shard = next(
                match for match in map(SHARD.match, (path.name for path in files)) if match
            )
            raise UserError(
                f"pretrained '{name}' has shards ({shard[0]}, ...) without their index "
                f"{shard[1]}.{shard[3]}.index.json"
            )
        if len(files) > 1:
            raise UserError(
                f"pretrained '{name}' has {len(files)} weight files "
                f"({', '.join(path.name for path in files[:3])}), and neither {usual} nor "
                f"its index; name the one to read {usual}, or leave the others out"
            )
        if files:
            return WeightFiles(files, files[0].name)
    return WeightFiles([], None)


def refuse_duplicate(key: str, file: Path, place: dict[str, Path], name: str) -> None:
    """Notes that `file` holds tensor `key`; raises UserError if another file does too."""
    if key in place:
        raise UserError(
            f"pretrained '{name}': tensor '{key[:80]}' is in two files, {place[key].name} and "
            f"{file.name}"
        )
    place[key] = file


def _of_index(index: Path, name: str) -> list[Path]:
    """Returns the files of an index, sorted."""
    try:
        content = json.loads(index.read_text(encoding="utf-8"))
    except (ValueError, OSError) as error:
        raise UserError(f"pretrained '{name}': {index.name} is not valid JSON ({error})") from None
    places = content.get("weight_map") if isinstance(content, dict) else None
    if (
        not isinstance(places, dict)
        or not places
        or not all(isinstance(file, str) for file in places.values())
    ):
        raise UserError(
            f"pretrained '{name}': {index.name} has no weight_map of tensor names to files"
        )
    names = sorted(set(places.values()))
    for file in names:
        if Path(file).name != file or not (index.parent / file).is_file():
            raise UserError(
                f"pretrained '{name}': {index.name} names '{file[:80]}', which is no file beside it"
            )
    return [index.parent / file for file in names]


# -- what they hold --------------------------------------------------------------------------------


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
            raise UserError(
                f"{file.name} is not a safetensors file: it has {size} bytes and {said}"
            )
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
        raise UserError(
            f"{file.name} is not a safetensors file: its header is broken ({error})"
        ) from None
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
                f"{file.name} is not a safetensors file: tensor '{name[:80]}' is not in it as its "
                "header says"
            )
    return listed


def stored(files: list[Path], name: str) -> Stored:
    """Returns what these weight files hold; a pickle is taken for one tensor per 64 bytes and one
    element per byte, which it cannot exceed.

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
        for key, entry in entries_of(file, name).items():
            refuse_duplicate(key, file, homes, name)
            elements += prod(entry["shape"])
    return Stored(tensors + len(homes), elements, size)


def entries_of(file: Path, name: str) -> dict[str, dict[str, Any]]:
    """Returns `entries`, whose errors name the checkpoint."""
    try:
        return entries(file)
    except UserError as error:
        raise UserError(f"pretrained '{name}': {error}") from None


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a name is in it twice")
    return found


def _whole_numbers(value: Any) -> bool:
    return isinstance(value, list) and all(type(one) is int and 0 <= one < 2**63 for one in value)


def hash_weights(files: list[Path]) -> str:
    """Returns a sha256 over weight files; of large ones, over safetensors headers and sizes."""
    if sum(file.stat().st_size for file in files) <= HASHED_WHOLE:
        return sha256_of(files)
    total = hashlib.sha256(b"headers")
    for file in files:
        total.update(f"{file.name}:{file.stat().st_size}".encode())
        if file.suffix == ".safetensors":
            total.update(header(file))
    return total.hexdigest()


def sha256_of(files: Iterable[Path]) -> str:
    """Returns a sha256 over whole files, one after the other."""
    total = hashlib.sha256()
    for file in files:
        with file.open("rb") as stream:
            while chunk := stream.read(2**20):
                total.update(chunk)
    return total.hexdigest()
