"""Settings from text: `key=value,key=value` into frozen dataclasses; an unknown key is an error."""

from __future__ import annotations

import dataclasses
import functools
import json
import math
import re
import types
import typing
from collections.abc import Mapping
from typing import Any, TypeVar

from dlm_eval.errors import UserError, unknown_name_error
from dlm_eval.redaction import learn

T = TypeVar("T")
LONGEST = 200  # maximum characters of a value in an error


def parse_pairs(text: str, setting: str) -> dict[str, str]:
    """Returns the pairs of "k=v,k=v". Commas inside brackets belong to the value.

    Raises:
        UserError: a part has no '=', or a key is given twice.
    """
    pairs: dict[str, str] = {}
    for part in split_commas(text):
        key, equals, value = part.partition("=")
        if not equals or not key.strip():
            raise UserError(f"{setting} '{part}' is not of the form key=value")
        if key.strip() in pairs:
            raise UserError(f"{setting} {key.strip()} is given twice; give it once")
        pairs[key.strip()] = value.strip()
    learn(pairs)
    return pairs


def split_commas(text: str, quotes_from: int = 1) -> list[str]:
    """Returns the parts of `text` between commas; commas inside brackets belong to a part.

    Args:
        text: what to split.
        quotes_from: depth of brackets from which on quotes enclose literal text.
    """
    parts, depth, at = [""], 0, 0
    while at < len(text):
        quoted = _quoted(text, at) if depth >= quotes_from and text[at] in "\"'" else ""
        piece = quoted or text[at]
        at += len(piece)
        if not quoted:
            depth += (piece in "[({") - (piece in "])}")
        if piece == "," and depth == 0:
            parts.append("")
        else:
            parts[-1] += piece
    return [part.strip() for part in parts if part.strip()]


def _quoted(text: str, begin: int) -> str:
    """Returns the quoted item at `begin`, quotes included; "" if there is none, or no end."""
    if text[:begin].rstrip()[-1:] not in ("", "[", "(", "{", ",", ":", "="):
        return ""  # an apostrophe
    match = re.compile(r"""(["'])(?:\\.|(?!\1).)*\1(?=\s*(?:[\])},:]|$))""", re.DOTALL).match(
        text, begin
    )
    return match[0] if match else ""


def typed_texts(value: Any) -> tuple[str, ...]:
    r"""Returns the texts of a typed value: one text, or a list in brackets with or without quotes.

    A shell passes backslashes on, so `\n`, `\t`, `\r`, `\\`, `\"`, `\'` and `\uXXXX` are escapes.
    Any other backslash (`\boxed`) stays. A value that is not a string (a list in Python or YAML) is
    used as it is.

    Raises:
        TypeError: the value is neither a text nor a sequence.
    """
    if isinstance(value, Mapping):
        raise TypeError("a mapping is no list of texts")
    if not isinstance(value, str):
        return tuple(str(item) for item in value)
    if not (value.startswith("[") and value.endswith("]")):
        return (_unescaped(value),)
    items = split_commas(value[1:-1], quotes_from=0)
    return tuple(
        _unescaped(item[1:-1] if len(item) > 1 and item[0] == item[-1] in "\"'" else item)
        for item in items
    )


ESCAPES = {"n": "\n", "t": "\t", "r": "\r", "\\": "\\", '"': '"', "'": "'"}


def _unescaped(text: str) -> str:
    return re.sub(
        r"""\\(?:([ntr\\"'])|u([0-9a-fA-F]{4}))""",
        lambda match: ESCAPES[match[1]] if match[1] else chr(int(match[2], 16)),
        text,
    )


def from_mapping(cls: type[T], values: Mapping[str, Any], setting: str) -> T:
    """Returns an instance of the dataclass `cls` with `values` cast to its field types.

    Raises:
        UserError: a key is unknown (the message has the nearest name), or a value cannot be cast.
    """
    hints = field_types(cls)  # type: ignore[arg-type]
    names = [field.name for field in dataclasses.fields(cls) if field.init]  # type: ignore[arg-type]
    cast: dict[str, Any] = {}
    for key, value in values.items():
        if key not in names:
            raise unknown_name_error(setting, key, names)
        cast[key] = cast_value(value, hints[key], f"{setting} {key}")
    return cls(**cast)


@functools.cache
def field_types(cls: type[Any]) -> dict[str, Any]:
    """Returns the evaluated annotations of a dataclass by name.

    Raises UserError if one cannot be evaluated, e.g. a name that is imported under TYPE_CHECKING.
    """
    try:
        return typing.get_type_hints(cls)
    except (NameError, TypeError, AttributeError) as error:
        raise UserError(f"class {cls.__name__}: an annotation cannot be read: {error}") from error


def alternatives(hint: Any) -> tuple[Any, ...]:
    """Returns the types of a union, or the one type."""
    return (
        typing.get_args(hint)
        if typing.get_origin(hint) in (typing.Union, types.UnionType)
        else (hint,)
    )


def literals(hint: Any) -> list[Any]:
    """Returns the values of all `Literal`s in an annotation."""
    kinds = [kind for kind in alternatives(hint) if typing.get_origin(kind) is typing.Literal]
    return [value for kind in kinds for value in typing.get_args(kind)]


def cast_value(value: Any, hint: Any, setting: str) -> Any:
    """Returns `value`, usually a text, cast to the type of the annotation `hint`.

    Raises:
        UserError: it cannot be cast.
    """
    options = alternatives(hint)
    if value is None or (
        isinstance(value, str) and value.lower() in ("none", "null") and value not in literals(hint)
    ):
        if type(None) in options:
            return None
        raise UserError(f"{setting} 'None' is not allowed; it must be {describe(options)}")
    for option in options:
        try:
            return _cast_one(value, option)
        except (TypeError, ValueError, OverflowError):
            continue
    raise UserError(f"{setting} '{shown(value)}' is not allowed; it must be {describe(options)}")


def shown(value: Any) -> str:
    """Returns a value as text for an error message."""
    try:
        text = str(value)
    except (RecursionError, ValueError):  # it contains itself, or has too many digits
        return type(value).__name__
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}…"


def _cast_one(value: Any, kind: Any) -> Any:
    if kind is type(None):
        raise ValueError
    if kind is bool:
        return _cast_bool(value)
    if kind is int:
        return _cast_int(value)
    if kind is float:
        if isinstance(value, bool):
            raise ValueError
        number = float(value)
        if not math.isfinite(number):
            raise ValueError
        return number
    if kind is str:
        return json.dumps(value) if isinstance(value, dict) else str(value)
    if typing.get_origin(kind) is typing.Literal:
        if value not in typing.get_args(kind):
            raise ValueError
        return value
    if typing.get_origin(kind) is tuple:
        item = typing.get_args(kind)[0]
        if item is str:
            return typed_texts(value)
        if isinstance(value, Mapping):
            raise TypeError("a mapping is no list")
        items = split_commas(_inside(value)) if isinstance(value, str) else list(value)
        return tuple(_cast_one(v, item) for v in items)
    raise TypeError(f"settings cannot hold {kind}")


def _inside(text: str) -> str:
    """Returns a typed list without its brackets, if it has any."""
    return text[1:-1] if text[:1] + text[-1:] in ("[]", "()") else text


def _cast_int(value: Any) -> int:
    if isinstance(value, bool):
        raise ValueError
    try:
        return int(str(value))  # every digit; a float has sixteen
    except ValueError:
        number = float(value)  # 1e3, 8.0
    if number != int(number):
        raise ValueError
    return int(number)


def _cast_bool(value: Any) -> bool:
    word = str(value).lower()
    if word in ("true", "1", "yes"):
        return True
    if word in ("false", "0", "no"):
        return False
    raise ValueError


def describe(options: tuple[Any, ...]) -> str:
    """Returns a description of these types for an error message."""
    words = {
        int: "a whole number",
        float: "a finite number",
        bool: "true or false",
        str: "text",
        type(None): "None",
    }
    described = []
    for option in options:
        if typing.get_origin(option) is typing.Literal:
            described.append("one of " + ", ".join(map(str, typing.get_args(option))))
        elif typing.get_origin(option) is tuple:
            item = typing.get_args(option)[0]
            described.append(f"a list, each {words.get(item, str(item))}")
        else:
            described.append(words.get(option, str(option)))
    return " or ".join(described)


def attribute_docs(text: str) -> dict[str, str]:
    """Returns the entries under "Attributes:" of a docstring by name."""
    _, _, listed = text.partition("Attributes:\n")
    entries = re.findall(r"^    (\w+): (.+(?:\n      .+)*)", listed, re.MULTILINE)
    return {name: " ".join(said.split()) for name, said in entries}
