"""Files that travel with the package."""

from __future__ import annotations

from pathlib import Path

from dlm_eval.errors import RunError

SUITES = "suites"  # folder of task_configs


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


def task_folders() -> list[Path]:
    """Returns the folders of our task YAMLs, one per benchmark; `suites` holds none."""
    folders = (path for path in task_configs_dir().iterdir() if path.is_dir())
    return sorted(path for path in folders if path.name not in (SUITES, "__pycache__"))


def suite_files() -> dict[str, Path]:
    """Returns the YAMLs of the packaged suites by name."""
    files = (task_configs_dir() / SUITES).glob("*.yaml")
    return {path.stem: path for path in sorted(files)}
