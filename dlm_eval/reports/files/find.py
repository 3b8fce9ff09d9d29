"""Result files at and below paths, and their names in tables."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from dlm_eval.errors import UserError
from dlm_eval.printable import valid_unicode


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


def shown_path(path: Path) -> str:
    """Returns the path, relative if possible, so that tables contain no machine's folders."""
    try:
        shown = Path(os.path.abspath(path)).relative_to(Path.cwd())
    except ValueError:
        shown = path
    return valid_unicode(shown.as_posix())
