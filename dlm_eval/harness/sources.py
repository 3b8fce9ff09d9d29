"""The source code of a function as part of a task's identity.

It includes the source of everything by the same author that the function uses.
"""

from __future__ import annotations

import ast
import dis
import functools
import inspect
import linecache
import re
import types
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

PLAIN = (str, int, float, bool, bytes, type(None), list, tuple, dict, set, frozenset)
FIXED = (str, int, float, bool, bytes, type(None), frozenset)
FUNCTIONS = (types.FunctionType, types.MethodType, type, functools.partial)
MOST = 10_000  # characters of one constant
OURS = "dlm_eval.harness"  # its wrappers of task functions do not belong to a task


def described(value: Any) -> Any:
    """Returns a setting of a task as plain data, with functions by their source code."""
    if isinstance(value, dict):
        return {str(key): described(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [described(item) for item in value]
    return source(value) if callable(value) else value


def source(function: Callable[..., Any]) -> dict[str, str]:
    """Returns name -> source of a function, and of every function, class and constant that it reads
    from its own module or a neighbouring one.

    Functions of libraries are included only by name, since versions are recorded elsewhere. The
    result contains no path of the machine.
    """
    linecache.checkcache()
    _module.cache_clear()
    gathering = _Gathering(function)
    gathering.function(function)
    gathering.made(function)
    return gathering.found


class _Gathering:
    """Collects the source code that one function depends on.

    Args:
        function: the function. Code in its package or folder counts as by the same author.
    """

    def __init__(self, function: Any) -> None:
        inner = _innermost(function)
        self.found: dict[str, str] = {}
        self._seen: dict[int, Any] = {}  # objects are kept, so that no other one gets their id
        self._module = str(getattr(inner, "__module__", ""))
        self._package = self._module.partition(".")[0]
        self._folder = _folder(inner)
        self._file = _file(inner)

    def function(self, value: Any) -> None:
        """Adds a function, a class or another callable, and everything that it reads."""
        if id(value) in self._seen:
            return
        self._seen[id(value)] = value
        if isinstance(value, functools.partial):
            arguments = (
                [_plain(item) for item in value.args],
                sorted(map(_plain, value.keywords.items())),
            )
            self._add("partial", repr(arguments))
            self.function(value.func)
            self._functions([*value.args, *value.keywords.values()])
            return
        value = getattr(value, "__func__", value)
        is_function, is_class = isinstance(value, types.FunctionType), isinstance(value, type)
        if not is_class and (inner := getattr(value, "__wrapped__", None)) is not None:
            self.function(inner)
            # a wrapper like that of functools.cache
            if not is_function or _module_name(value).startswith(OURS):
                return
        if isinstance(value, types.BuiltinFunctionType):
            self._add(value.__qualname__, f"{value.__module__}.{value.__qualname__}")
        elif not is_function and not is_class:
            self.function(type(value))
        elif not self._is_own(value):
            self._add(
                value.__qualname__,
                f"{str(value.__module__).rpartition('/')[2]}.{value.__qualname__}",
            )
        else:
            self._add(
                self._name(value.__qualname__, _file(value)),
                _text(value.__code__ if is_function else value),
            )
            for code in _codes(value):
                self._names(code, _globals(value))
            if is_function:
                self._held(value)
            else:
                self._functions(base for base in value.__bases__ if base is not object)

    def made(self, function: Any) -> None:
        """Adds the statement that creates a function without a definition: `f = make('x')`."""
        inner = _innermost(function)
        for name, value in _globals(inner).items():
            if value is function or value is inner:
                self._text_of(name, _globals(inner), self._file)

    def _functions(self, values: Iterable[Any]) -> None:
        for value in values:
            if isinstance(value, FUNCTIONS):
                self.function(value)

    def _held(self, value: types.FunctionType) -> None:
        """Adds the values that a function stores: closure variables and defaults."""
        inside = dict(zip(value.__code__.co_freevars, value.__closure__ or (), strict=True))
        held = {name: cell.cell_contents for name, cell in inside.items() if _is_filled(cell)}
        held |= {f"default {i}": item for i, item in enumerate(value.__defaults__ or ())}
        for name, item in (held | (value.__kwdefaults__ or {})).items():
            if isinstance(item, FUNCTIONS):
                self.function(item)
            else:
                self._add(f"{value.__qualname__}: {name}", _plain(item))

    def _names(self, code: types.CodeType, scope: dict[str, Any]) -> None:
        """Adds everything that a code object reads from its module and from modules beside it."""
        steps = list(dis.get_instructions(code))
        for place, step in enumerate(steps):
            if step.opname in ("LOAD_GLOBAL", "LOAD_NAME"):
                self._named(step.argval, scope, code.co_filename, _attributes(steps[place + 1 :]))
            elif step.opname == "IMPORT_NAME":
                # The module is imported only when the function is called, so add its file.
                file = Path(code.co_filename).parent / f"{str(step.argval).replace('.', '/')}.py"
                if file.is_file():
                    self._add(f"import {step.argval}", "".join(linecache.getlines(str(file))))

    def _named(
        self, name: str, scope: dict[str, Any], file: str, attributes: Sequence[str] = ()
    ) -> None:
        """Adds the value of a global name. If it is a module, adds the attribute that is read."""
        if name not in scope or name.startswith("__"):
            return
        value = scope[name]
        if isinstance(value, types.ModuleType):
            self._add(self._name(name, file), value.__name__.rpartition(".")[2])
            if attributes and self._is_own(value):
                self._named(
                    attributes[0], vars(value), str(getattr(value, "__file__", "")), attributes[1:]
                )
        elif isinstance(value, FUNCTIONS):
            self.function(value)
            if getattr(value, "__qualname__", None) != name:  # not a definition
                self._text_of(name, scope, file)
        else:
            self._constant(name, value, scope, file)

    def _constant(self, name: str, value: Any, scope: dict[str, Any], file: str) -> None:
        """Adds a constant's source text, since a run may change its value; a computed text is added
        by value too.
        """
        key = self._name(name, file)
        if key in self.found:
            return
        if isinstance(value, re.Pattern):
            self._add(key, repr(value.pattern))
        elif not self._text_of(name, scope, file):
            self._add(key, _plain(value))
        elif isinstance(value, str) and _module(file).is_computed(name):
            self._add(f"{key}: value", repr(value).replace(str(Path(file).parent), "")[:MOST])
        if not isinstance(value, PLAIN) and hasattr(type(value), "__module__"):
            self.function(type(value))

    def _text_of(self, name: str, scope: dict[str, Any], file: str) -> bool:
        """Adds the statements that assign `name`, and their names; returns whether any exist."""
        key, module = self._name(name, file), _module(file)
        if name not in module.texts:
            return False
        if key not in self.found:
            self._add(key, module.texts[name])
            for used, *attributes in module.names[name]:
                if used != name:
                    self._named(used, scope, file, attributes)
        return True

    def _name(self, name: str, file: str) -> str:
        """Returns a key of `found`; names from other files are prefixed by the file."""
        path = Path(file)
        return (
            name
            if file == self._file
            else f"{path.parent.name if path.stem == '__init__' else path.stem}.{name}"
        )

    def _add(self, name: str, text: str) -> None:
        if self.found.get(name) == text:
            return
        number, free = 1, name
        while free in self.found:  # for example with two lambdas
            number, free = number + 1, f"{name} {number + 1}"
        self.found[free] = text

    def _is_own(self, value: Any) -> bool:
        module = _module_name(value)
        if module.partition(".")[0] != self._package:
            return bool(self._folder) and _folder(value) == self._folder
        if self._package == "dlm_eval":  # only scorers in dlm_eval belong to tasks
            return module == self._module or module.startswith("dlm_eval.metrics.")
        return (
            self._package != "lm_eval"
            or module.startswith("lm_eval.tasks.")
            or _folder(value) == self._folder
        )


class _Module:
    """The assignments at the top level of a Python file.

    Attributes:
        texts: name -> the statements that assign to it.
        names: name -> the names in these statements with the attributes that are read: `a.b.c` is
            (a, b, c).
    """

    def __init__(self, file: str) -> None:
        self.texts: dict[str, str] = {}
        self.names: dict[str, list[tuple[str, ...]]] = {}
        self._computed: set[str] = set()
        try:
            text = "".join(linecache.getlines(file))
            tree = ast.parse(text)
        except (SyntaxError, ValueError, OSError):
            return
        for statement in tree.body:
            targets = (
                statement.targets
                if isinstance(statement, ast.Assign)
                else [getattr(statement, "target", None)]
            )
            for target in targets:
                if isinstance(target, ast.Name):
                    self._note(target.id, statement, ast.get_source_segment(text, statement) or "")
        counted = (node.names for node in ast.walk(tree) if isinstance(node, ast.Global))
        # The values of names that functions assign differ between runs.
        self._computed.difference_update(*counted)

    def is_computed(self, name: str) -> bool:
        """Returns whether a call computes the value of `name`, for example by reading a file."""
        return name in self._computed

    def _note(self, name: str, statement: ast.stmt, text: str) -> None:
        nodes = list(ast.walk(statement))
        self.texts[name] = self.texts.get(name, "") + text
        self.names.setdefault(name, []).extend(filter(None, map(_dotted, nodes)))
        if any(isinstance(node, ast.Call) for node in nodes):
            self._computed.add(name)


def _dotted(node: ast.AST) -> tuple[str, ...]:
    """Returns the names of `a.b.c`; () for other expressions."""
    if isinstance(node, ast.Name):
        return (node.id,)
    if not isinstance(node, ast.Attribute):
        return ()
    before = _dotted(node.value)
    return (*before, node.attr) if before else ()


def _attributes(steps: Sequence[dis.Instruction]) -> list[str]:
    """Returns the chain of attributes that the first steps read."""
    found = []
    for step in steps:
        if step.opname not in ("LOAD_ATTR", "LOAD_METHOD"):
            break
        found.append(step.argval)
    return found


@functools.lru_cache(maxsize=256)
def _module(file: str) -> _Module:
    return _Module(file)


def _plain(value: Any) -> str:
    """Returns a value as text that is the same in every process. Values that may change are
    represented only by their type.
    """
    if isinstance(value, tuple):
        return f"({', '.join(map(_plain, value))})"
    if isinstance(value, frozenset):
        return f"frozenset({sorted(map(repr, value))})"[:MOST]
    return repr(value)[:MOST] if isinstance(value, FIXED) else type(value).__qualname__


def _text(value: Any) -> str:
    try:
        return inspect.getsource(value)
    except (OSError, TypeError):  # it has no source file
        codes = [value] if isinstance(value, types.CodeType) else list(_codes(value))
        return repr(
            [
                (code.co_code, [_plain(item) for item in code.co_consts], code.co_names)
                for code in codes
            ]
        )


def _codes(value: Any) -> Iterator[types.CodeType]:
    """Yields the code of a function or of a class's methods, and of nested functions."""
    waiting: list[Any] = [value.__code__] if isinstance(value, types.FunctionType) else []
    if isinstance(value, type):
        waiting = [function.__code__ for function in _methods(value)]
    while waiting:
        code = waiting.pop()
        yield code
        waiting += [constant for constant in code.co_consts if isinstance(constant, types.CodeType)]


def _methods(value: type) -> list[types.FunctionType]:
    members = [
        getattr(member, "__func__", getattr(member, "fget", member))
        for member in vars(value).values()
    ]
    return [member for member in members if isinstance(member, types.FunctionType)]


def _globals(value: Any) -> dict[str, Any]:
    if isinstance(value, types.FunctionType):
        return value.__globals__
    methods = _methods(value) if isinstance(value, type) else []
    return methods[0].__globals__ if methods else {}


def _innermost(function: Any) -> Any:
    while isinstance(function, functools.partial):
        function = function.func
    return inspect.unwrap(function) if callable(function) else function


def _is_filled(cell: types.CellType) -> bool:
    try:
        return cell.cell_contents is not cell
    except ValueError:
        return False


def _module_name(value: Any) -> str:
    """Returns the module that defines a value. A wrapper's `__module__` would be the wrapped
    function's.
    """
    if isinstance(value, types.ModuleType):
        return value.__name__
    return str(
        value.__globals__.get("__name__")
        if isinstance(value, types.FunctionType)
        else value.__module__
    )


def _file(value: Any) -> str:
    try:
        return inspect.getfile(value)
    except (TypeError, OSError):
        return ""


def _folder(value: Any) -> str:
    file = _file(value)
    return str(Path(file).parent) if file else ""
