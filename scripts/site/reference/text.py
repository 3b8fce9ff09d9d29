"""Markdown of the generated pages: tables, and texts that stand in a cell."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any


def prose(text: Any) -> str:
    """Returns plain text as Markdown: what is outside of backticks has no markup."""
    parts = re.split(r"(``?[^`]+``?)", str(text))
    escaped = [
        part.replace("``", "`") if part[:1] == "`" else re.sub(r"([\\*_<>\[\]])", r"\\\1", part)
        for part in parts
    ]
    return "".join(escaped)


def cell(text: Any) -> str:
    """Returns plain text for a cell of a table."""
    return " ".join(prose(text).split()).replace("|", "\\|")


def code(value: Any) -> str:
    """Returns a value as inline code, or nothing for none."""
    text = " ".join(str(value).split()).replace("|", "\\|")
    return f"`{text}`" if text else ""


def table(headers: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Returns a table of cells that are Markdown; columns that are empty in all rows are left out."""
    listed = [list(row) for row in rows]
    used = [i for i in range(len(headers)) if i == 0 or any(row[i] for row in listed)]
    lines = [[headers[i] for i in used], ["---"] * len(used)]
    lines += [[row[i] for i in used] for row in listed]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


def options_table(described: Mapping[str, Mapping[str, Any]]) -> str:
    """Returns the table of `describe_options`."""
    return table(
        ("setting", "default", "allowed", "meaning"),
        [
            [code(n), code(plain(o.get("default"))), cell(o.get("allowed", "")), cell(o.get("meaning", ""))]
            for n, o in described.items()
        ],
    )  # fmt: skip


def plain(value: Any) -> str:
    if value is None or value == ():
        return "none"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple | list):
        return "[" + ",".join(map(plain, value)) + "]"
    return str(value)


def docstring(text: str) -> str:
    """Returns a docstring as Markdown: its paragraphs and its lists, without sections such as Attributes."""
    body = re.split(r"^(?:Attributes|Args|Raises|Returns):$", inspect.cleandoc(text), flags=re.M)[0]
    body = re.sub(r"(?<=\S)\n(?=[*-] )", "\n\n", body.strip())
    return prose(body).replace("\n\\* ", "\n* ")
