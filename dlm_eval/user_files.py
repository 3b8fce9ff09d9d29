"""Python files of the user: models, strategies, estimators, and the functions of tasks.

All of them are run here, so that each may import the files beside it, as a script may, and an error
in one of them names the file and the line.

A file beside has the name of a top-level module, which is known to the whole process. So an installed
package of the same name comes first, and two files of one name from different folders are an error. An
edited file is run again, with all that import it.
"""

from __future__ import annotations

import ast
import hashlib
import importlib.util
import sys
import sysconfig
import traceback
from collections.abc import Iterator, Sequence
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from types import ModuleType
from typing import Any

from dlm_eval.errors import UserError
from dlm_eval.output import one_line

LONGEST = 600  # characters of an exception's text in a reason
INSTALLED = ("site-packages", "dist-packages")
STANDARD = tuple({Path(sysconfig.get_path(name)) for name in ("stdlib", "platstdlib")})
OURS = Path(__file__).parent


# -- errors ----------------------------------------------------------------------------------------


def reason(error: BaseException) -> str:
    """Returns the type and text of an exception on one line, without secrets and not too long, and
    where in a file of the user it was raised.
    """
    try:
        text = " ".join(str(error).split())
    except Exception:  # a user's own exception may have a broken __str__
        text = ""
    # Redacted before it is cut, since redaction does not recognise half of a secret.
    said = one_line(f"{type(error).__name__}: {text}" if text else type(error).__name__)
    said = said if len(said) <= LONGEST else f"{said[:LONGEST]} …"
    return said + place_of(error)


def place_of(error: BaseException) -> str:
    """Returns " (in FILE, line N)": where in a file of the user an exception was raised, or what that
    file called. "" if none of the user's files was involved.
    """
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        file = Path(frame.filename)
        if is_users(file):
            return one_line(f" (in {file.name}, line {frame.lineno})")
    return ""


def is_users(file: Path) -> bool:
    """Returns whether a file is the user's, not of Python, an installed package or this one."""
    return OURS not in file.parents and not _is_installed(file) and file.is_file()


def _is_installed(file: Path) -> bool:
    """Returns whether a file belongs to Python or to an installed package."""
    return any(part in INSTALLED for part in file.parts) or any(
        folder in file.parents for folder in STANDARD
    )


# -- running ---------------------------------------------------------------------------------------


def run_file(place: Path, name: str, **values: Any) -> ModuleType:
    """Runs a Python file as the module `name`, with `values` in it from the start; returns it.

    Raises:
        UserError: it imports a file beside it whose name another file has (`find_beside`).
    """
    find_beside(place)
    spec = importlib.util.spec_from_file_location(name, place)
    assert spec is not None and spec.loader is not None  # a .py file always has both
    module = importlib.util.module_from_spec(spec)
    module.__dict__.update(values)
    sys.modules[name] = module  # dataclasses look their module up by name
    spec.loader.exec_module(module)
    return module


def digest_of(place: Path) -> str:
    """Returns the sha256 of a file and, if there are any, of the files beside it that it imports."""
    own = place.read_bytes()
    files = [file for files in beside(place).values() for file in files]
    parts = [
        own,
        *(
            str(file.relative_to(place.parent)).encode() + b"\0" + file.read_bytes()
            for file in files
        ),
    ]
    return hashlib.sha256(parts[0] if len(parts) == 1 else b"\0\0".join(parts)).hexdigest()


def find_beside(place: Path) -> None:
    """Makes the files beside `place` that it imports known to Python's `import`. Those that have changed
    since they were run are forgotten, so that `import` runs them again.

    Raises:
        UserError: one of them has the name of another file that Python would import in its place.
    """
    if _BESIDE not in sys.meta_path:
        sys.meta_path.insert(0, _BESIDE)
    for name, files in beside(place).items():
        other = _elsewhere(name, files)
        if other is not None:
            raise UserError(
                f"'{place.name}' imports '{name}', which is '{files[0]}', but also '{other}'; rename one "
                "of them"
            )
        state = hashlib.sha256(b"\0".join(file.read_bytes() for file in files)).hexdigest()
        if _BESIDE.known.get(name, (place.parent, state)) != (place.parent, state):
            for module in [m for m in sys.modules if m == name or m.startswith(f"{name}.")]:
                del sys.modules[module]
        _BESIDE.known[name] = place.parent, state


def beside(place: Path) -> dict[str, list[Path]]:
    """Returns name -> files of the modules in the folder of `place` that it imports, directly or through
    each other. A package has all its files. Names of Python and of installed packages are left out.
    """
    found: dict[str, list[Path]] = {}
    waiting = [place]
    while waiting:
        for name in _imported(waiting.pop()):
            files = _files(place.parent, name)
            if name in found or files[:1] == [place] or not files or _is_package(name):
                continue
            found[name] = files
            waiting += files
    return dict(sorted(found.items()))


def _imported(file: Path) -> Iterator[str]:
    """Yields the names of the top-level modules that a file imports, functions included."""
    try:
        tree = ast.parse(file.read_bytes())
    except (SyntaxError, ValueError):
        return  # Python says so when the file is run
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module.partition(".")[0]


def _files(folder: Path, name: str) -> list[Path]:
    """Returns the files of the module or package `name` in a folder, the one that is run first."""
    module, package = folder / f"{name}.py", folder / name / "__init__.py"
    if package.is_file():
        return [package, *sorted(set(package.parent.rglob("*.py")) - {package})]
    return [module] if module.is_file() else []


def _is_package(name: str) -> bool:
    """Returns whether Python or an installed package has the name."""
    if name in sys.stdlib_module_names:
        return True
    origin = _origin(name)
    return origin is not None and _is_installed(origin)


def _elsewhere(name: str, files: Sequence[Path]) -> Path | None:
    """Returns the file that `import name` would give now if it is none of `files`."""
    origin = _origin(name)
    same = origin is None or origin.resolve() == files[0].resolve()
    return None if same else origin


def _origin(name: str) -> Path | None:
    """Returns the file that `import name` would give, if there is one."""
    try:
        spec = importlib.util.find_spec(name)
    except (ImportError, ValueError, AttributeError):  # a module that was made by hand has no spec
        return None
    return Path(spec.origin) if spec is not None and spec.origin is not None else None


class _Beside:
    """Finds the modules that are files beside a file of the user.

    Attributes:
        known: name -> the folder, and the sha256 of the files when they were last looked at.
    """

    def __init__(self) -> None:
        self.known: dict[str, tuple[Path, str]] = {}

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        """Returns where a module is (Python's protocol of finders)."""
        if name not in self.known:
            return None
        return PathFinder.find_spec(name, [str(self.known[name][0])])


_BESIDE = _Beside()
