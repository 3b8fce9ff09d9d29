"""The list of tasks, from their YAMLs only: no task is loaded and no data is read."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from dlm_eval.harness.lm_eval_patches import quiet_index
from dlm_eval.harness.tasks import include_folders
from dlm_eval.packaged import task_configs_dir
from dlm_eval.yaml_text import read_yaml_text


def list_tasks(include_path: str | None = None, everything: bool = False) -> list[tuple[str, str, str]]:
    """Returns (name, kind, description) of every task, group and tag.

    Args:
        include_path: further folder of task YAMLs.
        everything: include lm-eval's own tasks (takes some seconds).
    """
    manager = _manager(include_path, everything)
    rows = []
    for name, entry in sorted(manager.task_index.items()):
        config = _config(entry) if entry.yaml_path and not everything else {}
        kind = str(config.get("output_type", "")) or str(entry.kind.name).lower()
        rows.append((name, kind, _about(entry)))
    return rows


def task_file(name: str, include_path: str | None = None, everything: bool = True) -> dict[str, Any] | None:
    """Returns the settings in the YAML of a task or group, or None.

    Args:
        name: of a task, group or tag.
        include_path: further folder of task YAMLs.
        everything: if our tasks lack the name, read lm-eval's index (takes some seconds).
    """
    for index in (False, True) if everything else (False,):
        entry = _manager(include_path, index).task_index.get(name)
        if entry is not None:
            return {key: _plain(value) for key, value in _config(entry).items()} if entry.yaml_path else {"tag": name}
    return None


def _manager(include_path: str | None, everything: bool) -> Any:
    from lm_eval.tasks import TaskManager

    roots: list[str | Path] = [task_configs_dir(), *include_folders(include_path)]
    for root in map(Path, roots[1:]):
        for file in root.glob("**/*.yaml"):
            # A file that is nested too deeply would crash lm-eval's parser.
            read_yaml_text(file, str(file))
    with quiet_index():
        return TaskManager(include_path=roots, include_defaults=everything)


def _config(entry: Any) -> dict[str, Any]:
    from lm_eval.tasks._yaml_loader import load_yaml

    return dict(load_yaml(entry.yaml_path, resolve_func=False, recursive=True))


def _about(entry: Any) -> str:
    """Returns the first comment lines of the YAML; our files describe the task there."""
    if not entry.yaml_path:
        return ""
    return " ".join(_comment(Path(entry.yaml_path)))[:160]


def _comment(path: Path) -> Iterator[str]:
    for line in path.read_text(encoding="utf-8").splitlines():
        if not line.startswith("#"):
            return
        yield line.lstrip("# ").rstrip()


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, str) and value.startswith("/") and len(value.splitlines()[0]) == len(value) < 1000:
        return _function(Path(value))
    return value if isinstance(value, (str, int, float, bool, type(None))) else str(value)


def _function(path: Path) -> str:
    """Returns a `!function` as in its YAML, without the folder that lm-eval adds."""
    return f"!function {path.name}" if path.parent.is_dir() and not path.exists() else str(path)
