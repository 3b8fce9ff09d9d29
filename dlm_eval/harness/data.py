"""Datasets from local files, then the cache, then the Hub; an immediate one-line error if none has
them.
"""

from __future__ import annotations

import contextlib
import glob
import gzip
import hashlib
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dlm_eval.errors import UserError
from dlm_eval.hub import hub_reachable

DEEPEST = 200  # a line or file with more opening brackets is parsed to check its depth


@dataclass
class Library:
    """Where datasets come from while `lm_eval_patches.local_first` is active."""

    data_dir: Path | None
    original: Callable[..., Any]
    active: bool = True

    @classmethod
    def of(cls, data_dir: str | Path | None, original: Callable[..., Any]) -> Library:
        """Returns the library of a folder; None for the variable DLM_EVAL_DATA.

        Raises:
            UserError: the folder does not exist.
        """
        return cls(_checked(data_dir or os.environ.get("DLM_EVAL_DATA")), original)

    def load(self, path: str, name: str | None = None, *args: Any, **options: Any) -> Any:
        """Returns the result of ``datasets.load_dataset`` from the first place that has the
        dataset.
        """
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
                    raise UserError(f"--data_dir: {folder} cannot be read: {_first_line(error)}") from error
        return self._from_hub(path, name, reason, *args, **options)

    def _from_folder(self, folder: Path, name: str | None, *args: Any, **options: Any) -> Any:
        # The library identifies a folder's cached rows only by the folder's last name and its card.
        # A changed file, or another folder of the same name, would silently give the old rows. Each
        # state of a folder therefore has its own cache.
        import datasets

        _check_json(sorted(folder.rglob("*")))
        cache = Path(datasets.config.HF_DATASETS_CACHE) / "dlm_eval" / _state(folder)
        return self.original(str(folder), name, *args, **{"cache_dir": str(cache), **options})

    def _from_hub(self, path: str, name: str | None, reason: str, *args: Any, **options: Any) -> Any:
        online = hub_reachable()
        try:
            with progress_bars(True) if online else _offline():
                return self.original(path, name, *args, **options)
        except UserError:
            raise  # from an enclosing context
        except Exception as error:
            hub = f"the Hub says: {_first_line(error)}" if online else "the Hub is unreachable and it is not cached"
            called = f"'{path}'" + (f" (configuration '{name}')" if name else "")
            raise UserError(
                f"cannot load dataset {called}: {reason}; {hub}; give --data_dir DIR (or the variable"
                f" DLM_EVAL_DATA) with its files in DIR/{path}"
            ) from error


def path_beside(folder: Path, named: Any, directory: bool = False) -> Any:
    """Returns a path of a task's YAML, relative to the YAML's folder if it is relative and exists
    there.

    Args:
        folder: of the YAML.
        named: a path or glob, a list of them, or either by split.
        directory: whether it must be a directory.
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
    """Returns the paths in `data_files` of a task: a text, a list of texts, or either by split."""
    if isinstance(data_files, Mapping):
        return [file for named in data_files.values() for file in _named_files(named)]
    if isinstance(data_files, (list, tuple)):
        return [file for named in data_files for file in _named_files(named)]
    return [Path(data_files)] if isinstance(data_files, (str, Path)) else []


def _check_json(files: Iterable[Path]) -> None:
    """Raises UserError for JSON that is nested so deeply that the library's parser would crash the
    process.
    """
    for file in files:
        if {".json", ".jsonl"} & set(file.suffixes) and file.is_file():
            with gzip.open(file) if file.suffix == ".gz" else file.open("rb") as stream:
                depth = deepest = (
                    # Over all lines; brackets in texts count too, so this only decides whether to
                    # parse.
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

    For local files they would only appear above the one line of an error.
    """
    from datasets.utils import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars

    before = not are_progress_bars_disabled()
    (enable_progress_bars if shown else disable_progress_bars)()
    try:
        yield
    finally:
        (enable_progress_bars if before else disable_progress_bars)()


@contextlib.contextmanager
def _offline() -> Iterator[None]:
    """Makes ``datasets`` and ``huggingface_hub`` use only their caches, so that nothing is retried."""
    import datasets
    from huggingface_hub import constants

    before = constants.HF_HUB_OFFLINE, datasets.config.HF_HUB_OFFLINE
    constants.HF_HUB_OFFLINE = datasets.config.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE, datasets.config.HF_HUB_OFFLINE = before


def _checked(data_dir: str | Path | None) -> Path | None:
    if data_dir is None:
        return None
    folder = Path(os.path.expanduser(data_dir))
    if not os.path.isdir(folder):
        raise UserError(f"--data_dir '{data_dir}' is not a directory; it must hold datasets as <owner>/<name>/")
    return folder.resolve()


def _state(folder: Path) -> str:
    """Returns a digest of a folder's path and of the names, sizes and times of its files."""
    state = hashlib.sha256(str(folder.resolve()).encode())
    for file in sorted(folder.rglob("*")):
        about = file.stat()
        state.update(f"{file.relative_to(folder)}\0{about.st_size}\0{about.st_mtime_ns}\0".encode())
    return state.hexdigest()[:16]


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
