"""Tests in a separate process, which requests values from the program's process.

The tests are never in the process that runs the program's text. That process receives one call at a
time: a function and its arguments. Even a text that has manipulated its own process or the
interpreter must therefore return the right values. Plain data is returned as a copy. Any other
value stays in the program's process, and operations of the tests on it run there (values.py).
"""

from __future__ import annotations

import builtins
import contextlib
import operator
import re
import sys
from collections.abc import Callable, Iterable
from functools import partial
from pickle import PicklingError
from types import CodeType, ModuleType
from typing import Any, NoReturn

from . import values
from .boundary import used_names
from .values import CHANGING, OPERATORS, SAID, Kept, NoValue, Received, is_array

READY = b"ready"
# Tests that use one of these may need the program in their own process, for its output, files or
# names.
TOGETHER = frozenset(
    {
        "__annotations__", "__bases__", "__builtins__", "__class__", "__closure__", "__code__", "__defaults__", "__dict__",
        "__doc__", "__globals__", "__import__", "__main__", "__module__", "__mro__", "__slots__", "__wrapped__",
        "asyncio", "builtins", "contextlib", "ctypes", "delattr", "eval", "exec", "gc", "globals", "importlib", "input",
        "inspect", "io", "locals", "logging", "mock", "open", "os", "pathlib", "patch", "pytest", "seed", "setattr",
        "setstate", "shutil", "signal", "stdout", "subprocess", "sys", "tempfile", "threading", "traceback", "types",
        "unittest", "vars", "warnings", "weakref",
    }
)  # fmt: skip
INTO = ("getattr", "getitem")  # operations that read a part of an object
IMPORTS = re.compile(r"^(?:import|from)[ \t].*", re.M)


class Untold(BaseException):
    """These tests can only run in the program's process."""


class Asked:
    """The program's process, seen from the tests.

    Args:
        questions: Pipe to it.
        answers: Pipe from it.
    """

    def __init__(self, questions: int, answers: int) -> None:
        self._questions, self._answers = questions, answers
        self._references: dict[int, _Reference] = {}
        self._values = Received(
            self._refer, lambda value: _NUMBER(value) if isinstance(value, _Reference) else None
        )
        self.untold = False

    def await_ready(self) -> None:
        """Waits until the text has ended.

        Raises:
            NoValue: The process ended before.
        """
        if values.receive(self._answers) != READY:
            raise NoValue("the program is not ready")

    def namespace_for(self, tests: str, code: CodeType) -> dict[str, Any]:
        """Returns the namespace in which to run tests.

        Functions of the tests use the real builtins, even if the program redefines their names.

        Args:
            tests: Their text.
            code: The compiled text.

        Raises:
            Untold: The tests need the program in their own process.
        """
        used = set(used_names(code))
        if used & TOGETHER:
            raise Untold
        wanted = {name for name in used if not hasattr(builtins, name)}.union(code.co_names)
        wanted = {name for name in wanted if not name.startswith("__")}
        found, modules = self.ask("define", sorted(wanted), IMPORTS.findall(tests))
        namespace = {name: value for name, value in found.items() if name in wanted}
        return namespace | {
            name: _module(module) for name, module in modules.items() if name in wanted
        }

    def ask(self, act: str, /, *arguments: Any, **named: Any) -> Any:
        """Returns or raises the result of ``act`` in the program's process.

        Changes that it makes to its arguments are applied here too.
        """
        changes = [
            value
            for value in (*arguments, *named.values())
            if type(value) in CHANGING or is_array(value)
        ]
        try:
            question = self._values.dump((act, arguments, named, changes))
        except (PicklingError, TypeError, AttributeError):  # a function of the tests, or the like
            self.give_up()
        values.send(self._questions, question)
        good, value, changed = self._values.load(values.receive(self._answers))
        for old, new in zip(changes, changed, strict=True):
            value = old if value is new else value
            _update(old, new, set())
        if not good:
            raise _error(*value)
        return value

    def give_up(self) -> NoReturn:
        """Ends the tests, because they need the program in their own process."""
        self.untold = True
        raise Untold from None

    def _refer(self, number: int, callable_: bool, base: type) -> _Reference:
        if number not in self._references:
            self._references[number] = (_Callable if callable_ else _Reference)(
                self, int(number), base
            )
        return self._references[number]


class _Reference:
    """A reference to a value that stays in the program's process.

    `isinstance` sees the builtin base of the value's class: a list, a tuple, an exception.
    """

    __slots__ = ("_asked", "_base", "_number")

    def __init__(self, asked: Asked, number: int, base: type) -> None:
        object.__setattr__(self, "_asked", asked)
        object.__setattr__(self, "_number", number)
        object.__setattr__(self, "_base", base if isinstance(base, type) else type(self))

    @property  # type: ignore[misc]  # in every class it can be set
    def __class__(self) -> Any:
        return _BASE(self)

    def __exit__(self, kind: Any, value: Any, _: Any) -> Any:
        return _ASKED(self).ask("exit", self, kind, value)  # a traceback cannot be sent

    def __mro_entries__(self, _: Any) -> Any:
        _ASKED(self).give_up()  # a class of the tests that inherits from it


# Read the slots directly: attribute access on a reference is sent to the program.
_ASKED, _NUMBER, _BASE = (vars(_Reference)[slot].__get__ for slot in ("_asked", "_number", "_base"))


def _operation(name: str) -> Any:
    def operation(self: _Reference, /, *arguments: Any) -> Any:
        return _ASKED(self).ask(name, self, *arguments)

    return operation


for _name in OPERATORS:
    if f"__{_name}__" not in vars(_Reference):
        setattr(_Reference, f"__{_name}__", _operation(_name))


class _Callable(_Reference):
    __slots__ = ()

    def __call__(self, /, *arguments: Any, **named: Any) -> Any:
        return _ASKED(self).ask("call", self, *arguments, **named)


def _module(name: str) -> ModuleType:
    found = sys.modules.get(name)
    if type(found) is not ModuleType or name.split(".")[0] not in {
        *sys.stdlib_module_names,
        "numpy",
    }:
        raise NoValue(f"no module {name}")
    return found


def _error(kind: Any, arguments: Any, attributes: Any, text: Any) -> BaseException:
    if not (isinstance(kind, type) and issubclass(kind, BaseException)):
        raise NoValue("no exception")
    try:
        error = kind(*arguments)
    except Exception:  # its class takes something else
        error = kind.__new__(kind, *arguments)
    vars(error).update(attributes)
    vars(error)[SAID] = text
    return error


def _update(old: Any, new: Any, done: set[int]) -> Any:
    """Copies the changes of ``new`` into ``old``, in place if both have the same type.

    Returns ``old``, or ``new`` if the types differ.

    Args:
        done: Values that are updated already, by id, since a list may contain itself.
    """
    if is_array(old) and is_array(new) and (old.shape, old.dtype) == (new.shape, new.dtype):
        old[...] = new
        return old
    if type(old) is not type(new) or type(old) not in CHANGING:
        return new
    if id(old) in done:
        return old
    done.add(id(old))
    if isinstance(old, tuple):
        parts = tuple(_update(a, b, done) for a, b in zip(old, new, strict=False))
        return old if len(old) == len(new) and all(map(operator.is_, parts, old)) else new
    if isinstance(old, list):
        old[:] = [_update(a, b, done) for a, b in zip(old, new, strict=False)] + new[len(old) :]
    elif isinstance(old, dict):
        items = {
            key: _update(old[key], value, done) if key in old else value
            for key, value in new.items()
        }
        old.clear()
        old.update(items)
    else:
        old.clear()
        (old.update if isinstance(old, set) else old.extend)(new)
    return old


# -- the program's side ----------------------------------------------------------------------------


def serve(questions: int, answers: int, namespace: dict[str, Any]) -> NoReturn:
    """Answers requests until the pipe closes; then raises `NoValue`."""
    kept = Kept()
    acts: dict[str, Callable[..., Any]] = {
        **OPERATORS,
        "call": _call,
        "define": partial(_define, namespace),
    }
    values.send(answers, READY)
    while True:
        act, arguments, named, changes = kept.load(values.receive(questions))
        try:
            value = acts[act](*arguments, **named)
            # The tests may change a list inside an object of the program.
            answer = kept.dump((True, kept.held(value) if act in INTO else value, changes))
        except BaseException as error:
            answer = _failure(kept, error, changes)
        values.send(answers, answer)


def _failure(kept: Kept, error: BaseException, changes: list[Any]) -> bytes:
    try:
        return kept.dump((False, (type(error), error.args, vars(error), _text(error)), changes))
    except Exception:
        return kept.dump((False, (RuntimeError, (), {}, ""), changes))


def _text(error: BaseException) -> str:
    try:
        return str(error)
    except Exception:
        return ""


def _call(function: Any, /, *arguments: Any, **named: Any) -> Any:
    return function(*arguments, **named)


def _define(
    namespace: dict[str, Any], names: Iterable[str], imports: Iterable[str]
) -> tuple[dict[str, Any], dict[str, str]]:
    """Runs the tests' imports in the program's namespace, as if both shared a process.

    Returns:
        The values that the program has defined, without modules, and the modules' full names; both
        by name and only for ``names``.
    """
    found = {name: namespace[name] for name in names if name in namespace}
    modules = {name: value.__name__ for name, value in found.items() if type(value) is ModuleType}
    for line in imports:
        with contextlib.suppress(Exception):
            exec(line, namespace)
    return {name: value for name, value in found.items() if name not in modules}, modules
