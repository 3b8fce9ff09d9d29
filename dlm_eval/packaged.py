"""Files that travel with the package."""

from __future__ import annotations

from pathlib import Path

from dlm_eval.errors import RunError


def task_configs_dir() -> Path:
    """Returns the folder of our task YAMLs: in the installed package, or at the top of a checkout.

    Raises:
        RunError: it is in neither place, so the installation is broken.
    """
    package = Path(__file__).resolve().parent
    for folder in (package / "task_configs", package.parent / "task_configs"):
        if folder.is_dir():
            return folder
    raise RunError(f"the task_configs folder is missing beside or in {package}")
