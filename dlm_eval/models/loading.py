"""From a hub id or a folder to a checkpoint's config, without remote code: every surprise in the
files is an error.

pretrained -> folder (`locate`) -> config as a plain dict (`read_config`) -> network (weights.py)
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, Literal

import torch

from dlm_eval.errors import UserError, unknown_name_error
from dlm_eval.hub import hub_reachable
from dlm_eval.models import Checkpoint, checkpoints, known_families, packaged_asset
from dlm_eval.models.config_tables import check_config
from dlm_eval.models.weight_files import (
    Stored,
    choose,
    entries,
    entries_of,
    refuse_duplicate,
    stored,
)
from dlm_eval.redaction import redact_message

DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
DTYPE_ALIASES = {
    "fp32": "float32",
    "fp16": "float16",
    "half": "float16",
    "bf16": "bfloat16",
    "float": "float32",
}
LARGEST_JSON = 2**24  # bytes of config.json and its like; real ones have some thousands
FILES = ("*.json", "*.txt", "*.model", "*.jinja", "*.safetensors")


@dataclass(frozen=True)
class LoadSettings:
    """Options of every family that reads a checkpoint.

    Attributes:
        pretrained: hub id or folder.
        revision: branch, tag or commit of a hub id.
        dtype: of the weights: auto (the checkpoint's), float32, float16 or bfloat16.
        device: auto (cuda if there is one, else mps, else cpu), cpu, cuda, cuda:N or mps.
        device_map: auto, balanced, ... or JSON of module -> device, to spread a model over several
            devices, or None.
        attn_implementation: transformers' name of the attention code, or None for its choice.
        max_length: positions of a sequence at most; None for the checkpoint's.
        mask_id: overrides the checkpoint's mask token.
        quantization: fewer bits per weight, as `models.quantization` reads it, or None.
        peft: hub id or folder of a LoRA adapter to merge into the weights, or None.
        tokenizer: hub id or folder of the tokenizer if it is not beside the weights.
        checkpoint: named checkpoint whose facts fill in what the files do not say.
        probe: whether the loaded model is probed (future tokens, padding, NaN).
        strict_config: whether a key of config.json that nobody knows is an error; else it is a
            warning.
    """

    pretrained: str
    revision: str | None = None
    dtype: str = "auto"
    device: str = "auto"
    device_map: str | None = None
    attn_implementation: Literal["sdpa", "eager"] | None = None
    max_length: int | None = None
    mask_id: int | None = None
    quantization: str | None = None
    peft: str | None = None
    tokenizer: str | None = None
    checkpoint: str = ""
    probe: bool = True
    strict_config: bool = False

    @property
    def known(self) -> Checkpoint | None:
        """ConfigKeys of the named checkpoint, or None.

        Raises:
            UserError: there is no checkpoint of that name.
        """
        named = checkpoints()
        if self.checkpoint and self.checkpoint not in named:
            raise unknown_name_error("model_args checkpoint", self.checkpoint, named)
        return named.get(self.checkpoint)


@dataclass(frozen=True)
class CheckpointFiles:
    """A checkpoint on this machine.

    Attributes:
        path: its folder.
        name: the name to show for it.
        commit: its hub commit, None for a local folder.
        notes: what the result says about how this folder was read (keys that nobody knows, which
            head, which adapter).
    """

    path: Path
    name: str
    commit: str | None = None
    notes: dict[str, Any] = field(default_factory=dict, compare=False)

    def read_json(self, name: str) -> dict[str, Any]:
        """Returns the JSON file `name`, or {} if it is absent.

        Raises:
            UserError: the file is not a JSON object.
        """
        file = self.path / name
        if not file.is_file():
            return {}
        if file.stat().st_size > LARGEST_JSON:
            raise UserError(
                f"pretrained '{self.name}': {name} has more than {LARGEST_JSON >> 20} MiB; it is "
                "not read"
            )
        # or a file of the kernel's behind a link, whose reading may never end
        if file.stat().st_size == 0:
            raise UserError(f"pretrained '{self.name}': {name} is empty")
        try:
            content = json.loads(file.read_text(encoding="utf-8"))
        except (ValueError, OSError, RecursionError) as error:
            raise UserError(
                f"pretrained '{self.name}': {name} is not valid JSON ({first_line(error)})"
            ) from None
        if not isinstance(content, dict):
            raise UserError(f"pretrained '{self.name}': {name} is not a JSON object")
        return content

    @property
    def weights(self) -> list[Path]:
        """Its weight files, sorted (see `weight_files.choose`).

        Raises:
            UserError: it is not clear which they are.
        """
        return choose(self.path, self.name).files

    def holds(self) -> Stored:
        """Returns what its weight files hold, by their headers.

        Raises:
            UserError: it has no weight file, or a broken one, or two that hold the same tensor.
        """
        if not self.weights:
            raise UserError(
                f"pretrained '{self.name}' has no weights; expected *.safetensors or "
                "pytorch_model*.bin"
            )
        return stored(self.weights, self.name)

    def shapes(self) -> dict[str, list[int]]:
        """Returns the shape of each tensor in its weight files, read from their headers.

        Raises:
            UserError: two files have a tensor of one name, or one cannot be read.
        """
        found: dict[str, list[int]] = {}
        place: dict[str, Path] = {}
        for file in self.weights:
            for key, shape in self._shapes(file).items():
                refuse_duplicate(key, file, place, self.name)
                found[key] = shape
        return found

    def _shapes(self, file: Path) -> dict[str, list[int]]:
        try:
            if file.suffix == ".safetensors":
                return {
                    key: list(entry["shape"]) for key, entry in entries_of(file, self.name).items()
                }
            state = torch.load(file, map_location="meta", weights_only=True)
            return {key: list(value.shape) for key, value in state.items()}
        except UserError:
            raise
        except Exception as error:  # torch raises kinds of its own for a broken file
            raise UserError(
                f"pretrained '{self.name}': {file.name} cannot be read: {first_line(error)}"
            ) from None


# -- where -----------------------------------------------------------------------------------------


@cache
def locate(
    pretrained: str, revision: str | None = None, setting: str = "pretrained"
) -> CheckpointFiles:
    """Returns the folder of a local checkpoint, of a packaged one (`asset:NAME`), or of a hub id
    (fetched at most once).

    Raises:
        UserError: there is no such folder, or the hub cannot give it; at once, with no retries.
    """
    if pretrained.startswith("asset:"):
        return CheckpointFiles(
            packaged_asset(pretrained.removeprefix("asset:")), pretrained.removeprefix("asset:")
        )
    path = Path(os.path.expanduser(pretrained))
    if pretrained and os.path.isdir(path):
        return CheckpointFiles(path, path.resolve().name)
    if (
        not pretrained
        or pretrained.startswith((".", "/", "~"))
        or pretrained.count("/") > 1
        or os.path.exists(path)
    ):
        raise UserError(
            f"{setting} '{pretrained}' is not a folder; it must be a checkpoint folder or a hub id"
        )
    return _from_hub(pretrained, revision, setting)


@cache
def config_of(name: str, setting: str) -> dict[str, Any]:
    """Returns the config.json of a folder or of a hub id, of which nothing else is fetched.

    Raises:
        UserError: there is none.
    """
    path = Path(os.path.expanduser(name))
    if name and os.path.isdir(path):
        return read_config(CheckpointFiles(path, path.resolve().name))
    return read_config(_from_hub(name, None, setting, ("config.json",)))


def _from_hub(
    name: str, revision: str | None, setting: str, files: tuple[str, ...] = FILES
) -> CheckpointFiles:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    offline = not hub_reachable()

    def fetch(*patterns: str) -> Path:
        return Path(
            snapshot_download(
                name, revision=revision, local_files_only=offline, allow_patterns=list(patterns)
            )
        )

    try:
        path = fetch(*files)
        if files == FILES and not list(path.glob("*.safetensors")) and not offline:
            path = fetch(*FILES, "pytorch_model*.bin*")
    except HFValidationError:
        raise UserError(
            f"{setting} '{name}' is neither a folder nor a hub id (owner/name)"
        ) from None
    except (LocalEntryNotFoundError, ConnectionError):
        why = "the hub cannot be reached" if offline else "the download failed"
        raise UserError(
            f"{setting} '{name}' is not a folder, not in the local hub cache, and {why}"
        ) from None
    except (HfHubHTTPError, OSError) as error:
        at = f" at revision '{revision}'" if revision else ""
        raise UserError(
            f"{setting} '{name}'{at} cannot be fetched from the hub: {first_line(error)}"
        ) from None
    return CheckpointFiles(path, name, path.name)


# -- what ------------------------------------------------------------------------------------------


def read_config(folder: CheckpointFiles) -> dict[str, Any]:
    """Returns the checkpoint's config.json as it is; no class is built and no code of the
    checkpoint runs.

    Raises:
        UserError: there is no config.json, or a size in it is none.
    """
    config = folder.read_json("config.json")
    if not config:
        raise UserError(
            f"pretrained '{folder.name}' has no config.json; it must be a checkpoint folder in the "
            "hub's layout"
        )
    check_config(config, f"pretrained '{folder.name}'")
    return config


def require_family(config: Mapping[str, Any], folder: CheckpointFiles, family: str) -> None:
    """Raises UserError if `config` names another family, whose weights may fit by chance."""
    kind = config.get("model_type", "unnamed")
    named = _letters(str(kind))
    if named in known_families() and not _letters(family).startswith(named):
        raise UserError(
            f"pretrained '{folder.name}' is not a {family} checkpoint: its model_type is '{kind}'; "
            f"--model {named}"
        )


def _letters(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())


def resolve_dtype(setting: str, config: Mapping[str, Any], folder: CheckpointFiles) -> torch.dtype:
    """Returns the dtype of `setting`; auto: the config's, else the files' first tensor's."""
    stated = config.get("dtype") or config.get("torch_dtype")
    if setting == "auto" and stated in (None, "auto"):
        return DTYPES[_first_dtype(folder)]
    given = stated if setting == "auto" else setting
    name = str(given).removeprefix("torch.")
    name = DTYPE_ALIASES.get(name, name)
    if name not in DTYPES and setting == "auto":
        raise UserError(
            f"pretrained '{folder.name}': config.json has dtype {given!r}, which weights are not "
            "loaded in; "
            f"choose one with dtype=, of {', '.join(DTYPES)}"
        )
    if name not in DTYPES:
        raise unknown_name_error("model_args dtype", setting, ["auto", *DTYPES])
    return DTYPES[name]


def check_device_name(setting: str, what: str = "model_args device") -> None:
    """Raises UserError if no machine has the device; `what` names the setting in the message."""
    if not re.fullmatch(r"auto|cpu|cuda(:\d+)?|mps|meta", setting):
        raise UserError(f"{what} '{setting}' is not known; allowed: auto, cpu, cuda, cuda:N, mps")


def resolve_device(setting: str, what: str = "model_args device") -> torch.device:
    """Returns the device of `setting`; auto is cuda if there is one.

    Raises:
        UserError: no such device, or not on this machine; `what` names the setting in the message.
    """
    check_device_name(setting, what)
    if setting == "auto":
        setting = (
            "cuda"
            if torch.cuda.is_available()
            else "mps"
            if torch.backends.mps.is_available()
            else "cpu"
        )
    device = torch.device(setting)
    if setting == "mps" and not torch.backends.mps.is_available():
        raise UserError(f"{what} 'mps' is not on this machine")
    count = torch.cuda.device_count()
    if device.type == "cuda" and (device.index or 0) >= count:
        raise UserError(
            f"{what} '{setting}' is not on this machine, which has {count} CUDA devices"
        )
    return device


def _first_dtype(folder: CheckpointFiles) -> str:
    names = {"F32": "float32", "F16": "float16", "BF16": "bfloat16"}
    for file in folder.weights:
        if file.suffix == ".safetensors":
            return next(
                (names[v["dtype"]] for v in entries(file).values() if v["dtype"] in names),
                "float32",
            )
    return "float32"


def first_line(error: BaseException) -> str:
    """Returns the first line of an error's message, for a one-line error of ours."""
    if isinstance(error, UnpicklingError):  # torch's own words recommend to run what is in there
        return (
            "the file is damaged, or holds more than tensors, which is not run; safetensors cannot"
        )
    lines = [line.strip() for line in redact_message(str(error)).splitlines() if line.strip()]
    return (lines or [type(error).__name__])[0][:300]
