"""Python files of the user: models, strategies, estimators, and the functions of tasks.

All of them are run here, so that each may import the files beside it, as a script may. Where one of
them raised an error: `reasons.py`.

A file beside has the name of a top-level module, which is known to the whole process. So an installed
package of the same name comes first. Of two files of one name in different folders each importer gets
its own, since the name is given to the last one only while the importer is run; if a function imports
one of them, which may be later, it is an error. An edited file is run again, with all that import it.
"""

from __future__ import annotations

import ast
import functools
import hashlib
import importlib.util
import re
import sys
import sysconfig
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib import metadata
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any

from dlm_eval.errors import UserError

INSTALLED = ("site-packages", "dist-packages")
STANDARD = tuple({Path(sysconfig.get_path(name)) for name in ("stdlib", "platstdlib")})
OURS = Path(__file__).parent


def is_users(file: Path) -> bool:
    """Returns whether a file is the user's, not of Python, an installed package or this one."""
    return OURS not in file.parents and not _is_installed(file) and file.is_file()


def _is_installed(file: Path) -> bool:
    """Returns whether a file belongs to Python or to an installed package."""
    return any(part in INSTALLED for part in file.parts) or any(
        folder in file.parents for folder in STANDARD
    )


def run_file(place: Path, name: str, **values: Any) -> ModuleType:
    """Runs a Python file as the module `name`, with `values` in it from the start; returns it.

    Raises:
        UserError: it imports a file beside it whose name another file has (`find_beside`).
    """
    find_beside(place)
    loader = FromSource(name, str(place))
    spec = importlib.util.spec_from_file_location(name, place, loader=loader)
    assert spec is not None and spec.loader is not None  # a .py file always has both
    module = importlib.util.module_from_spec(spec)
    module.__dict__.update(values)
    sys.modules[name] = module  # dataclasses look their module up by name
    spec.loader.exec_module(module)
    return module


class FromSource(SourceFileLoader):
    """Runs what a file says now. Python's own loader takes bytecode of an earlier text if that had the
    same length and was written in the same second.
    """

    def get_code(self, fullname: str) -> CodeType:
        """Returns the compiled file (Python's protocol of loaders)."""
        return self.source_to_code(self.get_data(self.path), self.path)


def digest_of(place: Path) -> str:
    """Returns the sha256 of a file and, if there are any, of the files beside it that it imports."""
    own = place.read_bytes()
    files = [file for one in beside(place).values() for file in one.files]
    parts = [
        str(file.relative_to(place.parent)).encode() + b"\0" + file.read_bytes() for file in files
    ]
    return hashlib.sha256(b"\0\0".join([own, *parts])).hexdigest()


@dataclass(frozen=True)
class Beside:
    """A module in the folder of a file that imports it.

    Attributes:
        folder: the folder in which `import` finds it.
        files: its files, the one that is run first.
        late: whether a function imports it or a part of it, so that the name has to stay its own.
    """

    folder: Path
    files: tuple[Path, ...]
    late: bool

    @property
    def state(self) -> str:
        """The sha256 of its files and of those beside it that they import."""
        reached = _reached(self.folder, self.files).values()
        files = [*self.files, *(file for one in reached for file in one.files)]
        return hashlib.sha256(b"\0".join(file.read_bytes() for file in files)).hexdigest()


def find_beside(place: Path) -> None:
    """Makes the files beside `place` that it imports known to Python's `import`. What was imported by
    their names from another folder, or before they were edited, is forgotten: `import` runs them again.

    Raises:
        UserError: one of them has the name of another file that Python would import in its place, now or
            when a function imports it.
    """
    if _FINDER not in sys.meta_path:
        sys.meta_path.insert(0, _FINDER)
    for name, one in beside(place).items():
        late, state = one.late, one.state
        if name in _FINDER.known:
            folder, before, late_before = _FINDER.known[name]
            if folder != one.folder and (late or late_before):
                raise _clash(place, name, one, folder, ", and a function imports it")
            late = late or late_before
            if (folder, before) != (one.folder, state):
                _FINDER.forget(name)
        origin = _origin(name)
        if origin is not None and origin.resolve() != one.files[0].resolve():
            raise _clash(place, name, one, origin)
        _FINDER.known[name] = one.folder, state, late


def _clash(place: Path, name: str, one: Beside, other: Path, more: str = "") -> UserError:
    return UserError(
        f"'{place.name}' imports '{name}', which is '{one.files[0]}', but there is another in "
        f"'{other}'{more}; rename one of them"
    )


def beside(place: Path) -> dict[str, Beside]:
    """Returns the modules in the folder of `place` that it imports, directly or through each other, by
    name. A package has all its files, also one without `__init__.py`. Names of Python and of installed
    packages are left out.
    """
    return _reached(place.parent, [place])


def _reached(folder: Path, start: Sequence[Path]) -> dict[str, Beside]:
    """Returns the modules in `folder` that the files `start` import, without their own."""
    found: dict[str, Beside] = {}
    waiting = [("", file) for file in start]  # the module that a file belongs to, and the file
    while waiting:
        owner, file = waiting.pop()
        for name, late in _imported(file):
            name = name or owner  # a part of its own package
            known = found.get(name)
            files = known.files if known else tuple(_files(folder, name))
            if not files or files[0] in start or (known is None and _is_package(name)):
                continue
            found[name] = Beside(folder, files, late or (known is not None and known.late))
            waiting += [] if known else [(name, each) for each in files]
    return dict(sorted(found.items()))


def _imported(file: Path) -> list[tuple[str, bool]]:
    """Returns the top-level modules that a file imports, and whether a function does it; "" is the
    package that the file belongs to.
    """
    try:
        return list(_imports(ast.parse(file.read_bytes()), False))
    except (SyntaxError, ValueError, RecursionError):
        return []  # Python says so when the file is run


def _imports(node: ast.AST, late: bool) -> Iterator[tuple[str, bool]]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import):
            yield from ((alias.name.partition(".")[0], late) for alias in child.names)
        elif isinstance(child, ast.ImportFrom):
            name = "" if child.level else child.module or ""
            yield name.partition(".")[0], late
        elif not isinstance(child, ast.expr):
            within = isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef))
            yield from _imports(child, late or within)


def _files(folder: Path, name: str) -> list[Path]:
    """Returns the files of the module or package `name` in a folder, the one that is run first."""
    module, package = folder / f"{name}.py", folder / name / "__init__.py"
    if not name:
        return []
    if package.is_file():
        return [package, *sorted(set(package.parent.rglob("*.py")) - {package})]
    return [module] if module.is_file() else sorted(package.parent.rglob("*.py"))


def _is_package(name: str) -> bool:
    """Returns whether Python or an installed package has the name."""
    if name in sys.stdlib_module_names or name in _in_use():
        return True
    origin = _origin(name)
    return origin is not None and _is_installed(origin)


@functools.cache
def _in_use() -> frozenset[str]:
    """Returns the names of this package and those it needs. They may be installed from a checkout in
    which the file of the user is.
    """
    try:
        lines = metadata.requires(OURS.name) or []
    except metadata.PackageNotFoundError:
        lines = []
    return frozenset(
        {OURS.name, *(re.split(r"[^\w-]", line)[0].replace("-", "_") for line in lines)}
    )


def _origin(name: str) -> Path | None:
    """Returns the file that `import name` would give if no file beside another was known, if there is
    one.
    """
    try:
        spec = _spec_elsewhere(name) if name in _FINDER.known else importlib.util.find_spec(name)
    except (ImportError, ValueError, AttributeError):  # a module that was made by hand has no spec
        return None
    return Path(spec.origin) if spec is not None and spec.origin is not None else None


def _spec_elsewhere(name: str) -> ModuleSpec | None:
    """Returns what Python's other finders say of a module, imported or not."""
    others = (finder for finder in sys.meta_path if finder is not _FINDER)
    return next((spec for finder in others if (spec := finder.find_spec(name, None))), None)


class _Finder:
    """Finds the modules that are files beside a file of the user.

    Attributes:
        known: name -> its folder, the sha256 of its files when they were last looked at, and whether a
            function imports it.
    """

    def __init__(self) -> None:
        self.known: dict[str, tuple[Path, str, bool]] = {}

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        """Returns where a module is (Python's protocol of finders)."""
        top = name.partition(".")[0]
        if top not in self.known:
            return None
        spec = PathFinder.find_spec(name, [str(self.known[top][0])] if name == top else path)
        if spec is not None and spec.origin is not None and type(spec.loader) is SourceFileLoader:
            spec.loader = FromSource(name, spec.origin)
        return spec

    def forget(self, name: str) -> None:
        """Lets the next `import` of a module find and run it anew."""
        del self.known[name]
        for module in [m for m in sys.modules if m == name or m.startswith(f"{name}.")]:
            del sys.modules[module]


_FINDER = _Finder()
