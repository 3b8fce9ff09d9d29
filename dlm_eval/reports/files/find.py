"""Result files at and below paths, and their names in tables."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from dlm_eval.errors import UserError
from dlm_eval.printable import counted, valid_unicode
from dlm_eval.reports.files.content import Content
from dlm_eval.reports.files.result_file import ResultFile, read_result_file, read_whole

log = logging.getLogger(__name__)


def find_result_files(paths: Sequence[Path]) -> list[Path]:
    """Returns the result files at and below the paths, each once.

    Raises:
        UserError: a path does not exist.
    """
    # Resolved path -> path as given, so that no file is read twice if paths overlap.
    found: dict[Path, Path] = {}
    for path in paths:
        if not os.path.exists(path):
            raise UserError(
                f"path '{path}' does not exist; give result files or directories that hold "
                "results_*.json"
            )
        below = (
            [path]
            if os.path.isfile(path)
            else sorted(file for file in path.rglob("results_*.json") if file.is_file())
        )
        for file in below:
            found.setdefault(file.resolve(), file)
    return list(found.values())


def read_result_files(paths: Sequence[Path]) -> Iterator[tuple[Path, Content, ResultFile]]:
    """Yields path, content and rows of the result files at and below the paths.

    Files that are no readable results are skipped with a warning.

    Raises:
        UserError: a path does not exist.
    """
    for path in find_result_files(paths):
        try:
            content, file = read_whole(path, shown_path(path))
        except ValueError as reason:
            log.warning("%s is skipped: %s", repr(str(path)), reason)
        else:
            yield path, content, file


def find_run(path: Path) -> Path:
    """Returns the result file of `path`: the file itself, or the newest one below a folder.

    Raises:
        UserError: there is none, or the newest cannot be read.
    """
    if os.path.isfile(path):
        return path
    times: dict[Path, float] = {}
    broken: dict[Path, str] = {}
    for file in find_result_files([path]):
        try:
            times[file] = read_result_file(file, "").time
        except ValueError as reason:
            log.warning("%s is skipped: %s", repr(str(file)), reason)
            broken[file] = str(reason)
    if not times:
        raise UserError(f"path '{path}' holds no results_*.json with scores")
    newest = max(times, key=lambda file: (times[file], str(file)))
    for file, why in broken.items():
        if file.name > newest.name:  # names have the time: an older run would pass in its place
            raise UserError(f"run '{file}' is the newest, and cannot be read: {why}")
    if len(times) > 1:
        log.warning(
            "%s holds %s; the newest is taken: %s", path, counted(len(times), "run"), newest
        )
    return newest


def shown_path(path: Path) -> str:
    """Returns the path, relative if possible, so that tables contain no machine's folders."""
    try:
        shown = Path(os.path.abspath(path)).relative_to(Path.cwd())
    except ValueError:
        shown = path
    return valid_unicode(shown.as_posix())
