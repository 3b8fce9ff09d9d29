"""The tasks of a run: from names, globs and YAML files to lm-eval's task objects, before a model is
loaded.
"""

from __future__ import annotations

import copy
import glob
import logging
import os
import traceback
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from lm_eval.api.task import ConfigurableTask

from dlm_eval.errors import UserError, nearest
from dlm_eval.harness import lm_eval_patches as patches
from dlm_eval.harness.data import Seeds, folder_state
from dlm_eval.harness.requirements import check_packages, missing_package
from dlm_eval.harness.run_settings import DEFAULT_SEEDS
from dlm_eval.harness.sample_errors import reason_of, task_code
from dlm_eval.harness.task_files import (
    check_config,
    check_file,
    check_folder,
    check_once,
    include_folders,
)
from dlm_eval.packaged import task_configs_dir, task_folders
from dlm_eval.printable import counted

log = logging.getLogger(__name__)
WILDCARDS = set("*?[")
# A configuration with one of these is a new task; otherwise it changes an existing one.
DATA_KEYS = {"dataset_path", "custom_dataset", "class"}


def load_tasks(
    names: Sequence[Any],
    *,
    include_path: str | Path | Sequence[str | Path] | None = None,
    data_dir: str | Path | None = None,
    metadata: Mapping[str, Any] | None = None,
    seeds: Seeds = DEFAULT_SEEDS,
) -> dict[str, Any]:
    """Returns lm-eval's task dictionary: ``tasks`` and ``groups`` by name, and ``group_map``.

    Names are looked up in ``include_path`` and our tasks. lm-eval's full index takes seconds to
    read and is used only for names that neither has. Our ``gsm8k`` therefore overrides lm-eval's,
    and a glob that matches tasks of ours matches no others.

    Args:
        names: Names of tasks, groups or tags, globs, YAML files or folders of YAML files; each may
            be a comma-separated list. Also, as in lm-eval, configurations (mappings with 'task' or
            'group', whose members may be configurations too) and Task or Group objects.
        include_path: Folders of further YAMLs; a task there overrides one of ours with the same
            name.
        data_dir: Folder of local datasets (see ``local_first``).
        metadata: Passed to every task, as lm-eval does with ``--metadata`` and the model's
            arguments.
        seeds: Of python, numpy, torch and few-shot examples. Documents drawn at random depend on
            them.

    Raises:
        UserError: an unknown name, an invalid YAML, an unavailable dataset, or a duplicate task.
    """
    given = include_folders(include_path)
    ours = task_folders()
    for root in ours:
        check_once(root, folder_state(root))
    for root in given:
        check_folder(root)
    roots = [*ours, *given]
    with patches.reading(data_dir):
        with patches.finding():
            manager, found = _find(_split(names), roots, dict(metadata or {}))
        with patches.loading(seeds, data_dir):
            built = [item for name in found for item in _build(manager, name)]
        try:
            loaded: dict[str, Any] = manager.load(built)
        except ValueError as error:
            raise UserError(f"--tasks: {error}") from error
    patches.judge_in_sandbox(loaded["tasks"])
    for name, task in loaded["tasks"].items():
        _check_metric_functions(task)
        check_packages(name, task)
        patches.keep_documents(task, seeds)
    tops = [task_configs_dir(), *given]
    _hide_folders([*loaded["tasks"].values(), *loaded["groups"].values()], tops)
    return loaded


def check_fewshot(loaded: Mapping[str, Any], num_fewshot: int | None) -> None:
    """Checks that every task has enough few-shot examples.

    Args:
        num_fewshot: The user's number; None means each task's own.

    Raises:
        UserError: the task's few-shot split has too few examples.
    """
    if num_fewshot is not None and num_fewshot < 0:
        raise UserError(f"--num_fewshot {num_fewshot} is not allowed; it must be 0 or more")
    for name, task in loaded["tasks"].items():
        own = task.config.num_fewshot
        # As in lm-eval, a 0 in a YAML cannot be overridden.
        wanted = own if num_fewshot is None or own == 0 else num_fewshot
        if own == 0 and num_fewshot:
            log.warning(
                "task '%s': --num_fewshot %d is ignored; its YAML says num_fewshot: 0",
                name,
                num_fewshot,
            )
        examples: Sequence[Any] = getattr(getattr(task, "sampler", None), "df", None) or ()
        evaluated = task.eval_docs
        # A prompt has one example less to choose from if its own document may be among them: we
        # exclude it. From a split of the same name lm-eval draws one more at random in any case.
        shared = (
            len(examples) == len(evaluated) and len(examples) > 0 and examples[0] == evaluated[0]
        )
        if not shared and task.fewshot_cfg.split == task.config.test_split:
            in_order = task.fewshot_cfg.sampler == "first_n"
            shared = not in_order or any(example in evaluated for example in examples)
        pool = len(examples) - shared
        if (wanted or 0) > pool:
            raise UserError(
                f"--num_fewshot {wanted}: task '{name}' has only "
                f"{counted(max(pool, 0), 'example')} to show"
            )


def _split(names: Sequence[Any]) -> list[Any]:
    given = [names] if isinstance(names, (str, Mapping)) else names
    specs: list[Any] = []
    for name in given:
        parts = (
            [part.strip() for part in name.split(",") if part.strip()]
            if isinstance(name, str)
            else [name]
        )
        specs += [part for part in parts if not (isinstance(part, str) and part in specs)]
    if not specs:
        raise UserError("--tasks is empty; 'dlm-eval ls tasks' lists what there is")
    return specs


def _find(specs: list[Any], roots: list[Path], metadata: dict[str, Any]) -> tuple[Any, list[Any]]:
    """Returns a manager that has every spec, and the specs' names, files, settings and objects."""
    from lm_eval.tasks import TaskManager

    manager = TaskManager(include_path=roots, include_defaults=False, metadata=metadata)
    found = [_match(spec, manager) for spec in specs]
    if not all(found) or any(_strangers(name, manager) for names in found for name in names):
        manager = TaskManager(include_path=roots, include_defaults=True, metadata=metadata)
        found = [names or _match(spec, manager) for spec, names in zip(specs, found, strict=True)]
    for spec, names in zip(specs, found, strict=True):
        if not names:
            raise _unknown_task(spec, manager)
        for name in names:
            if strange := _strangers(name, manager):
                if strange[0] == _title(name):
                    raise _unknown_task(strange[0], manager)
                raise UserError(f"group '{_title(name)}': task '{strange[0]}' is not known")
    flat: list[Any] = []
    for name in (name for names in found for name in names):
        if not (isinstance(name, str) and name in flat):
            flat.append(name)
    return manager, flat


def _match(spec: Any, manager: Any) -> list[Any]:
    if isinstance(spec, Mapping):
        _kind(spec)
        return [spec]
    if not isinstance(spec, str):
        return [_checked(spec)]
    if spec in manager.task_index:
        return [spec]
    if spec.endswith((".yaml", ".yml")) or os.path.isdir(spec):
        return _files(spec)
    if not WILDCARDS & set(spec):
        return []
    names = manager.match_tasks([spec])
    members = {member for name in names for member in _members(name, manager)}
    # A group already contains its tasks.
    return [name for name in names if name not in members]


def _files(spec: str) -> list[str]:
    files = sorted(
        glob.glob(os.path.join(spec, "*.yaml") if os.path.isdir(spec) else os.path.expanduser(spec))
    )
    if not files:
        raise UserError(f"--tasks '{spec}': no such YAML file")
    checked = {
        file: check_file(Path(file), template=Path(file).name.startswith("_")) for file in files
    }
    if len(files) == 1 and "suite" in checked[files[0]]:
        raise UserError(f"--tasks '{spec}' is a suite; run it with --suite {spec}")
    return [
        str(Path(file).resolve())
        for file, config in checked.items()
        if {"task", "group"} & set(config)
    ]


def _members(name: str, manager: Any) -> list[str]:
    """Returns the names that a group or tag lists, recursively."""
    entry = manager.task_index.get(name)
    if entry is None or entry.kind.name not in ("GROUP", "TAG"):
        return []
    listed = sorted(entry.tags) if entry.kind.name == "TAG" else entry.cfg.get("task") or []
    names = [
        item if isinstance(item, str) else item.get("task", item.get("group")) for item in listed
    ]
    # An inline group has a list for its tasks.
    names = [item for item in names if isinstance(item, str)]
    return names + [below for item in names for below in _members(item, manager)]


def _strangers(name: Any, manager: Any) -> list[str]:
    """Returns the members that a group lists by name and the manager does not have."""
    if isinstance(name, Mapping):
        return [item for item in _must_exist(name) if item not in manager.task_index]
    if not isinstance(name, str):
        return []
    entries = [manager.task_index.get(each) for each in (name, *_members(name, manager))]
    groups = [entry.cfg for entry in entries if entry is not None and entry.kind.name == "GROUP"]
    listed = [item for config in groups for item in config.get("task") or []]
    return [item for item in listed if isinstance(item, str) and item not in manager.task_index]


def _must_exist(config: Mapping[str, Any]) -> Iterator[str]:
    """Yields the names in a configuration that must be existing tasks or groups."""
    members = config.get("task")
    if isinstance(members, (list, tuple)):
        for item in members:
            yield from _must_exist(item) if isinstance(item, Mapping) else [item]
    elif not DATA_KEYS & set(config):
        yield str(config.get("group", members))


def _made(config: Mapping[str, Any], manager: Any) -> Any:
    """Returns the task or group of a configuration.

    A configuration without data changes the existing task or group of its name.

    Raises:
        UserError: the configuration has a key that lm-eval does not know.
    """
    from lm_eval.tasks._index import Entry, Kind

    kind = _kind(config)
    name = config[kind]
    if "class" not in config:
        check_config(f"--tasks '{name}'", dict(config))
    if kind == "group" and "task" in config:
        entry, changes = Entry(name, Kind.GROUP, None, dict(config)), None
    elif DATA_KEYS & set(config):
        entry, changes = (
            Entry(name, Kind.PY_TASK if "class" in config else Kind.TASK, None, dict(config)),
            None,
        )
    else:
        entry = manager.task_index[name]
        changes = {key: value for key, value in config.items() if key != "group"}
    return manager._factory.build(entry, overrides=changes, registry=manager.task_index)


def _kind(config: Mapping[str, Any]) -> str:
    """Returns whether a configuration is a 'group' or a 'task'."""
    for kind in ("group", "task"):
        if isinstance(config.get(kind), str):
            return kind
    raise UserError("--tasks: a configuration must name its 'task' or 'group'")


def _checked(spec: Any) -> Any:
    """Returns lm-eval's task or group object.

    Raises:
        UserError: `spec` is neither.
    """
    from lm_eval.api.group import Group
    from lm_eval.api.task import Task

    if isinstance(spec, Group):
        return spec
    if isinstance(spec, Task):  # a run changes its tasks, so copy the user's
        own = copy.copy(spec)
        own._config = copy.copy(spec.config)
        return own
    raise UserError(
        f"--tasks '{spec}' is not allowed; it must be names of tasks, their configurations or task "
        "objects"
    )


def _title(spec: Any) -> str:
    """Returns the name of a spec for messages."""
    if isinstance(spec, Mapping):
        return str(spec.get("group", spec.get("task")))
    return spec if isinstance(spec, str) else str(getattr(spec, "name", None) or spec.config.task)


def _build(manager: Any, spec: Any) -> list[Any]:
    """Returns the topmost objects of one spec: a task, a group, or the tasks of a tag."""
    name = _title(spec)
    try:
        with task_code():
            loaded = manager.load(_made(spec, manager) if isinstance(spec, Mapping) else [spec])
    except UserError as error:
        if str(error).startswith(("--tasks", f"task '{name}'")):
            raise
        raise UserError(f"task '{name}': {error}") from error
    except KeyError as error:
        raise UserError(
            f"task '{name}': its dataset has no split, configuration or column {error}"
        ) from error
    except Exception as error:  # a YAML and its functions may raise anything
        if needed := missing_package(error):
            raise UserError(f"task '{name}' {needed}") from error
        if _is_empty(error):
            raise UserError(
                f"task '{name}' has no documents: a file of its data is empty, or its process_docs "
                "keeps none"
            ) from error
        where = " (while looking at document 0)" if _looked_at_first(error) else ""
        raise UserError(f"task '{name}' cannot be loaded{where}: {reason_of(error)}") from error
    below = {child for children in loaded["group_map"].values() for child in children}
    items = {**loaded["groups"], **loaded["tasks"]}
    return [item for key, item in items.items() if key not in below]


def _is_empty(error: BaseException) -> bool:
    """Returns whether lm-eval looked for the first document of a task without documents, or
    `datasets` for the first row of an empty file.
    """
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    if isinstance(error, StopIteration):
        return str(frames[-1].f_globals.get("__name__")).startswith("datasets.")
    tasks = (frame.f_locals.get("self") for frame in frames)
    return any(
        isinstance(task, ConfigurableTask) and len(vars(task).get("task_docs", "?")) == 0
        for task in tasks
    )


def _looked_at_first(error: BaseException) -> bool:
    """Returns whether an error was raised while lm-eval processed the first document of a task."""
    trace = error.__traceback__
    while trace is not None:
        if trace.tb_frame.f_code.co_name == "__init__" and "test_doc" in trace.tb_frame.f_locals:
            return True
        trace = trace.tb_next
    return False


def _check_metric_functions(task: Any) -> None:
    if task.config.process_results is not None:
        return
    for metric, function in getattr(task, "_metric_fn_list", {}).items():
        if function is None:
            raise UserError(
                f"task '{task.config.task}': metric '{metric}' is neither lm-eval's nor HF "
                "evaluate's"
            )


def _hide_folders(items: list[Any], roots: list[Path]) -> None:
    """Removes this machine's folders from `config_source`, since results contain it."""
    import lm_eval

    tops = [root.parent for root in roots] + [Path(lm_eval.__file__).resolve().parent.parent]
    for item in items:
        metadata = getattr(getattr(item, "config", item), "metadata", None)
        if isinstance(metadata, dict) and "config_source" in metadata:
            source = Path(metadata["config_source"])
            shorter = [source.relative_to(top) for top in tops if source.is_relative_to(top)]
            metadata["config_source"] = (shorter[0] if shorter else Path(source.name)).as_posix()


def _unknown_task(spec: str, manager: Any) -> UserError:
    near = nearest(spec, manager.all_tasks, count=3)
    guess = f"did you mean {', '.join(repr(name) for name in near)}? " if near else ""
    return UserError(
        f"--tasks '{spec}' is not known; {guess}'dlm-eval ls tasks' lists what there is"
    )
