"""Keys of `--metadata` that no task of a run reads.

lm-eval passes them to every task, whose code may read any. So it is known only from the code: a key is
read if it is a text or a parameter in a file of the task's functions or classes, or, of tasks outside this
package, in a Python file beside one. An unread key changes no answer, so it is a note and no error.
"""

from __future__ import annotations

import ast
import inspect
import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import lm_eval

from dlm_eval.errors import nearest
from dlm_eval.file_state import once_per_state
from dlm_eval.harness.code_tasks import starts
from dlm_eval.harness.task_metadata import METADATA

OURS = Path(__file__).parents[1]
LM_EVAL = Path(lm_eval.__file__).parent
STOCK = LM_EVAL / "tasks"  # the rest of lm-eval passes all keys on


def unread(tasks: Mapping[str, Any], given: Iterable[str]) -> dict[str, str | None]:
    """Returns the keys among `given` that no task reads -> the nearest one that is read, or None.

    Args:
        tasks: lm-eval's task objects by name.
        given: keys of `--metadata`.
    """
    left = sorted(given)
    if not left:
        return {}
    files = {file for task in tasks.values() for file in _files(task)}
    read = set[str]().union(*(_texts(file) for file in files))
    own = {key for task in tasks.values() for key in task.config.metadata or ()}
    asked = {key for task in tasks.values() for key in _parameters(task.config)}
    known = ((METADATA.keys() | own) & read | asked) - set(left)
    return {key: next(iter(nearest(key, known)), None) for key in left if key not in read}


def notes(found: Mapping[str, str | None]) -> list[str]:
    """Returns a line for each key that `unread` gave."""
    return [
        f"--metadata {key} is read by no task of this run"
        + (f"; did you mean '{near}'?" if near else "")
        for key, near in found.items()
    ]


def _parameters(config: Any) -> list[str]:
    """Returns the names that a task's function for its documents takes from the metadata."""
    documents = getattr(config, "custom_dataset", None)  # lm-eval's configurations may lack it
    return list(inspect.signature(documents).parameters) if callable(documents) else []


def _files(task: Any) -> Iterator[Path]:
    """Yields the files of a task's code, and those beside it."""
    named = {Path(file) for file, _ in starts(task)}
    for cls in type(task).__mro__:  # `starts` leaves our classes out
        module = sys.modules.get(cls.__module__)
        if cls.__module__.startswith("dlm_eval.") and module is not None:
            named.add(Path(str(module.__file__)))
    for file in named:
        if OURS in file.parents:
            yield file
        elif STOCK in file.parents or LM_EVAL not in file.parents:
            yield from file.parent.glob("*.py")


@once_per_state
def _texts(file: Path) -> frozenset[str]:
    """Returns the texts and the names of parameters in a Python file."""
    try:
        tree = ast.parse(file.read_bytes())
    except (OSError, SyntaxError, ValueError):
        return frozenset()
    nodes = list(ast.walk(tree))
    texts = {n.value for n in nodes if isinstance(n, ast.Constant) and isinstance(n.value, str)}
    return frozenset(texts | {n.arg for n in nodes if isinstance(n, ast.arg)})
