"""The source code behind a function, as part of a task's identity: the function's own text and that of what it uses of its author's."""

from __future__ import annotations

import ast
import functools
import inspect
import linecache
import re
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

PLAIN = (str, int, float, bool, bytes, type(None), list, tuple, dict, set, frozenset)
FIXED = (str, int, float, bool, bytes, type(None), frozenset)
MOST = 10_000  # characters of one constant


def described(value: Any) -> Any:
    """Returns a setting of a task as plain data: functions by their source code, everything else as it is."""
    if isinstance(value, dict):
        return {str(key): described(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [described(item) for item in value]
    return source(value) if callable(value) else value


def source(function: Callable[..., Any]) -> dict[str, str]:
    """Returns name -> text of a function and of every function, class and constant of its own module, or a neighbour's, that it reads.

    Libraries are names alone: their versions are recorded elsewhere. No path of the machine is part of it.
    """
    linecache.checkcache()
    _assigned.cache_clear()
    found: dict[str, str] = {}
    _gather(function, _home(function), found)
    return found


def _gather(value: Any, home: tuple[str, str], found: dict[str, str]) -> None:
    while isinstance(value, functools.partial):
        found[f"partial {len(found)}"] = repr((value.args, sorted(value.keywords.items())))
        value = value.func
    value = inspect.unwrap(value) if callable(value) else value
    if not isinstance(value, (types.FunctionType, type)):
        if not isinstance(value, (types.BuiltinFunctionType, types.MethodType)):
            value = type(value)
        value = getattr(value, "__func__", value)
    name = f"{value.__qualname__}"
    if name in found or not _is_own(value, home):
        found.setdefault(name, f"{str(value.__module__).rpartition('/')[2]}.{name}")
        return
    try:
        found[name] = inspect.getsource(value)
    except (OSError, TypeError):  # made without a file
        found[name] = repr([code.co_code for code in _codes(value)])
    for code in _codes(value):
        for used in code.co_names:
            _gather_name(used, _globals(value), code.co_filename, home, found)


def _gather_name(name: str, scope: dict[str, Any], file: str, home: tuple[str, str], found: dict[str, str]) -> None:
    if name not in scope or name in found:
        return
    value = scope[name]
    if isinstance(value, (types.FunctionType, type)):
        _gather(value, home, found)
    elif isinstance(value, PLAIN):
        # As it is written: a list or mapping may have been changed since, by a run.
        found[name] = _assigned(file).get(name) or (
            repr(value)[:MOST] if isinstance(value, FIXED) else type(value).__name__
        )
    elif isinstance(value, re.Pattern):
        found[name] = repr(value.pattern)
    else:
        found[name] = type(value).__qualname__


@functools.lru_cache(maxsize=256)
def _assigned(file: str) -> dict[str, str]:
    """Returns name -> text of what a module's top level assigns to names."""
    try:
        text = "".join(linecache.getlines(file))
        tree = ast.parse(text)
    except (SyntaxError, ValueError, OSError):
        return {}
    found: dict[str, str] = {}
    for statement in tree.body:
        targets = statement.targets if isinstance(statement, ast.Assign) else [getattr(statement, "target", None)]
        for target in targets:
            if isinstance(target, ast.Name):
                found[target.id] = found.get(target.id, "") + (ast.get_source_segment(text, statement) or "")
    return found


def _codes(value: Any) -> Iterator[types.CodeType]:
    """Yields the code of a function, or of a class's methods, and of the functions inside."""
    waiting: list[Any] = [value.__code__] if isinstance(value, types.FunctionType) else []
    if isinstance(value, type):
        waiting = [member.__code__ for member in vars(value).values() if isinstance(member, types.FunctionType)]
    while waiting:
        code = waiting.pop()
        yield code
        waiting += [constant for constant in code.co_consts if isinstance(constant, types.CodeType)]


def _globals(value: Any) -> dict[str, Any]:
    if isinstance(value, types.FunctionType):
        return value.__globals__
    methods = [member for member in vars(value).values() if isinstance(member, types.FunctionType)]
    return methods[0].__globals__ if methods else {}


def _home(function: Any) -> tuple[str, str]:
    """Returns the package and the folder whose code counts as the author's own."""
    inner = function
    while isinstance(inner, functools.partial):
        inner = inner.func
    inner = inspect.unwrap(inner) if callable(inner) else inner
    return str(getattr(inner, "__module__", "")).partition(".")[0], _folder(inner)


def _folder(value: Any) -> str:
    try:
        return str(Path(inspect.getfile(value)).parent)
    except (TypeError, OSError):
        return ""


def _is_own(value: Any, home: tuple[str, str]) -> bool:
    package, folder = home
    module = str(value.__module__)
    if module.partition(".")[0] != package:
        return bool(folder) and _folder(value) == folder
    return package != "lm_eval" or module.startswith("lm_eval.tasks.") or _folder(value) == folder
