"""A parsed result file: its parts by name, and the tasks of its groups."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dlm_eval.reports.files.json_values import listed, nested

MOST_MEMBERS = 100_000  # tasks of all groups


class Content:
    """A parsed result file.

    Attributes:
        whole: the JSON object.
        tasks: name in the results -> its tasks: a group's, those of nested groups too, or itself.
    """

    def __init__(self, whole: Mapping[str, Any]) -> None:
        """Raises ValueError if it is not a result file, with the reason."""
        if not isinstance(whole, dict) or not isinstance(whole.get("results"), dict):
            raise ValueError("not an lm-eval result file (no 'results' object)")
        self.whole: dict[str, Any] = whole
        self.tasks = _tasks_of_groups(whole)

    def part(self, *keys: str) -> dict[str, Any]:
        """Returns a nested object, or an empty one if the file has something else."""
        return nested(self.whole, *keys)

    @property
    def of_dlm_eval(self) -> bool:
        """Whether dlm_eval wrote the file."""
        return "dlm_eval" in self.whole

    def is_group(self, name: str) -> bool:
        """Returns whether a name of the results is a group."""
        return bool(self.part("group_subtasks").get(name))


def _tasks_of_groups(whole: Mapping[str, Any]) -> dict[str, list[str]]:
    below = nested(whole, "group_subtasks")
    found: dict[str, list[str]] = {}
    room = MOST_MEMBERS
    for group in whole["results"]:
        found[group], seen = _tasks_below(group, below, room)
        room -= seen
    return found


def _tasks_below(group: str, below: Mapping[str, Any], room: int) -> tuple[list[str], int]:
    """Returns the tasks of a group in the order of the file, and how many members were visited.

    Raises:
        ValueError: there are more than `room`.
    """
    tasks, waiting, seen, members = [], [group], set(), 0
    while waiting:
        name = waiting.pop()
        if name in seen:
            continue
        seen.add(name)
        children = listed(below.get(name))
        members += len(children)
        if members > room:
            raise ValueError(f"its groups have more than {MOST_MEMBERS} tasks")
        waiting.extend(str(child) for child in reversed(children))
        if not children:
            tasks.append(name)
    return tasks or [group], members
