"""Which files of a folder hold its weights, and which tensor is in which: an index, else model.safetensors, else the single file."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path

from dlm_eval.errors import UserError
from dlm_eval.models.stored import entries

SAFE, TORCH = "model.safetensors", "pytorch_model.bin"
SHARD = re.compile(r"(.+)-\d{5}-of-(\d{5})\.(safetensors|bin)$")
OTHER = {"length_head.safetensors", "adapter_model.safetensors"}  # what else lies beside weights


@dataclass(frozen=True)
class WeightFiles:
    """The weight files of a folder, sorted, and the name of the file that stands for them: an index, or the only one. None if there are none."""

    files: list[Path]
    entry: str | None


def choose(folder: Path, name: str) -> WeightFiles:
    """Returns the weight files of a folder: those of the index, else model.safetensors, else the single *.safetensors; else PyTorch's alike.

    Files that merely lie beside them (weights of another average, of another format) are never merged in.

    Args:
        folder: where they lie.
        name: the checkpoint's, for messages.

    Raises:
        UserError: shards without their index, a file of the index that is not there, or several files of which none is named as usual.
    """
    for usual, pattern in ((SAFE, "*.safetensors"), (TORCH, "pytorch_model*.bin")):
        index = folder / f"{usual}.index.json"
        if index.is_file() and usual == TORCH and (folder / usual).is_file():
            raise UserError(f"pretrained '{name}' has {usual} and {index.name}; leave one out")
        if index.is_file():
            return WeightFiles(_of_index(index, name), index.name)
        if (folder / usual).is_file():
            return WeightFiles([folder / usual], usual)
        files = sorted(path for path in folder.glob(pattern) if path.name not in OTHER and path.is_file())
        if any(SHARD.match(path.name) for path in files):
            shard = next(match for match in map(SHARD.match, (path.name for path in files)) if match)
            raise UserError(
                f"pretrained '{name}' has shards ({shard[0]}, ...) without their index {shard[1]}.{shard[3]}.index.json"
            )
        if len(files) > 1:
            raise UserError(
                f"pretrained '{name}' has {len(files)} weight files ({', '.join(path.name for path in files[:3])}), and neither {usual} nor "
                f"its index; name the one to read {usual}, or leave the others out"
            )
        if files:
            return WeightFiles(files, files[0].name)
    return WeightFiles([], None)


def tensor_shapes(files: list[Path], name: str) -> dict[str, list[int]]:
    """Returns the shape of each tensor in the files, read from their headers.

    Raises:
        UserError: two files have a tensor of one name, or one cannot be read.
    """
    shapes: dict[str, list[int]] = {}
    place: dict[str, Path] = {}
    for file in files:
        for key, shape in _shapes(file, name).items():
            refuse_twice(key, file, place, name)
            shapes[key] = shape
    return shapes


def refuse_twice(key: str, file: Path, place: dict[str, Path], name: str) -> None:
    """Notes that `file` holds the tensor `key`; raises UserError where another file holds one of that name."""
    if key in place:
        raise UserError(f"pretrained '{name}': tensor '{key[:80]}' is in two files, {place[key].name} and {file.name}")
    place[key] = file


def _of_index(index: Path, name: str) -> list[Path]:
    """Returns the files of an index, sorted."""
    try:
        content = json.loads(index.read_text(encoding="utf-8"))
    except (ValueError, OSError) as error:
        raise UserError(f"pretrained '{name}': {index.name} is not valid JSON ({error})") from None
    places = content.get("weight_map") if isinstance(content, dict) else None
    if not isinstance(places, dict) or not places or not all(isinstance(file, str) for file in places.values()):
        raise UserError(f"pretrained '{name}': {index.name} has no weight_map of tensor names to files")
    names = sorted(set(places.values()))
    for file in names:
        if Path(file).name != file or not (index.parent / file).is_file():
            raise UserError(f"pretrained '{name}': {index.name} names '{file[:80]}', which is no file beside it")
    return [index.parent / file for file in names]


def _shapes(file: Path, name: str) -> dict[str, list[int]]:
    try:
        if file.suffix == ".safetensors":
            return {key: list(entry["shape"]) for key, entry in entries(file).items()}
        import torch

        state = torch.load(file, map_location="meta", weights_only=True)
        return {key: list(value.shape) for key, value in state.items()}
    except UserError as error:
        raise UserError(f"pretrained '{name}': {error}") from None
    except Exception as error:  # safetensors, torch and json raise kinds of their own for a broken file
        from dlm_eval.models.loading import first_line

        raise UserError(f"pretrained '{name}': {file.name} cannot be read: {first_line(error)}") from None
