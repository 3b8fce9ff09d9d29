"""Models by name: families and named checkpoints (checkpoints.yaml), plug-ins, files, objects.

`loader_of` finds what makes a model of a name (the family's `FAMILY` or `load`) and its options.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
import inspect
import os
import typing
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import MISSING, dataclass, field, fields, is_dataclass, replace
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from dlm_eval.errors import UserError, unknown_name_error
from dlm_eval.plugins import entry_points
from dlm_eval.reasons import reason
from dlm_eval.settings import attribute_docs, from_mapping
from dlm_eval.user_files import digest_of, run_file

if TYPE_CHECKING:
    from dlm_eval.models.denoiser import Denoiser

TABLE = Path(__file__).with_name("checkpoints.yaml")
ASSETS = Path(__file__).parent.parent / "assets"
ENTRY_POINTS = "dlm_eval.models"
GIVEN: dict[str, Denoiser] = {}  # models that were given as objects, for as long as they are used


@dataclass(frozen=True)
class Family:
    """A family: its module, the checkpoint that its name means, a line about it, its process.

    `strategy` is the default decoding strategy of its models if it is not that of their process, so
    that settings can be checked before a model is loaded.
    """

    name: str
    module: str
    default: str | None = None
    about: str = ""
    process: str = "absorbing"
    strategy: str = ""


@dataclass(frozen=True)
class Checkpoint:
    """What is known about published weights.

    Attributes:
        name: what --model takes.
        family: its adapter.
        licence: of the weights.
        size: parameters, or None.
        mask_id: id of the mask token that the files should have, or None.
        equal_ids: special tokens that its mask may be the same id as: bos, eos, pad.
        chat: whether it was tuned to follow instructions through its chat template.
        options: defaults of the adapter's options (`pretrained`, `revision`, ...).
        source: where the facts were read, if not on the authors' own page.
    """

    name: str
    family: str
    licence: str = ""
    size: float | None = None
    mask_id: int | None = None
    equal_ids: tuple[str, ...] = ()
    chat: bool = False
    options: Mapping[str, Any] = field(default_factory=dict)
    source: str = ""


@cache
def _raw() -> dict[str, Any]:
    import yaml

    raw: dict[str, Any] = yaml.safe_load(TABLE.read_text(encoding="utf-8"))
    return raw


@cache
def _table() -> tuple[dict[str, Family], dict[str, Checkpoint], dict[str, str]]:
    raw = _raw()
    known = {name: Family(name, **row) for name, row in raw["families"].items()}
    return (
        known,
        {name: Checkpoint(name, **row) for name, row in raw["checkpoints"].items()},
        raw["unsupported"],
    )


def own_families() -> dict[str, Family]:
    """Returns the families of this package by name."""
    return dict(_table()[0])


def known_families() -> dict[str, Family]:
    """Returns the families by name; those of installed packages cannot replace ours."""
    others = {
        name: Family(name, e.value, about=f"from package {e.dist.name if e.dist else '?'}")
        for name, e in entry_points(ENTRY_POINTS).items()
    }
    given = {name: Family(name, "", process=model.process) for name, model in GIVEN.items()}
    return {**others, **_table()[0], **given}


def checkpoints() -> dict[str, Checkpoint]:
    """Returns the named checkpoints by name."""
    return dict(_table()[1])


def unsupported() -> dict[str, str]:
    """Returns the models that are known and cannot be run here by name, with the reason."""
    return dict(_table()[2])


def baselines() -> dict[str, dict[str, Any]]:
    """Returns the named autoregressive models: `about` and `options` of lm-eval's `hf`."""
    return dict(_raw()["baselines"])


def check_supported(name: str) -> None:
    """Raises UserError, with the reason, if `name` is known and cannot be run here."""
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
    """Returns the named checkpoint, the default one of the family `name`, or an empty one for a
    file.

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
    """Returns the process of a model that is not loaded, by options and table, or None."""
    if name in GIVEN:
        return GIVEN[name].process
    if options.get("process"):
        return str(options["process"])
    family = _own_family(name)
    return family.process if family else None


def strategy_of(name: str) -> str:
    """Returns the default strategy of a model that is not loaded, by the table; "" for that of its
    process.
    """
    family = _own_family(name)
    return family.strategy if family else ""


def _own_family(name: str) -> Family | None:
    """Returns the family of this package that a family's or checkpoint's name means, or None."""
    checkpoint = checkpoints().get(name)
    return _table()[0].get(checkpoint.family if checkpoint else name)


def check_members(model: Any, name: str) -> None:
    """Raises UserError if `model` lacks a member of `Denoiser`."""
    from dlm_eval.models.denoiser import Denoiser, missing_members

    if absent := missing_members(model, Denoiser):
        hint = (
            "; dlm_eval.wrap(logits=...) makes one of a function"
            if callable(model) and len(absent) > 5
            else ""
        )
        raise UserError(f"model '{name}' is no Denoiser; it lacks {', '.join(absent)}{hint}")


def describe_source(model: Any, source: str) -> None:
    """Adds the digest of the file that a model comes from to what its `describe` returns, so that an
    edited file is another model.

    Raises:
        UserError: the model's class has `__slots__`.
    """
    describe = model.describe

    def described() -> dict[str, Any]:
        return {**describe(), "source_sha256": source}

    try:
        object.__setattr__(model, "describe", described)  # the class may be a frozen dataclass
    except AttributeError:
        raise UserError(
            f"class {type(model).__name__} has __slots__ without 'describe', which gets a digest of"
            " the file; leave __slots__ out"
        ) from None


# -- what makes a model, and its options -----------------------------------------------------------


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
        source: sha256 of the user's file and of the files beside it that it imports; "" for a module.
    """

    load: Callable[[Any], Denoiser]
    settings: type[Any]
    tests: bool
    source: str = ""


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
    needed = _needed(kind)
    docs = {}
    for f in fields(kind):
        default = own.get(f.name) or f.default
        shown = (
            "needed" if default is MISSING and f.name in needed else f"default: {_shown(default)}"
        )
        docs[f.name] = f"{meaning.get(f.name, '').rstrip('.')} ({shown})".strip()
    return docs


def _needed(kind: type[Any]) -> list[str]:
    """Returns the options that have no default."""
    return [
        f.name
        for f in fields(kind)
        if f.default is MISSING and f.default_factory is MISSING and f.init
    ]


def _shown(default: Any) -> str:
    if isinstance(default, bool):
        return str(default).lower()
    return "none" if default is None or default == "" else str(default)


def loader_of(checkpoint: Checkpoint) -> Loader:
    """Returns the loader of a checkpoint's family, or of an object that was given."""
    if checkpoint.family in GIVEN:
        model = GIVEN[checkpoint.family]
        return Loader(lambda _: model, NoOptions, False)
    known = known_families()
    source = known[checkpoint.family].module if checkpoint.family in known else checkpoint.family
    return find_loader(source, checkpoint.family in own_families())


def find_loader(source: str, ours: bool = False) -> Loader:
    """Returns the loader of a module, of `module:name`, or of a Python file; importing it runs its
    code.

    Args:
        source: where `load` or `FAMILY` is.
        ours: whether the module belongs to this package.

    Raises:
        UserError: there is no such file or name, or importing it failed.
    """
    place, _, function = source.partition(":") if not source.endswith(".py") else (source, "", "")
    source_sha256 = ""
    try:
        if place.endswith(".py"):
            module, source_sha256 = _import_file(Path(place))
        else:
            module = importlib.import_module(place)
    except UserError:
        raise
    except (Exception, SystemExit) as error:  # of the user's code
        raise UserError(f"model '{source}' cannot be imported: {reason(error)}") from error
    found = next(
        (
            vars(module)[name]
            for name in ([function] if function else ["load", "FAMILY"])
            if name in vars(module)
        ),
        None,
    )
    if found is not None and not callable(found):
        from dlm_eval.models.family import FamilySpec, load_family

        if isinstance(found, FamilySpec):
            load = functools.partial(load_family, found)
            return Loader(load, found.settings, True, source_sha256)
    if not callable(found):
        raise UserError(
            f"model '{source}' has no function {function or 'load'}(settings) and no FAMILY; see "
            "docs/guides/adding-a-model.md"
        )
    hints = [hint for key, hint in typing.get_type_hints(found).items() if key != "return"]
    if not hints:
        raise UserError(
            f"model '{source}': load(settings) must annotate `settings` with the dataclass of its "
            "options"
        )
    if not (isinstance(hints[0], type) and is_dataclass(hints[0])):
        raise UserError(
            f"model '{source}': load(settings) must annotate `settings` with a dataclass, not "
            f"{hints[0]}"
        )
    return Loader(found, hints[0], ours, source_sha256)


def _import_file(path: Path) -> tuple[ModuleType, str]:
    """Returns a user's file as a module, and its digest."""
    path = Path(os.path.expanduser(path))
    if not os.path.isfile(path):
        raise UserError(
            f"model '{path}' is not a file; it must be a Python file with load(settings), or a "
            "known name"
        )
    digest = digest_of(path)
    return run_file(path, f"dlm_eval_user_{path.stem}"), digest


def settings_of(loader: Loader, checkpoint: Checkpoint, options: Mapping[str, Any]) -> Any:
    """Returns the options of a model from the checkpoint's defaults and the user's `options`."""
    kind = loader.settings
    given: dict[str, Any] = {}
    for key, value in options.items():
        key = ALIASES.get(key, key)
        if key in given:
            raise UserError(f"model_args {key} is given twice (aliases: {', '.join(ALIASES)})")
        given[key] = value
    own = given.get("pretrained", checkpoint.options.get("pretrained")) == checkpoint.options.get(
        "pretrained"
    )
    given = {**(checkpoint.options if own else {}), **given}
    if absent := [name for name in _needed(kind) if name not in given]:
        raise UserError(
            f"model '{checkpoint.name}' needs model_args {', '.join(absent)}, such as "
            f"{absent[0]}=ID_OR_DIR"
        )
    settings = from_mapping(kind, given, "model_args")
    if "checkpoint" in {f.name for f in fields(kind)} and own and "checkpoint" not in given:
        # its facts hold only for its own weights
        settings = replace(settings, checkpoint=checkpoint.name)
    return settings
