"""The documents of tasks: sources of datasets, and random draws that depend only on the seeds.

Datasets are loaded from local files, else the cache, else the Hub. If none has them, a one-line
error follows immediately.

`process_docs` of some tasks shuffles choices (GPQA). All generators are seeded before each task,
and `process_docs` is called once per split. Documents therefore do not depend on earlier tasks or
caches (`lm_eval_patches.documents_by_seed`).
"""

from __future__ import annotations

import contextlib
import functools
import glob
import gzip
import hashlib
import json
import os
import random
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from dlm_eval.errors import UserError
from dlm_eval.hub import hub_reachable

DEEPEST = 200  # a line or file with more open brackets is parsed to check its depth
Seeds = Sequence[int | None]  # python, numpy, torch, few-shot
# Generators in task modules, and their states before their first use.
_states: dict[int, tuple[Any, Any]] = {}


@dataclass
class Library:
    """The sources of datasets while `lm_eval_patches.local_first` is active."""

    data_dir: Path | None
    original: Callable[..., Any]
    active: bool = True
    _caches: dict[Path, Path] = field(default_factory=dict)

    def load(self, path: str | None, name: str | None = None, *args: Any, **options: Any) -> Any:
        """Returns the dataset (``datasets.load_dataset``) from the first source that has it.

        Raises:
            UserError: the task's YAML names no data, or none that can be read.
        """
        if not path:
            raise UserError(
                "dataset_path is missing; it must be a data set of the hub, a folder, or a format as "
                "'json' (with dataset_kwargs: {data_files: ...})"
            )
        if self.active:
            _check_json(_named_files(options.get("data_files")))
        if not self.active or options.get("data_files"):
            return self.original(path, name, *args, **options)
        if os.path.isdir(path):
            return self._from_folder(Path(path), name, *args, **options)
        reason = "no --data_dir given"
        if self.data_dir is not None:
            folder = self.data_dir / path
            reason = f"{folder} does not exist"
            if os.path.isdir(folder):
                try:
                    return self._from_folder(folder, name, *args, **options)
                except UserError:
                    raise
                except (ValueError, FileNotFoundError) as error:  # not in this folder
                    reason = f"{folder}: {_first_line(error)}"
                except Exception as error:
                    raise UserError(
                        f"--data_dir: {folder} cannot be read: {_first_line(error)}"
                    ) from error
        return self._from_hub(path, name, reason, *args, **options)

    def _from_folder(self, folder: Path, name: str | None, *args: Any, **options: Any) -> Any:
        # The library identifies a folder's cached rows only by the folder's name and its card. For
        # a changed file, or another folder with this name, it would silently return the old rows.
        # Each state of a folder therefore has its own cache.
        if folder not in self._caches:  # a group may have many tasks with one folder
            import datasets

            _check_json(sorted(folder.rglob("*")))
            home = Path(datasets.config.HF_DATASETS_CACHE)
            self._caches[folder] = home / "dlm_eval" / folder_state(folder)
        cache = str(self._caches[folder])
        return self.original(str(folder), name, *args, **{"cache_dir": cache, **options})

    def _from_hub(
        self, path: str, name: str | None, reason: str, *args: Any, **options: Any
    ) -> Any:
        online = hub_reachable()
        try:
            with progress_bars(True) if online else _offline():
                return self.original(path, name, *args, **options)
        except UserError:
            raise  # from an enclosing context
        except Exception as error:
            hub = (
                f"the Hub says: {_first_line(error)}"
                if online
                else "the Hub is unreachable and it is not cached"
            )
            called = f"'{path}'" + (f" (configuration '{name}')" if name else "")
            raise UserError(
                f"cannot load dataset {called}: {reason}; {hub}; give --data_dir DIR (or the"
                " variable"
                f" DLM_EVAL_DATA) with its files in DIR/{path}"
            ) from error


def path_beside(folder: Path, named: Any, directory: bool = False) -> Any:
    """Returns a path in a task's YAML. A relative path that exists in the YAML's folder is
    prefixed with that folder.

    Args:
        folder: folder of the YAML.
        named: a path or glob, a list of them, or a mapping of splits to either.
        directory: whether the path must be a directory.
    """
    if isinstance(named, Mapping):
        return {split: path_beside(folder, inner) for split, inner in named.items()}
    if isinstance(named, (list, tuple)):
        return [path_beside(folder, inner) for inner in named]
    if not isinstance(named, str) or not named or os.path.isabs(named) or "://" in named:
        return named
    path = str(folder.resolve() / named)
    there = os.path.isdir(path) if directory else bool(glob.glob(path))
    return path if there else named


def _named_files(data_files: Any) -> list[Path]:
    """Returns the paths in a task's `data_files`.

    These are a text, a list of texts, or a mapping of splits to either.
    """
    if isinstance(data_files, Mapping):
        return [file for named in data_files.values() for file in _named_files(named)]
    if isinstance(data_files, (list, tuple)):
        return [file for named in data_files for file in _named_files(named)]
    return [Path(data_files)] if isinstance(data_files, (str, Path)) else []


def _check_json(files: Iterable[Path]) -> None:
    """Raises UserError for JSON nested so deeply that the library's parser would crash."""
    for file in files:
        if {".json", ".jsonl"} & set(file.suffixes) and file.is_file():
            with gzip.open(file) if file.suffix == ".gz" else file.open("rb") as stream:
                depth = deepest = (
                    # Depth over all lines. Brackets in texts count too, so the depth only decides
                    # whether to parse.
                    0
                )
                for line in stream:
                    opened = line.count(b"[") + line.count(b"{")
                    depth += opened - line.count(b"]") - line.count(b"}")
                    deepest = max(deepest, depth)
                    if opened > DEEPEST:
                        _parse(file, line)
                if deepest > DEEPEST:
                    stream.seek(0)
                    _parse(file, stream.read())


def _parse(file: Path, text: bytes) -> None:
    try:
        json.loads(text)
    except RecursionError:
        raise UserError(f"{file.name} is nested too deeply to be read") from None
    except ValueError:
        pass  # the library reports it


@contextlib.contextmanager
def progress_bars(shown: bool) -> Iterator[None]:
    """Shows or hides the progress bars of ``datasets``.

    They are useless for local files and would precede the line of an error.
    """
    from datasets.utils import (
        are_progress_bars_disabled,
        disable_progress_bars,
        enable_progress_bars,
    )

    before = not are_progress_bars_disabled()
    (enable_progress_bars if shown else disable_progress_bars)()
    try:
        yield
    finally:
        (enable_progress_bars if before else disable_progress_bars)()


@contextlib.contextmanager
def _offline() -> Iterator[None]:
    """Makes ``datasets`` and ``huggingface_hub`` use only their caches, without retries."""
    import datasets
    from huggingface_hub import constants

    before = constants.HF_HUB_OFFLINE, datasets.config.HF_HUB_OFFLINE
    constants.HF_HUB_OFFLINE = datasets.config.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE, datasets.config.HF_HUB_OFFLINE = before


def data_folder(data_dir: str | Path | None) -> Path | None:
    """Returns --data_dir, else the folder in the environment variable DLM_EVAL_DATA.

    Raises:
        UserError: the folder does not exist.
    """
    data_dir = data_dir or os.environ.get("DLM_EVAL_DATA")
    if data_dir is None:
        return None
    folder = Path(os.path.expanduser(data_dir))
    if not os.path.isdir(folder):
        raise UserError(
            f"--data_dir '{data_dir}' is not a directory; it must hold datasets as <owner>/<name>/"
        )
    return folder.resolve()


def folder_state(folder: Path) -> str:
    """Returns a digest of a folder's path and of the names, sizes and times of its files."""
    state = hashlib.sha256(str(folder.resolve()).encode())
    for file in sorted(folder.rglob("*")):
        about = file.stat()
        state.update(f"{file.relative_to(folder)}\0{about.st_size}\0{about.st_mtime_ns}\0".encode())
    return state.hexdigest()[:16]


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


def seed_generators(seeds: Seeds) -> None:
    """Seeds the generators of python, numpy and torch; None leaves a generator unchanged."""
    import torch

    python, of_numpy, of_torch, *_ = seeds
    if python is not None:
        random.seed(python)
    if of_numpy is not None:
        np.random.seed(of_numpy)
    if of_torch is not None:
        torch.manual_seed(of_torch)


def seeded_configuration(begin: Callable[[Any], None], seeds: Seeds) -> Callable[[Any], None]:
    """Wraps `__post_init__` of a configuration to seed; lm-eval makes the documents after it."""

    def seeded(config: Any) -> None:
        functions = [value for value in vars(config).values() if callable(value)]
        if config.process_docs is not None:
            config.process_docs = once_per_split(config.process_docs)
        if isinstance(config.fewshot_config, Mapping):
            functions += [value for value in config.fewshot_config.values() if callable(value)]
            if config.fewshot_config.get("process_docs") is not None:
                own = once_per_split(config.fewshot_config["process_docs"])
                config.fewshot_config = {**config.fewshot_config, "process_docs": own}
        begin(config)
        _restore_generators(functions)
        seed_generators(seeds)

    return seeded


def drawn_once(make: Callable[[], Any], seeds: Seeds) -> Callable[[], Any]:
    """Returns a function that calls `make` once, with seeded generators."""

    @functools.cache
    def made() -> Any:
        seed_generators(seeds)
        return _fixed(make())

    return made


def once_per_split(process_docs: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """Calls `process_docs` once per split, since another call could draw other documents."""
    made: dict[int, tuple[Any, Any]] = {}  # keeping the split keeps its id unique

    @functools.wraps(process_docs)
    def once(split: Any) -> Any:
        if id(split) not in made:
            made[id(split)] = (split, _fixed(process_docs(split)))
        return made[id(split)][1]

    return once


def _fixed(documents: Any) -> Any:
    """Returns documents that are the same at every read: an on-the-fly transform is run once."""
    import datasets

    if isinstance(documents, datasets.Dataset) and documents.format["type"] == "custom":
        return datasets.Dataset.from_list(list(documents))
    return documents


def _restore_generators(functions: Sequence[Callable[..., Any]]) -> None:
    """Resets generators in the functions' modules to their states before their first use."""
    for function in functions:
        for value in list(getattr(function, "__globals__", {}).values()):
            if not isinstance(value, (random.Random, np.random.Generator, np.random.RandomState)):
                continue
            if id(value) not in _states:
                _states[id(value)] = (value, _generator_state(value))
            elif isinstance(value, random.Random):
                value.setstate(_states[id(value)][1])
            elif isinstance(value, np.random.RandomState):
                value.set_state(_states[id(value)][1])
            else:
                value.bit_generator.state = _states[id(value)][1]


def _generator_state(generator: Any) -> Any:
    if isinstance(generator, random.Random):
        return generator.getstate()
    return (
        generator.get_state()
        if isinstance(generator, np.random.RandomState)
        else generator.bit_generator.state
    )
