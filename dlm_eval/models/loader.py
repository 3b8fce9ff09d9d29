"""From a name to what makes a model of it: the family's `FAMILY` or `load`, and the options that it takes."""

from __future__ import annotations

import functools
import importlib
import importlib.util
import inspect
import os
import re
import sys
import typing
from collections.abc import Callable, Mapping
from dataclasses import MISSING, dataclass, fields, is_dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from dlm_eval.errors import UserError
from dlm_eval.models.catalog import GIVEN, Checkpoint, find_checkpoint, known_families, own_families
from dlm_eval.settings import from_mapping

if TYPE_CHECKING:
    from dlm_eval.models.denoiser import Denoiser

ALIASES = {"model_path": "pretrained"}  # option names that other harnesses use


@dataclass(frozen=True)
class NoOptions:
    """Options of a model that was given as an object: none."""


@dataclass(frozen=True)
class Loader:
    """How a family's models are made.

    Attributes:
        load: makes one of its options.
        settings: dataclass of the options.
        tests: whether `load` probes what it made; a user's own `load` does not.
    """

    load: Callable[[Any], Denoiser]
    settings: type[Any]
    tests: bool


def option_names(name: str) -> set[str]:
    """Returns the options (`model_args`) that a model takes."""
    return {f.name for f in fields(loader_of(find_checkpoint(name)).settings)}


def option_docs(name: str) -> dict[str, str]:
    """Returns "meaning (default)" of each option (`model_args`) that a model takes."""
    checkpoint = find_checkpoint(name)
    kind = loader_of(checkpoint).settings
    meaning: dict[str, str] = {}
    for one in reversed(kind.__mro__):
        meaning |= attribute_docs(inspect.getdoc(one) or "")
    own = {**checkpoint.options, "checkpoint": checkpoint.name if checkpoint.options else ""}
    needed = {f.name for f in fields(kind) if f.default is MISSING and f.default_factory is MISSING}
    docs = {}
    for f in fields(kind):
        default = own.get(f.name) or f.default
        shown = "needed" if default is MISSING and f.name in needed else f"default: {_shown(default)}"
        docs[f.name] = f"{meaning.get(f.name, '').rstrip('.')} ({shown})".strip()
    return docs


def _shown(default: Any) -> str:
    if isinstance(default, bool):
        return str(default).lower()
    return "none" if default is None or default == "" else str(default)


def attribute_docs(text: str) -> dict[str, str]:
    """Returns the entries under "Attributes:" of a docstring by name."""
    _, _, listed = text.partition("Attributes:\n")
    entries = re.findall(r"^    (\w+): (.+(?:\n      .+)*)", listed, re.MULTILINE)
    return {name: " ".join(said.split()) for name, said in entries}


def loader_of(checkpoint: Checkpoint) -> Loader:
    if checkpoint.family in GIVEN:
        model = GIVEN[checkpoint.family]
        return Loader(lambda _: model, NoOptions, False)
    known = known_families()
    source = known[checkpoint.family].module if checkpoint.family in known else checkpoint.family
    return find_loader(source, checkpoint.family in own_families())


def find_loader(source: str, ours: bool = False) -> Loader:
    """Returns the loader of a module, of `module:name`, or of a Python file; importing it runs its code.

    Args:
        source: where `load` or `FAMILY` is.
        ours: whether the module belongs to this package.

    Raises:
        UserError: there is no such file or name, or importing it failed.
    """
    place, _, function = source.partition(":") if not source.endswith(".py") else (source, "", "")
    try:
        module = _import_file(Path(place)) if place.endswith(".py") else importlib.import_module(place)
    except UserError:
        raise
    except Exception as error:  # the user's code may raise anything while it is imported
        raise UserError(f"model '{source}' cannot be imported: {type(error).__name__}: {error}") from error
    found = next(
        (vars(module)[name] for name in ([function] if function else ["load", "FAMILY"]) if name in vars(module)), None
    )
    if found is not None and not callable(found):
        from dlm_eval.models.family import FamilySpec, load_family

        if isinstance(found, FamilySpec):
            return Loader(functools.partial(load_family, found), found.settings, True)
    if not callable(found):
        raise UserError(
            f"model '{source}' has no function {function or 'load'}(settings) and no FAMILY; see docs/adding-a-model.md"
        )
    hints = [hint for key, hint in typing.get_type_hints(found).items() if key != "return"]
    if not hints:
        raise UserError(f"model '{source}': load(settings) must annotate `settings` with the dataclass of its options")
    if not (isinstance(hints[0], type) and is_dataclass(hints[0])):
        raise UserError(f"model '{source}': load(settings) must annotate `settings` with a dataclass, not {hints[0]}")
    return Loader(found, hints[0], ours)


def _import_file(path: Path) -> ModuleType:
    path = Path(os.path.expanduser(path))
    if not os.path.isfile(path):
        raise UserError(f"model '{path}' is not a file; it must be a Python file with load(settings), or a known name")
    name = f"dlm_eval_user_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None and spec.loader is not None  # a .py file always has both
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look their module up by name
    spec.loader.exec_module(module)
    return module


def settings_of(loader: Loader, checkpoint: Checkpoint, options: Mapping[str, Any]) -> Any:
    """Returns the options of a model from the checkpoint's defaults and the user's `options`."""
    kind = loader.settings
    given: dict[str, Any] = {}
    for key, value in options.items():
        key = ALIASES.get(key, key)
        if key in given:
            raise UserError(f"model_args {key} is given twice (aliases: {', '.join(ALIASES)})")
        given[key] = value
    own = given.get("pretrained", checkpoint.options.get("pretrained")) == checkpoint.options.get("pretrained")
    given = {**(checkpoint.options if own else {}), **given}
    needed = [f.name for f in fields(kind) if f.default is MISSING and f.default_factory is MISSING and f.init]
    if absent := [name for name in needed if name not in given]:
        raise UserError(
            f"model '{checkpoint.name}' needs model_args {', '.join(absent)}, such as {absent[0]}=ID_OR_DIR"
        )
    settings = from_mapping(kind, given, "model_args")
    if "checkpoint" in {f.name for f in fields(kind)} and own and "checkpoint" not in given:
        settings = replace(settings, checkpoint=checkpoint.name)  # its facts hold only for its own weights
    return settings
