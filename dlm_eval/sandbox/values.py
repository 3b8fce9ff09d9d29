"""Exchange of values between a program and tests in a separate process (apart.py).

Plain data is sent as a copy. Any other value stays in its process, and a reference is sent. The
program's process cannot run code in the tests' process: its pickles can look up only the names in
`NAMED`.
"""

from __future__ import annotations

import builtins
import collections
import datetime
import decimal
import fractions
import io
import math
import operator
import os
import pickle
import sys
from collections.abc import Callable
from copy import copy, deepcopy
from dataclasses import dataclass
from typing import Any

LENGTH_BYTES, PIECE_BYTES, PROTOCOL = 8, 1 << 20, 4
# Types that pickle copies. Subclasses are excluded, since they may behave differently.
PLAIN = frozenset(
    {
        type(None), bool, int, float, complex, str, bytes, bytearray, list, tuple, set, frozenset, dict, range, slice,
        type(...), type(NotImplemented),
    }
)  # fmt: skip
MUTABLE = (
    list,
    dict,
    set,
    bytearray,
    collections.deque,
    collections.Counter,
    collections.OrderedDict,
    collections.defaultdict,
)
CHANGING = frozenset({*MUTABLE, tuple})  # these values, or their elements, may be changed in place
# Names that a program's pickle may look up in the tests' process, all in `builtins`.
NAMED = {kind.__name__ for kind in PLAIN} & vars(builtins).keys() | {"Ellipsis", "NotImplemented"}
NAMED |= {
    name
    for name, kind in vars(builtins).items()
    if isinstance(kind, type) and issubclass(kind, BaseException)
}
# Types that are copied by parts: type -> (function that returns the parts, function that builds a
# copy from them).
COPIED: dict[type, tuple[Callable[[Any], tuple[Any, ...]], Callable[..., Any]]] = {
    collections.Counter: (lambda value: (dict(value),), collections.Counter),
    collections.OrderedDict: (lambda value: (list(value.items()),), collections.OrderedDict),
    collections.defaultdict: (
        lambda value: (value.default_factory, dict(value)),
        collections.defaultdict,
    ),
    collections.deque: (lambda value: (list(value), value.maxlen), collections.deque),
    decimal.Decimal: (lambda value: (str(value),), decimal.Decimal),
    fractions.Fraction: (lambda value: (value.numerator, value.denominator), fractions.Fraction),
    datetime.date: (lambda value: (value.isoformat(),), datetime.date.fromisoformat),
    datetime.time: (lambda value: (value.isoformat(),), datetime.time.fromisoformat),
    datetime.datetime: (lambda value: (value.isoformat(),), datetime.datetime.fromisoformat),
    datetime.timedelta: (
        lambda value: (value.days, value.seconds, value.microseconds),
        datetime.timedelta,
    ),
}
_MAKERS = {kind.__name__: make for kind, (_, make) in COPIED.items()}
# Operations of the tests on a value of the program's process. They run in that process.
UNARY: dict[str, Callable[[Any], Any]] = {
    "bool": bool, "len": len, "iter": iter, "next": next, "int": int, "float": float, "complex": complex, "str": str,
    "repr": repr, "hash": hash, "abs": abs, "round": round, "reversed": reversed, "dir": dir, "copy": copy,
    "floor": math.floor, "ceil": math.ceil, "trunc": math.trunc, "enter": lambda value: type(value).__enter__(value),
    "index": operator.index, "neg": operator.neg, "pos": operator.pos, "invert": operator.invert,
}  # fmt: skip
COMPARING = ("eq", "ne", "lt", "le", "gt", "ge", "contains", "getitem", "setitem", "delitem")
ARITHMETIC = ("add", "sub", "mul", "truediv", "floordiv", "mod", "pow", "matmul", "and", "or", "xor", "lshift", "rshift")  # fmt: skip
OPERATORS: dict[str, Callable[..., Any]] = {
    **UNARY,
    **{name: getattr(operator, name) for name in COMPARING},
    **{name: getattr(operator, f"__{name}__") for name in ARITHMETIC},
    **{f"i{name}": getattr(operator, f"__i{name}__") for name in ARITHMETIC},
    "delattr": delattr, "exit": lambda value, kind, error: type(value).__exit__(value, kind, error, None),
    "divmod": divmod, "format": format, "getattr": getattr, "setattr": setattr, "deepcopy": lambda value, _: deepcopy(value),
    "instancecheck": lambda kind, value: isinstance(value, kind), "subclasscheck": lambda kind, value: issubclass(value, kind),
}  # fmt: skip


def _reflected(act: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
    return lambda value, other: act(other, value)


OPERATORS |= {f"r{name}": _reflected(OPERATORS[name]) for name in (*ARITHMETIC, "divmod")}


SAID = "what it says"  # attribute of the errors that the tests receive: the error's text


class NoValue(BaseException):
    """The program ended or sent no value. Not an `Exception`, which tests may catch."""


def send(end: int, data: bytes) -> None:
    """Writes one message to a pipe."""
    left = memoryview(len(data).to_bytes(LENGTH_BYTES, "little") + data)
    while left:
        left = left[os.write(end, left) :]


def receive(end: int) -> bytes:
    """Reads one message from a pipe.

    Raises:
        NoValue: The other side has ended.
    """
    return _exactly(end, int.from_bytes(_exactly(end, LENGTH_BYTES), "little"))


def _exactly(end: int, count: int) -> bytes:
    pieces = []
    while count:
        pieces.append(os.read(end, min(count, PIECE_BYTES)))
        if not pieces[-1]:
            raise NoValue("the program ended")
        count -= len(pieces[-1])
    return b"".join(pieces)


class _Pickler(pickle.Pickler):
    def __init__(self, file: io.BytesIO, reference: Callable[[Any], Any]) -> None:
        super().__init__(file, PROTOCOL)
        self._reference = reference

    def persistent_id(self, value: Any) -> Any:
        return self._reference(value)


def _dump(value: Any, reference: Callable[[Any], Any], kind: type[_Pickler] = _Pickler) -> bytes:
    file = io.BytesIO()
    kind(file, reference).dump(value)
    return file.getvalue()


class _Own(_Pickler):
    """The tests' pickler. Attributes that the program added to a copy do not affect pickling."""

    def reducer_override(self, value: Any) -> Any:
        kind = type(value)
        if issubclass(kind, BaseException):
            return kind, value.args
        if kind in (collections.Counter, collections.OrderedDict):  # they may have attributes
            return kind, (dict(kind.items(value)),)
        return NotImplemented


class _Unpickler(pickle.Unpickler):
    def __init__(self, file: io.BytesIO, referred: Callable[[Any], Any]) -> None:
        super().__init__(file)
        self._referred = referred

    def persistent_load(self, reference: Any) -> Any:
        return self._referred(reference)


class _Careful(_Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if module == "builtins" and name in NAMED:
            return getattr(builtins, name)
        raise NoValue(f"{module}.{name} is no value")


@dataclass(frozen=True)
class _Held:
    value: Any


class Kept:
    """The program's side: numbered values that stay in its process."""

    def __init__(self) -> None:
        self._objects: list[Any] = []
        self._numbers: dict[int, int] = {}  # by id, which is stable since the object is kept

    def dump(self, value: Any) -> bytes:
        return _dump(value, self._reference)

    def load(self, data: bytes) -> Any:
        return _Unpickler(io.BytesIO(data), self._objects.__getitem__).load()

    def _reference(self, value: Any) -> tuple[Any, ...] | None:
        kind = type(value)
        if kind in PLAIN:
            return None
        if kind in COPIED:
            return (kind.__name__, *COPIED[kind][0](value))
        if isinstance(value, type):
            if _is_named(value):
                return None
            if issubclass(value, BaseException):
                bases = tuple(base for base in value.__bases__ if issubclass(base, BaseException))
                known = getattr(sys.modules.get(value.__module__), value.__name__, None) is value
                return (
                    "error",
                    self._number(value),
                    value.__name__,
                    bases,
                    value.__module__ if known else "",
                )
        return _numpy_parts(value) or self._object(value)

    def held(self, value: Any) -> Any:
        """Returns ``value``; a mutable one is sent as a reference, not as a copy."""
        return _Held(value) if type(value) in MUTABLE else value

    def _object(self, value: Any) -> tuple[Any, ...]:
        if type(value) is _Held:
            value = value.value
        base = next(filter(_is_named, type(value).__mro__), None)
        return "object", self._number(value), callable(value), base

    def _number(self, value: Any) -> int:
        number = self._numbers.setdefault(id(value), len(self._objects))
        if number == len(self._objects):
            self._objects.append(value)
        return number


class Received:
    """The tests' side: builds values from the program's messages.

    Args:
        refer: Makes a reference to a value of the program, from its number, whether it is callable,
            and its builtin base class.
        number_of: Returns the number of a reference; None for any other value.
    """

    def __init__(
        self, refer: Callable[[int, bool, type], Any], number_of: Callable[[Any], int | None]
    ) -> None:
        self._refer, self._number_of = refer, number_of
        self._errors: dict[int, type] = {}
        self._numbers: dict[type, int] = {}

    def dump(self, value: Any) -> bytes:
        return _dump(value, self._reference, _Own)

    def load(self, data: bytes) -> Any:
        """Returns the values of a message; a hostile message may cause any exception."""
        return _Careful(io.BytesIO(data), self._load).load()

    def _reference(self, value: Any) -> int | None:
        number = self._number_of(value)
        if number is None and isinstance(value, type):
            return self._numbers.get(value)
        return number

    def _load(self, parts: tuple[Any, ...]) -> Any:
        what, *rest = parts
        if what == "object":
            return self._refer(*rest)
        if what == "error":
            return self._error(*rest)
        if what == "array":
            kind, shape, data = rest
            return _array(kind, data).reshape(shape).copy()
        if what == "scalar":
            kind, data = rest
            return _array(kind, data, count=1)[0]
        return _MAKERS[what](*rest)

    def _error(self, number: int, name: str, bases: tuple[type, ...], module: str) -> type:
        known = _known_error(module, name)
        if known is not None:
            return known
        if number not in self._errors:
            if not (
                name.isidentifier()
                and bases
                and all(issubclass(base, BaseException) for base in bases)
            ):
                raise NoValue("no exception")
            self._errors[number] = type(name, bases, {"__str__": _say})
            self._numbers[self._errors[number]] = int(number)
        return self._errors[number]


def _known_error(module: str, name: str) -> type | None:
    """Returns an error class of the standard library if the tests have imported its module."""
    if module.split(".")[0] not in sys.stdlib_module_names or module not in sys.modules:
        return None
    found = vars(sys.modules[module]).get(name)
    return found if isinstance(found, type) and issubclass(found, BaseException) else None


def _say(error: BaseException) -> str:
    said = vars(error).get(SAID)
    return said if type(said) is str else BaseException.__str__(error)


def _is_named(kind: type) -> bool:
    # Not by its module: the classes of a program have "builtins" too, since its namespace has no
    # `__name__`.
    return kind.__name__ in NAMED and getattr(builtins, kind.__name__) is kind


def _array(kind: str, data: bytes, count: int = 0) -> Any:
    numpy = sys.modules["numpy"]
    empty = not data or not numpy.dtype(kind).itemsize  # numpy cannot read these
    return numpy.zeros(count, kind) if empty else numpy.frombuffer(data, kind)


def is_array(value: Any) -> bool:
    """Returns whether this is a numpy array, which may be changed in place."""
    numpy = sys.modules.get("numpy")
    return numpy is not None and type(value) is numpy.ndarray


def _numpy_parts(value: Any) -> tuple[Any, ...] | None:
    numpy = sys.modules.get("numpy")
    if numpy is None:
        return None
    if type(value) is numpy.ndarray and value.dtype.kind in "?biufcSU":
        return "array", value.dtype.str, value.shape, value.tobytes()
    if isinstance(value, numpy.generic) and value.dtype.kind in "?biufcSU":
        return "scalar", value.dtype.str, value.tobytes()
    return None
