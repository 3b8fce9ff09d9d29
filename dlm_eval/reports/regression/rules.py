"""What makes a check fail: levels and margins, and limits per task."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from dlm_eval.errors import UserError
from dlm_eval.options import check_options, option, parse_options
from dlm_eval.yaml_text import read_yaml


@dataclass(frozen=True, kw_only=True)
class TaskRules:
    """Rules for one task."""

    floor: float | None = option(
        None, help="the score must be at least this (at most, if lower is better)"
    )
    max_drop: float | None = option(None, least=0, help="the score may be worse by this at most")
    margin: float | None = option(
        None, above=0, help="margin of this task, as a share of its scale"
    )
    max_forwards: float | None = option(None, above=0, help="forwards per document at most")
    min_forwards_ratio: float | None = option(
        None, above=0, help="forwards at least, over the baseline's"
    )
    max_forwards_ratio: float | None = option(
        None, above=0, help="forwards at most, over the baseline's"
    )

    @property
    def limits_score(self) -> bool:
        """Whether a rule limits how bad the score may be."""
        return self.floor is not None or self.max_drop is not None


@dataclass(frozen=True, kw_only=True)
class Rules:
    """What makes a check fail."""

    alpha: float = option(0.01, above=0, below=0.5, help="level of the tests, over all tasks")
    margin: float = option(
        0.02, above=0, help="drop that must be excluded, as a share of the scale"
    )
    strict: bool = option(False, help="fail also if harm cannot be excluded or answers changed")
    tasks: Mapping[str, TaskRules] = field(default_factory=dict)

    def of(self, task: str) -> TaskRules:
        """Returns the rules of a task."""
        return self.tasks.get(task, TaskRules())

    def margin_of(self, task: str) -> float:
        """Returns the margin of a task, as a share of its scale."""
        return self.of(task).margin or self.margin


def read_rules(path: Path | None, given: Mapping[str, Any], given_as: str = "rules") -> Rules:
    """Returns the rules of a YAML file. `given` overrides it.

    Args:
        path: the file; None for the defaults.
        given: options of the command line or of a call, without None.
        given_as: what errors say before the name of such an option.

    Raises:
        UserError: an unknown key, or a value that is not allowed.
    """
    found: Any = {}
    if path is not None:
        found = read_yaml(path, f"rules '{path}'") or {}
        if not isinstance(found, dict):
            raise UserError(f"rules '{path}' must be a mapping with alpha, margin, strict or tasks")
    tasks = found.pop("tasks", None) or {}
    if not isinstance(tasks, dict) or not all(isinstance(each, dict) for each in tasks.values()):
        raise UserError(f"rules '{path}': tasks must map names of tasks to their rules")
    in_file = {str(key): value for key, value in found.items()}
    for values, what in ((in_file, "rules"), (given, given_as)):
        check_options(parse_options(Rules, values, what), what)
    rules = parse_options(Rules, in_file | dict(given), "rules")
    parsed = {}
    for name, values in tasks.items():
        what = f"rules of task '{name}'"
        parsed[str(name)] = parse_options(TaskRules, {str(k): v for k, v in values.items()}, what)
        check_options(parsed[str(name)], what)
    return replace(rules, tasks=parsed)
