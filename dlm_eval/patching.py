"""Temporarily replaces attributes of other libraries, at once or when the library is imported."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any


@contextmanager
def replaced(target: Any, name: str, value: Any) -> Iterator[None]:
    """Sets the attribute `name` of a module, class or object to `value` until the context ends."""
    own = name in vars(target)
    before = vars(target).get(name)
    setattr(target, name, value)
    try:
        yield
    finally:
        if own:
            setattr(target, name, before)
        else:
            delattr(target, name)


@contextmanager
def replaced_on_import(name: str, attribute: str, make: Callable[[Any], Any]) -> Iterator[None]:
    """Sets an attribute of the module `name` to `make(module)` until the context ends.

    This happens when the module is imported, or at once if it is imported already. Most runs never
    import the library, so they do not pay for its import.
    """
    stack = ExitStack()
    finder = _OnImport(
        name, lambda module: stack.enter_context(replaced(module, attribute, make(module)))
    )
    if name in sys.modules:
        finder.then(sys.modules[name])
    else:
        sys.meta_path.insert(0, finder)
    try:
        yield
    finally:
        if finder in sys.meta_path:
            sys.meta_path.remove(finder)
        stack.close()


class _OnImport(MetaPathFinder):
    """Calls `then(module)` once the module of this name has been imported."""

    def __init__(self, name: str, then: Callable[[Any], None]) -> None:
        self.name, self.then = name, then

    def find_spec(self, fullname: str, path: Any, target: Any = None) -> ModuleSpec | None:
        """Returns the module's spec, with a loader that calls `then` at its end, or None."""
        if fullname != self.name:
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(fullname)
        if spec is None or spec.loader is None:
            return None
        run = spec.loader.exec_module

        def exec_module(module: ModuleType) -> None:
            run(module)
            self.then(module)

        spec.loader.exec_module = exec_module  # type: ignore[method-assign]
        return spec
