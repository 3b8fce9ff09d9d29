"""A mapping in a task's ``metadata`` that sets up one of our task classes."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from dlm_eval.errors import UserError, unknown_name_error


def settings_in(
    task: str,
    metadata: Mapping[str, Any] | None,
    name: str,
    needed_by: str,
    keys: Collection[str],
    allowed: Mapping[str, Collection[str]],
) -> dict[str, Any]:
    """Returns ``metadata[name]`` of a task.

    Args:
        needed_by: the task class, for the message.
        keys: that it may have.
        allowed: key -> values that it may have, where they are listed.

    Raises:
        UserError: it is missing, or has an unknown key or value.
    """
    values = (metadata or {}).get(name)
    if not isinstance(values, Mapping):
        raise UserError(f"task '{task}': a {needed_by} needs metadata.{name}, a mapping")
    for key, value in values.items():
        if key not in keys:
            raise unknown_name_error(f"task '{task}': metadata.{name} key", key, keys)
        if key in allowed and value not in allowed[key]:
            raise unknown_name_error(
                f"task '{task}': metadata.{name} {key}", str(value), allowed[key]
            )
    return dict(values)
