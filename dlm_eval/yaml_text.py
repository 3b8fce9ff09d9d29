"""Checks a user's YAML for duplicate keys, and for nesting too deep for a recursive parser."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

import yaml

from dlm_eval.errors import UserError

DEEPEST = 100  # maximum depth of nested lists and mappings


def read_yaml_text(path: str | Path, what: str) -> str:
    """Returns the text of a YAML file that is safe to parse.

    Args:
        path: path of the file.
        what: name of the file in an error.

    Raises:
        UserError: the file cannot be read, is not UTF-8, is broken, is nested too deeply, or has a
            duplicate key.
    """
    try:
        text = Path(path).read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise UserError(
            f"{what} is not UTF-8 text (byte {error.start} is {error.object[error.start]:#04x})"
        ) from None
    except (OSError, ValueError) as error:  # a path may be too long, or hold a NUL
        raise UserError(
            f"{what} cannot be read: {getattr(error, 'strerror', None) or error}"
        ) from error
    _check(text, what)
    return text


@lru_cache(maxsize=4096)
def _check(text: str, what: str) -> None:
    try:
        _check_depth(text, what)
        _check_keys(yaml.compose(text, Loader=yaml.SafeLoader), what, set())
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = f", line {mark.line + 1}" if mark else ""
        raise UserError(f"{what}{line}: broken YAML: {error.problem or error.context}") from error
    except yaml.YAMLError as error:
        raise UserError(f"{what}: broken YAML: {' '.join(str(error).split())}") from error


def _check_depth(text: str, what: str) -> None:
    depth = 0
    for event in yaml.parse(text, Loader=yaml.SafeLoader):  # does not recurse
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(
            event, yaml.CollectionEndEvent
        )
        if depth > DEEPEST:
            line = f", line {event.start_mark.line + 1}" if event.start_mark else ""
            raise UserError(
                f"{what}{line}: more than {DEEPEST} lists and mappings inside each other"
            )


def _check_keys(node: yaml.Node | None, what: str, seen: set[int]) -> None:
    if node is None or id(node) in seen:  # an alias refers to a known node
        return
    seen.add(id(node))
    if isinstance(node, yaml.SequenceNode):
        for item in node.value:
            _check_keys(item, what, seen)
    if isinstance(node, yaml.MappingNode):
        lines: dict[str, int] = {}
        for key, value in node.value:
            if isinstance(key, yaml.ScalarNode) and key.tag != "tag:yaml.org,2002:merge":
                line = key.start_mark.line + 1
                if key.value in lines:
                    raise UserError(
                        f"{what}, line {line}: key '{key.value}' is there twice (before in line "
                        f"{lines[key.value]})"
                    )
                lines[key.value] = line
            _check_keys(value, what, seen)
