"""A user's YAML, checked for duplicate keys and for what would exhaust a parser: deep nesting, and
aliases that stand for very many values.
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Any

import yaml

from dlm_eval.errors import UserError

MOST_BYTES = 1 << 20  # of a file, which takes half a minute to read
DEEPEST = 100  # maximum depth of nested lists and mappings
MOST_VALUES = 1_000_000  # if all aliases are written out


def read_yaml(path: str | Path, what: str) -> Any:
    """Returns the data of a YAML file without tags of its own; see `read_yaml_text`."""
    return parse_yaml(read_yaml_text(path, what), what)


def parse_yaml(text: str, what: str) -> Any:
    """Returns the data of text from `read_yaml_text`.

    Raises:
        UserError: an unknown tag, an impossible date, a number with too many digits, or a list as
            key.
    """
    try:
        return yaml.safe_load(text)
    except (yaml.YAMLError, ValueError) as error:
        raise UserError(f"{what} is not valid YAML: {' '.join(str(error).split())}") from error


def read_yaml_text(path: str | Path, what: str) -> str:
    """Returns the text of a YAML file that is safe to parse.

    Args:
        path: path of the file.
        what: name of the file in an error.

    Raises:
        UserError: the file cannot be read, is too large, is not UTF-8, is broken, is nested too
            deeply, has aliases that stand for too many values, or has a duplicate key.
    """
    try:
        with Path(path).open("rb") as file:
            content = file.read(MOST_BYTES + 1)
        if len(content) > MOST_BYTES:
            raise UserError(f"{what} has more than {MOST_BYTES >> 20} MiB")
        text = content.decode()
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
        node = yaml.compose(text, Loader=yaml.SafeLoader)
        _check_keys(node, what, set())
        _check_extent(node, what, {})
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


def _check_extent(
    node: yaml.Node | None, what: str, known: dict[int, tuple[int, int]]
) -> tuple[int, int]:
    """Returns the number of values and the depth of a node with all aliases written out.

    An alias is behind its anchor, so the recursion is as deep as the text (`_check_depth`).

    Args:
        known: id of a node -> its number and depth; (0, 0) while it is being counted.
    """
    if node is None or isinstance(node, yaml.ScalarNode):
        return 1, 0
    if id(node) not in known:
        known[id(node)] = 0, 0
        pairs = isinstance(node, yaml.MappingNode)
        parts = [part for pair in node.value for part in pair] if pairs else node.value
        found = [_check_extent(part, what, known) for part in parts]
        count = 1 + sum(part[0] for part in found)
        known[id(node)] = count, 1 + max((part[1] for part in found), default=0)
        if count > MOST_VALUES or known[id(node)][1] > DEEPEST:
            raise UserError(
                f"{what}, line {node.start_mark.line + 1}: with its aliases written out, it has more "
                f"than {MOST_VALUES} values, or more than {DEEPEST} lists and mappings inside each "
                "other"
            )
    elif known[id(node)] == (0, 0):
        raise UserError(f"{what}, line {node.start_mark.line + 1}: it contains itself")
    return known[id(node)]
