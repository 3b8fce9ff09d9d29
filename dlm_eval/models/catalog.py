"""The models that --model knows by name: families and named checkpoints (checkpoints.yaml), plug-ins, objects."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dlm_eval.errors import UserError, unknown_name_error

if TYPE_CHECKING:
    from dlm_eval.models.denoiser import Denoiser

TABLE = Path(__file__).with_name("checkpoints.yaml")
ASSETS = Path(__file__).parent.parent / "assets"
ENTRY_POINTS = "dlm_eval.models"
GIVEN: dict[str, Denoiser] = {}  # models that were given as objects, for as long as they are used


@dataclass(frozen=True)
class Family:
    """One family: its module, the checkpoint that its name alone means, a line about it, and its process."""

    name: str
    module: str
    default: str | None = None
    about: str = ""
    process: str = "absorbing"


@dataclass(frozen=True)
class Checkpoint:
    """ConfigKeys about published weights.

    Attributes:
        name: what --model takes.
        family: its adapter.
        licence: of the weights.
        size: parameters, or None.
        mask_id: id of the mask token that the files should have, or None.
        equal_ids: special tokens that its mask may be the same id as: bos, eos, pad.
        chat: whether it was tuned to follow instructions through its chat template.
        options: defaults of the adapter's options (`pretrained`, `revision`, ...).
    """

    name: str
    family: str
    licence: str = ""
    size: float | None = None
    mask_id: int | None = None
    equal_ids: tuple[str, ...] = ()
    chat: bool = False
    options: Mapping[str, Any] = field(default_factory=dict)


@cache
def _raw() -> dict[str, Any]:
    import yaml

    raw: dict[str, Any] = yaml.safe_load(TABLE.read_text(encoding="utf-8"))
    return raw


@cache
def _table() -> tuple[dict[str, Family], dict[str, Checkpoint], dict[str, str]]:
    raw = _raw()
    known = {name: Family(name, **row) for name, row in raw["families"].items()}
    return known, {name: Checkpoint(name, **row) for name, row in raw["checkpoints"].items()}, raw["unsupported"]


def own_families() -> dict[str, Family]:
    """Returns the families of this package by name."""
    return dict(_table()[0])


def known_families() -> dict[str, Family]:
    """Returns the families by name: ours, then those of installed packages (which cannot replace ours)."""
    plugins = importlib.metadata.entry_points(group=ENTRY_POINTS)
    others = {e.name: Family(e.name, e.value, about=f"from package {e.dist.name if e.dist else '?'}") for e in plugins}
    given = {name: Family(name, "", process=model.process) for name, model in GIVEN.items()}
    return {**others, **_table()[0], **given}


def checkpoints() -> dict[str, Checkpoint]:
    """Returns the named checkpoints by name."""
    return dict(_table()[1])


def unsupported() -> dict[str, str]:
    """Returns the models that are known and cannot be run here by name, with the reason."""
    return dict(_table()[2])


def baselines() -> dict[str, dict[str, Any]]:
    """Returns the autoregressive models that travel with the package by name: `about` and `options` of lm-eval's `hf`."""
    return dict(_raw()["baselines"])


def check_supported(name: str) -> None:
    """Raises UserError, with the reason, where `name` is a model that is known and cannot be run here."""
    if name in unsupported():
        raise UserError(f"model '{name}' is not supported: {unsupported()[name]}")


@contextmanager
def given(model: Denoiser) -> Iterator[str]:
    """Makes an object of the user's known to this process under a name, which it yields.

    Raises:
        UserError: it is no denoiser.
    """
    check_members(model, type(model).__name__)
    GIVEN[model.name] = model
    try:
        yield model.name
    finally:
        GIVEN.pop(model.name, None)


def packaged_asset(name: str) -> Path:
    """Returns the folder of weights that travel with the package (`tiny`, `tiny-ar`).

    Raises:
        UserError: no such asset, or it was not packaged.
    """
    folder = ASSETS / name
    if not (folder / "config.json").is_file():
        present = [path.parent.name for path in ASSETS.glob("*/config.json")]
        raise unknown_name_error("packaged model", name, present)
    return folder


def find_checkpoint(name: str) -> Checkpoint:
    """Returns the named checkpoint, the default one of the family `name`, or an empty one for a file of the user's.

    Raises:
        UserError: no such family or checkpoint; the message has the nearest name.
    """
    if name in GIVEN:
        return Checkpoint(name, name)
    named, known = checkpoints(), known_families()
    if name in named:
        return named[name]
    if name.endswith(".py"):
        return Checkpoint(Path(name).stem, name)
    check_supported(name)
    if name not in known:
        raise unknown_name_error("model", name, known.keys() | named.keys(), "dlm-eval ls models")
    default = known[name].default
    return named[default] if default else Checkpoint(name, name)


def process_of(name: str, options: Mapping[str, Any]) -> str | None:
    """Returns the process of a model by its options and the table, before it is loaded; None for what is not in the table."""
    if name in GIVEN:
        return GIVEN[name].process
    if options.get("process"):
        return str(options["process"])
    checkpoint = checkpoints().get(name)
    family = _table()[0].get(checkpoint.family if checkpoint else name)
    return family.process if family else None


def check_members(model: Any, name: str) -> None:
    """Raises UserError if `model` lacks a member of `Denoiser`."""
    from dlm_eval.models.denoiser import Denoiser, missing_members

    if absent := missing_members(model, Denoiser):
        hint = "; dlm_eval.wrap(logits=...) makes one of a function" if callable(model) and len(absent) > 5 else ""
        raise UserError(f"model '{name}' is no Denoiser; it lacks {', '.join(absent)}{hint}")
