"""The candidate that must fail: the program's own functions run as ever, but what they return is not what they said.

Tests that pass all the same were replaced, skipped or disarmed by the program, unless they ask for no value at all.
"""

from __future__ import annotations

import builtins
from collections.abc import Iterator
from types import CodeType, ModuleType
from typing import Any

WRONG = "wrong answer"  # says a control in which a value of the program was looked at
MARK = " of the control"  # no name of a program has a space in it
OPERATIONS = (
    "eq", "ne", "lt", "le", "gt", "ge", "bool", "hash", "len", "iter", "next", "contains", "getitem", "int", "float",
    "index", "complex", "str", "repr", "format", "abs", "neg", "pos", "invert", "round", "trunc", "floor", "ceil",
    "add", "radd", "sub", "rsub", "mul", "rmul", "truediv", "rtruediv", "floordiv", "rfloordiv", "mod", "rmod",
    "divmod", "rdivmod", "pow", "rpow", "matmul", "rmatmul", "and", "rand", "or", "ror", "xor", "rxor", "lshift",
    "rlshift", "rshift", "rrshift", "enter", "exit", "reversed", "call", "getattr",
)  # fmt: skip


def _raise(*_: Any, **__: Any) -> Any:
    raise AssertionError(WRONG)


Wrong = type("Wrong", (), {f"__{operation}__": _raise for operation in OPERATIONS})


class Answers:
    """Stands for a value of the program: it can be called, and what comes of it is wrong."""

    def __init__(self, value: Any) -> None:
        self._value = value

    def __call__(self, *arguments: Any, **named: Any) -> Any:
        self._value(*arguments, **named)
        return Wrong()

    def __getattr__(self, name: str) -> Any:
        return Answers(getattr(self._value, name))

    def __getitem__(self, key: Any) -> Any:
        return Answers(self._value[key])

    __bool__ = __eq__ = __ne__ = __lt__ = __le__ = __gt__ = __ge__ = __iter__ = __len__ = __contains__ = _raise
    __hash__ = object.__hash__


def spoil(tests: CodeType, namespace: dict[str, Any], defined: dict[str, Any]) -> CodeType:
    """Returns ``tests`` with the names that the program ``defined`` replaced by those of `Answers` in ``namespace``.

    The program's functions see what they always see. A name that is defined nowhere stands for a function that
    does nothing: without any program, only tests that ask for no value pass.
    """
    for name in set(names(tests)):
        if name in defined:
            if not isinstance(defined[name], ModuleType):
                namespace[name + MARK] = Answers(defined[name])
        elif not hasattr(builtins, name):
            namespace[name] = Answers(lambda *_, **__: None)
    return _renamed(tests, namespace)


def names(code: CodeType) -> Iterator[str]:
    """Yields all names that code uses and that are not its own: global ones, attributes, modules."""
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from names(constant)


def _renamed(code: CodeType, namespace: dict[str, Any]) -> CodeType:
    renamed = tuple(name + MARK if name + MARK in namespace else name for name in code.co_names)
    constants = tuple(
        _renamed(constant, namespace) if isinstance(constant, CodeType) else constant for constant in code.co_consts
    )
    return code.replace(co_names=renamed, co_consts=constants)
