"""Trap: data is looked for in the working directory and on the hub alone, Python files nowhere."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from dlm_eval.harness.lm_eval_patches.repeated_work import cards_read_once
from dlm_eval.patching import replaced


@contextmanager
def paths_beside_yaml() -> Iterator[None]:
    """Resolves a task's relative paths in the folder of its YAML (data.py). The configuration is
    unchanged.

    Upstream (lm-eval 0.4.13): `ConfigurableTask.download` passes `data_files` and `dataset_path` to
    `datasets`, which resolves them in the working directory.
    """
    from lm_eval.api.task import ConfigurableTask

    from dlm_eval.harness.data import path_beside

    whole = ConfigurableTask.download

    def download(self: Any, dataset_kwargs: dict[str, Any] | None = None, **kwargs: Any) -> None:
        source = (self.config.metadata or {}).get("config_source")
        folder = Path(str(source)).parent  # the folder of "inline" is the working directory
        options = dict(dataset_kwargs or {})
        if "data_files" in options:
            options["data_files"] = path_beside(folder, options["data_files"])
        with replaced(self, "DATASET_PATH", path_beside(folder, self.DATASET_PATH, directory=True)):
            whole(self, options, **kwargs)

    with replaced(ConfigurableTask, "download", download):
        yield


@contextmanager
def modules_beside_yaml() -> Iterator[None]:
    """Runs the Python files of tasks so that they may import the files beside them (user_files.py).

    Upstream (lm-eval 0.4.13): `tasks._yaml_loader` runs a file that a YAML names, and `import` finds
    no file beside it. A file is run again only if it was edited itself.
    """
    import lm_eval.tasks
    from lm_eval.tasks import _yaml_loader

    from dlm_eval.user_files import digest_of, run_file

    whole, stock = _yaml_loader._load_module_with_cache, Path(lm_eval.tasks.__file__).parent

    def load(path: Path) -> Any:
        if stock in path.parents:
            return whole(path)
        name, digest = str(path.with_suffix("")), digest_of(path)
        known = sys.modules.get(name)
        if known is not None and vars(known).get("__source_digest__") == digest:
            return known
        changed = path.stat().st_mtime_ns
        try:
            return run_file(path, name, __mtime__=changed, __source_digest__=digest)
        except BaseException:
            sys.modules.pop(name, None)
            raise

    with replaced(_yaml_loader, "_load_module_with_cache", load):
        yield


@contextmanager
def local_first(data_dir: str | Path | None = None) -> Iterator[None]:
    """Makes `datasets.load_dataset` read `<data_dir>/<dataset_path>` before the hub (data.py).

    Upstream (lm-eval 0.4.13, datasets 5.2): `ConfigurableTask.download` calls
    `datasets.load_dataset`, which retries an unreachable hub for 20 seconds and then fails with a
    traceback.

    Args:
        data_dir: folder in the layout of the hub (`openai/gsm8k/...`); None for the folder in the
            environment variable DLM_EVAL_DATA.

    Raises:
        UserError: the folder does not exist, or a dataset cannot be loaded inside the context.
    """
    import datasets

    from dlm_eval.harness.data import Library, data_folder, progress_bars

    library = Library(data_folder(data_dir), datasets.load_dataset)
    try:
        with (
            replaced(datasets, "load_dataset", library.load),
            progress_bars(False),
            cards_read_once(),
        ):
            yield
    finally:
        # Our function, if a task module still refers to it, now calls the original one.
        library.active = False
