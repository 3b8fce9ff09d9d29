"""Checks of task YAMLs, and the list of all tasks.

lm-eval silently ignores a broken file, and reports an unknown metric only after all answers are
generated. Errors here name the file and the line. The list is read from the YAMLs alone, without
loading tasks or data.
"""

from __future__ import annotations

import dataclasses
import functools
import os
from collections.abc import Iterable, Iterator, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import yaml

from dlm_eval.errors import UserError, unknown_name_error
from dlm_eval.harness import lm_eval_patches as patches
from dlm_eval.hub import hub_reachable
from dlm_eval.packaged import task_folders
from dlm_eval.settings import shown
from dlm_eval.yaml_text import read_yaml_text

OUR_CLASSES = (
    "dlm_eval.harness.blocks.BlockTask",
    "dlm_eval.harness.choices.ChoiceTask",
    "dlm_eval.harness.infill.InfillTask",
)
NONE = type(None)
# Types of values. Keys whose value may be a function, a template or a list of these are excluded.
VALUES: dict[str, tuple[tuple[type, ...], str]] = {
    **dict.fromkeys(("num_fewshot",), ((int, NONE), "a whole number")),
    "repeats": ((int,), "a whole number"),
    **dict.fromkeys(("target_delimiter", "fewshot_delimiter"), ((str,), "text")),
    **dict.fromkeys(
        ("dataset_path", "training_split", "validation_split", "test_split"), ((str, NONE), "text")
    ),
    **dict.fromkeys(
        ("dataset_name", "task_alias", "fewshot_split"), ((str, int, float, NONE), "text")
    ),
    **dict.fromkeys(
        ("dataset_kwargs", "generation_kwargs", "metadata", "fewshot_config"),
        ((dict, NONE), "a mapping"),
    ),
    **dict.fromkeys(("should_decontaminate", "unsafe_code"), ((bool,), "true or false")),
}
LEAST = {"num_fewshot": 0, "repeats": 1}
LOADER_KEYS = {"include", "class", "task_list"}


def check_folder(root: Path) -> None:
    """Checks every ``*.yaml`` under a folder.

    Raises:
        UserError: lm-eval would ignore or misread a file, or fail on it after the model has run.
    """
    files = sorted(
        path for path in root.glob("**/*.yaml") if ".ipynb_checkpoints" not in path.parts
    )
    included = {included for path in files for included in _includes(path)}
    for path in files:
        check_file(path, template=path.name.startswith("_") or path.resolve() in included)


@functools.cache
def check_once(root: Path, state: str) -> None:
    """`check_folder` of a folder whose files are in this state (`folder_state`), once in a process."""
    check_folder(root)


def check_file(path: Path, template: bool = False) -> dict[str, Any]:
    """Checks a YAML's keys and names; returns it with includes merged and functions as text.

    Args:
        template: Whether it may define no task, because other files include it.

    Raises:
        UserError: the YAML is broken, defines no task, or has an unknown key, metric, aggregation
            or filter.
    """
    config = _load(path, recursive=True)
    if not {"task", "group", "class"} & set(config):
        if template or "suite" in config:  # suites may lie beside the tasks that they name
            return config
        raise UserError(f"{path}: has neither 'task' nor 'group', so it defines nothing")
    check_config(path, config)
    return config


def check_config(place: Path | str, config: dict[str, Any]) -> None:
    """Checks the keys and names of a task's or group's configuration.

    Args:
        place: The file, for messages.
        config: The configuration; functions may be objects or text.

    Raises:
        UserError: a key, metric, aggregation or filter is unknown.
    """
    if "class" not in config or str(config["class"]).endswith(OUR_CLASSES):  # others may add keys
        _check_keys(place, config)
        _check_values(place, config)
    _check_metrics(place, config)
    _check_filters(place, config)


def include_folders(include_path: str | Path | Sequence[str | Path] | None) -> list[Path]:
    """Returns the folders of --include_path.

    Raises:
        UserError: one of them is not a directory.
    """
    if include_path is None:
        return []
    given = [include_path] if isinstance(include_path, (str, Path)) else list(include_path)
    folders = []
    for entry in given:
        whole = os.path.expanduser(entry)
        for part in [str(entry)] if os.path.isdir(whole) else str(entry).split(os.pathsep):
            folder = Path(os.path.expanduser(part))
            if not part or not os.path.isdir(folder):
                raise UserError(f"--include_path '{part}' is not a directory")
            folders.append(folder.resolve())
    return folders


def _load(path: Path, recursive: bool) -> dict[str, Any]:
    from lm_eval.tasks._yaml_loader import load_yaml

    read_yaml_text(path, str(path))
    try:
        return dict(load_yaml(path, resolve_func=False, recursive=recursive))
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f"{mark.name}, line {mark.line + 1}" if mark else str(path)
        raise UserError(f"{where}: broken YAML: {error.problem or error.context}") from error
    except (OSError, ValueError, TypeError, RecursionError, yaml.YAMLError) as error:
        raise UserError(f"{path}: cannot be read: {' '.join(str(error).split())}") from error


def _includes(path: Path) -> Iterator[Path]:
    named = _load(path, recursive=False).get("include", [])
    for name in [named] if isinstance(named, str) else named:
        yield (path.parent / name).resolve()


def _check_keys(path: Path | str, config: dict[str, Any]) -> None:
    from lm_eval.config.group import GroupConfig
    from lm_eval.config.task import TaskConfig

    allowed = LOADER_KEYS | {field.name for field in dataclasses.fields(TaskConfig)}
    if "group" in config:  # keys of tasks override those of the group's members
        allowed |= {field.name for field in dataclasses.fields(GroupConfig)}
    for key in config:
        if key not in allowed:
            raise unknown_name_error(f"{path}: key", key, allowed)


def _check_values(path: Path | str, config: dict[str, Any]) -> None:
    """Raises UserError for values on which lm-eval would fail late or with a Python error."""
    from lm_eval.api.task import ALL_OUTPUT_TYPES

    if config.get("output_type", "") not in ("", *ALL_OUTPUT_TYPES):
        raise unknown_name_error(f"{path}: output_type", config["output_type"], ALL_OUTPUT_TYPES)
    for key, (kinds, words) in VALUES.items():
        value = config.get(key)
        odd = not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds)
        if key in config and (odd or (isinstance(value, int) and value < LEAST.get(key, value))):
            more = f" of at least {LEAST[key]}" if key in LEAST else ""
            raise UserError(
                f"{path}: {key} '{shown(value)}' is not allowed; it must be {words}{more}"
            )
    if not ("group" in config or isinstance(config.get("task", ""), str)):
        raise UserError(f"{path}: task '{shown(config['task'])}' is not allowed; it must be text")


def _check_metrics(path: Path | str, config: dict[str, Any]) -> None:
    import lm_eval.api.metrics  # noqa: F401  (fills the registries)
    from lm_eval.api.registry import aggregation_registry, metric_agg_registry, metric_registry

    own_scorer = config.get("process_results") is not None
    for entry in _entries(path, config, "metric_list"):
        metric, aggregation = entry.get("metric"), entry.get("aggregation")
        if _is_name(aggregation) and aggregation not in aggregation_registry:
            raise unknown_name_error(
                f"{path}: aggregation", aggregation, aggregation_registry.keys()
            )
        if (
            aggregation is None
            and _is_name(metric)
            and own_scorer
            and metric not in metric_agg_registry
        ):
            near = get_close_matches("aggregation", map(str, entry), 1, 0.8)
            hint = f" ('{near[0]}' is there)" if near else ""
            raise UserError(
                f"{path}: metric '{shown(metric)}' of metric_list needs an aggregation{hint}, for "
                "instance mean"
            )
        if own_scorer or not _is_name(metric) or metric in metric_registry:
            continue
        if not hub_reachable():  # otherwise it may be a metric of HF evaluate
            raise unknown_name_error(f"{path}: metric", metric, metric_registry.keys())


def _check_filters(path: Path | str, config: dict[str, Any]) -> None:
    import lm_eval.filters  # noqa: F401  (fills the registry)
    from lm_eval.api.registry import filter_registry

    for pipeline in _entries(path, config, "filter_list"):
        steps = pipeline.get("filter")
        if not isinstance(steps, list) or not all(
            isinstance(step, dict) and "function" in step for step in steps
        ):
            raise UserError(
                f"{path}: filter_list needs a list of functions under 'filter' of each entry"
            )
        for step in steps:
            if _is_name(step.get("function")) and step["function"] not in filter_registry:
                raise unknown_name_error(
                    f"{path}: filter", step["function"], filter_registry.keys()
                )


def _entries(path: Path | str, config: dict[str, Any], key: str) -> Iterable[dict[str, Any]]:
    entries = config.get(key) or []
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise UserError(f"{path}: {key} must be a list of mappings")
    return entries


def _is_name(value: Any) -> bool:
    return isinstance(value, str) and "/" not in value  # an unresolved !function is a path


def list_tasks(
    include_path: str | None = None, everything: bool = False
) -> list[tuple[str, str, str]]:
    """Returns (name, kind, description) of every task, group and tag.

    Args:
        everything: include lm-eval's own tasks (takes seconds).
    """
    manager = _manager(include_path, everything)
    rows = []
    for name, entry in sorted(manager.task_index.items()):
        config = _config(entry) if entry.yaml_path and not everything else {}
        kind = str(config.get("output_type", "")) or str(entry.kind.name).lower()
        rows.append((name, kind, _about(entry)))
    return rows


def unknown_tasks(names: Iterable[str], include_path: str | None = None) -> list[str]:
    """Returns those of `names` that are neither YAML files nor tasks, groups or tags.

    lm-eval's index is read (some seconds) only for names that our tasks lack.
    """
    missing = [name for name in names if not name.endswith((".yaml", ".yml"))]
    for everything in (False, True):
        if missing:
            index = _manager(include_path, everything).task_index
            missing = [name for name in missing if name not in index]
    return missing


def all_tasks(include_path: str | None = None) -> list[str]:
    """Returns the names of all tasks, groups and tags, lm-eval's included (takes some seconds)."""
    return list(_manager(include_path, everything=True).all_tasks)


def task_files(
    name: str, include_path: str | None = None, everything: bool = True
) -> dict[str, dict[str, Any]]:
    """Returns the settings in the YAMLs of a task or group: 'task', and "lm-eval's task" if both
    have the name.

    Args:
        everything: look in lm-eval's index too (takes seconds).
    """
    ours = _manager(include_path, everything=False).task_index.get(name)
    theirs = _lm_evals().task_index.get(name) if everything else None
    titles = {"task": ours, "task" if ours is None else "lm-eval's task": theirs}
    return {title: _described(entry) for title, entry in titles.items() if entry is not None}


def _described(entry: Any) -> dict[str, Any]:
    if not entry.yaml_path:
        return {"tag": entry.name, "tasks": sorted(entry.tags)}
    return {key: _plain(value) for key, value in _config(entry).items()}


def _lm_evals() -> Any:
    from lm_eval.tasks import TaskManager

    with patches.finding():
        return TaskManager(include_defaults=True)


def _manager(include_path: str | None, everything: bool) -> Any:
    from lm_eval.tasks import TaskManager

    given = include_folders(include_path)
    roots: list[str | Path] = [*task_folders(), *given]
    for root in given:
        for file in root.glob("**/*.yaml"):
            # A file that is nested too deeply would crash lm-eval's parser.
            read_yaml_text(file, str(file))
    with patches.finding():
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
    if (
        isinstance(value, str)
        and value.startswith("/")
        and len(value.splitlines()[0]) == len(value) < 1000
    ):
        return _function(Path(value))
    return value if isinstance(value, (str, int, float, bool, type(None))) else str(value)


def _function(path: Path) -> str:
    """Returns a `!function` as in its YAML, without the folder that lm-eval adds."""
    return f"!function {path.name}" if path.parent.is_dir() and not path.exists() else str(path)
