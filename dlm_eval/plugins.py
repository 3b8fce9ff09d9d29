"""Finds classes by name: ours, those of installed packages (entry points), or in a user's file.

A base class registers its subclasses in a `Registry`. A user names one of them in three ways: by
its name, by the name of an entry point, or as `path/to/file.py:Class`. Instances of a class from a
file can be pickled: a worker process loads the same file, and raises an error if it was edited
meanwhile.
"""

from __future__ import annotations

import copyreg
import functools
import hashlib
import importlib
import importlib.metadata
import inspect
import os
import pickle
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any, Generic, TypeVar

from dlm_eval.errors import RunError, UserError, unknown_name_error
from dlm_eval.file_state import State, file_state
from dlm_eval.reasons import reason
from dlm_eval.user_files import digest_of, run_file

T = TypeVar("T")
OURS = "dlm_eval"


class Registry(Generic[T]):
    """The known subclasses of one base class, by name.

    Args:
        what: the kind of class in messages ('estimator').
        group: entry-point group in which installed packages declare theirs.
        modules: modules that define ours; they are imported when a name is first looked up.
        aliases: other names of ours.
    """

    def __init__(
        self,
        what: str,
        group: str,
        modules: Iterable[str] = (),
        aliases: Mapping[str, str] | None = None,
    ) -> None:
        self.what = what
        self.group = group
        self.aliases = dict(aliases or {})
        self._modules = tuple(modules)
        self._classes: dict[str, type[T]] = {}
        self._known: set[type[T]] = set()  # including those that were replaced

    def add(self, name: str, cls: type[T]) -> None:
        """Registers `cls`; a base class calls it from `__init_subclass__`.

        A class that is defined again replaces itself.

        Raises:
            UserError: another class has this name.
        """
        other = self._classes.get(name)
        if other is not None and _same_place(other) != _same_place(cls):
            raise UserError(
                f"{self.what} '{name}' is already defined by "
                f"{other.__module__}.{other.__qualname__}; choose another name"
            )
        self._classes[name] = cls
        self._known.add(cls)

    def names(self) -> list[str]:
        """Returns every name that `find` knows: ours in order of definition, then entry points."""
        return list(dict.fromkeys([*self._ours(), *self.aliases, *self._entry_points()]))

    def find(self, name: str, setting: str | None = None) -> type[T]:
        """Returns the class of a name, of an entry point, or of `path/to/file.py:Class`.

        Args:
            name: as the user wrote it.
            setting: the setting that an error names ('--estimator'); by default `what` of the
                registry.

        Raises:
            UserError: no such name (with the nearest one) or file, or a file without such a class.
        """
        setting = setting or self.what
        classes = self._ours()
        name = self.aliases.get(name, name)
        if name in classes:
            return classes[name]
        path, colon, attribute = name.rpartition(":")
        if name.endswith(".py") or (colon and path.endswith(".py")):
            path, attribute = (path, attribute) if colon and path.endswith(".py") else (name, "")
            return self._checked(load_class(path, attribute, setting), name, setting)
        entry = self._entry_points().get(name)
        if entry is None:
            raise unknown_name_error(setting, name, self.names())
        try:
            loaded = entry.load()
        except Exception as error:  # a package's code may raise anything while it is imported
            raise UserError(f"{setting} '{name}' cannot be loaded: {reason(error)}") from error
        return self._checked(loaded, name, setting)

    def listed(self) -> dict[str, type[T] | str]:
        """Returns name -> class for `dlm-eval ls`.

        If a class cannot be loaded, its value is the reason.
        """
        ours = self._ours()
        found: dict[str, type[T] | str] = {}
        for name in self.names():
            try:
                found[name] = ours.get(self.aliases.get(name, name)) or self.find(name)
            except UserError as error:
                found[name] = str(error)
        return found

    def _ours(self) -> dict[str, type[T]]:
        """Returns the registered classes: ours in the order of `modules`, then users'."""
        for module in self._modules:
            importlib.import_module(module)
        rank = {module: number for number, module in enumerate(self._modules)}
        return dict(
            sorted(self._classes.items(), key=lambda item: rank.get(item[1].__module__, len(rank)))
        )

    def _entry_points(self) -> Mapping[str, importlib.metadata.EntryPoint]:
        return entry_points(self.group)

    def _checked(self, cls: Any, name: str, setting: str) -> type[T]:
        if not (isinstance(cls, type) and cls in self._known):
            raise UserError(
                f"{setting} '{name}' is no {self.what}; it must be a subclass of "
                f"{self.what.capitalize()} with a name"
            )
        return cls


def entry_points(group: str) -> Mapping[str, importlib.metadata.EntryPoint]:
    """Returns what installed packages declare in a group, by name.

    They are read again if a package was installed or removed meanwhile (as in a notebook).
    """
    return _entry_points(
        group, tuple((folder, file_state(folder or os.curdir)) for folder in sys.path)
    )


@functools.lru_cache(maxsize=16)
def _entry_points(
    group: str, path: tuple[tuple[str, State], ...]
) -> Mapping[str, importlib.metadata.EntryPoint]:
    return {entry.name: entry for entry in importlib.metadata.entry_points(group=group)}


def load_class(path: str, attribute: str, setting: str) -> type:
    """Returns the class `attribute` of the Python file `path`, which is run.

    The same file gives the same class.

    Raises:
        UserError: no such file, no such class in it, or code that fails when it is run.
    """
    place = Path(os.path.abspath(os.path.expanduser(path)))
    if not place.is_file():
        raise UserError(f"{setting} '{path}' is not a file; it must be path/to/file.py:Class")
    try:
        module = _run_file(place, digest_of(place))
    except UserError:
        raise
    except (Exception, SystemExit) as error:  # the user's code may raise anything while it is run
        raise UserError(f"{setting} '{path}' cannot be loaded: {reason(error)}") from error
    own = [
        name
        for name, value in vars(module).items()
        if isinstance(value, type) and value.__module__ == module.__name__
    ]
    if attribute not in own:
        raise unknown_name_error(f"{setting} '{path}': class", attribute, own)
    cls: type = getattr(module, attribute)
    reduce: Any = functools.partial(_reduce, str(place), attribute, _digest_of(module))
    copyreg.pickle(cls, reduce)
    return cls


def source_digest(cls: type) -> str | None:
    """Returns the sha256 of the source files of a class and its bases, for fingerprints.

    None for a class of dlm_eval.
    """
    parts = [part for base in cls.__mro__ if (part := _source(base)) is not None]
    return hashlib.sha256(b"\0".join(parts)).hexdigest() if parts else None


def _source(cls: type) -> bytes | None:
    if cls.__module__.split(".")[0] in (OURS, "builtins", "typing", "abc"):
        return None
    module = sys.modules.get(cls.__module__)
    if module is not None and cls.__module__.startswith(f"{OURS}_plugin_"):
        return _digest_of(module).encode()  # of the code that was run, even if the file has changed
    try:
        return Path(inspect.getfile(cls)).read_bytes()
    except (TypeError, OSError):
        pass
    try:
        return inspect.getsource(cls).encode()  # a notebook's cell
    except (TypeError, OSError):
        return f"{cls.__module__}.{cls.__qualname__}".encode()


@functools.cache
def _run_file(place: Path, digest: str) -> ModuleType:
    return run_file(place, f"{OURS}_plugin_{place.stem}_{digest[:16]}", __source_digest__=digest)


def _digest_of(module: ModuleType) -> str:
    return str(module.__dict__["__source_digest__"])


def _reduce(path: str, attribute: str, digest: str, instance: Any) -> tuple[Any, ...]:
    # Pickled apart: classes of the file, or of files beside it, are known once it is loaded.
    return _rebuild, (path, attribute, digest, pickle.dumps(dict(vars(instance))))


def _rebuild(path: str, attribute: str, digest: str, values: bytes) -> Any:
    """Returns an instance of a file's class in another process."""
    cls = load_class(path, attribute, "plug-in")
    if _digest_of(sys.modules[cls.__module__]) != digest:
        raise RunError(f"plug-in '{path}' was edited while the run went on; start the run again")
    instance: Any = object.__new__(cls)
    instance.__dict__.update(pickle.loads(values))
    return instance


def _same_place(cls: type) -> tuple[str, str]:
    """Returns where a class was defined: its module, or the path of a user's file.

    The name of a file's module holds its digest, which an edit changes.
    """
    module = cls.__module__
    from_file = module.startswith(f"{OURS}_plugin_")
    return str(sys.modules[module].__file__) if from_file else module, cls.__qualname__
