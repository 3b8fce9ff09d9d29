"""Replacements for modules that stock tasks import and present libraries lack, and nltk's files.

`lm_eval_patches.missing_modules` installs them.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import importlib.metadata
import importlib.util
import os
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

from dlm_eval.errors import UserError
from dlm_eval.hub import hub_reachable

NLTK_FILES = "nltk_data"  # folder in --data_dir
# Folders of nltk's files that tasks use.
KINDS = ("tokenizers", "corpora", "taggers", "stemmers")


def _squad() -> dict[str, ModuleType]:
    from dlm_eval.metrics import squad

    package = ModuleType("transformers.data.metrics")
    package.squad_metrics = squad  # type: ignore[attr-defined]
    return {package.__name__: package, f"{package.__name__}.squad_metrics": squad}


def _pkg_resources() -> dict[str, ModuleType]:
    module = ModuleType("pkg_resources")
    vars(module).update(
        get_distribution=importlib.metadata.distribution,
        # some libraries read their own files with it (jieba)
        resource_filename=lambda name, file: str(_beside(name, file)),
        resource_string=lambda name, file: _beside(name, file).read_bytes(),
        resource_stream=lambda name, file: _beside(name, file).open("rb"),
    )
    return {module.__name__: module}


def _beside(module: str, file: str) -> Path:
    """Returns the path of a file in a module's folder."""
    source = importlib.import_module(module).__file__
    if source is None:
        raise FileNotFoundError(f"module '{module}' has no folder with {file}")
    return Path(source).parent / file


# Removed modules: in transformers 5 and setuptools 82.
STAND_INS: dict[str, Callable[[], dict[str, ModuleType]]] = {
    "transformers.data.metrics": _squad,
    "pkg_resources": _pkg_resources,
}


def modules() -> dict[str, ModuleType]:
    """Returns replacements for the missing modules, by name."""
    added: dict[str, ModuleType] = {}
    for name, make in STAND_INS.items():
        if name not in sys.modules and not _there(name):
            added.update(make())
    return added


def load_metric(*args: Any, **options: Any) -> Any:
    """Replaces `datasets.load_metric`; HF evaluate has the metrics now."""
    return importlib.import_module("evaluate").load(*args, **options)


def nltk_download(nltk: Any, data_dir: str | Path | None) -> Callable[..., bool]:
    """Returns a function for `nltk.download` that first searches `data_dir` (or $DLM_EVAL_DATA).

    Raises:
        UserError: raised by the function if a file of nltk is missing.
    """
    data_dir = data_dir or os.environ.get("DLM_EVAL_DATA")
    folder = str(Path(data_dir).expanduser().resolve() / NLTK_FILES) if data_dir else None
    if folder is not None and folder not in nltk.data.path:
        nltk.data.path.insert(0, folder)
    return functools.partial(_download, nltk, nltk.download)


def _there(name: str) -> bool:
    try:
        return importlib.util.find_spec(name) is not None
    except ModuleNotFoundError:
        return False


def _download(nltk: Any, original: Callable[..., Any], name: str, *args: Any, **options: Any) -> bool:
    """Returns True if nltk's file `name` is on this machine or has been downloaded.

    Raises:
        UserError: it is missing and cannot be downloaded.
    """
    # Nltk 3.9 reads punkt_tab wherever punkt was asked for.
    wanted = {name, "punkt_tab"} if name == "punkt" else {name}
    for path in (f"{kind}/{each}" for kind in KINDS for each in wanted):
        with contextlib.suppress(LookupError):
            nltk.data.find(path)
            return True
    if hub_reachable() and original(name, *args, **options):
        return True
    kind = next((kind for kind in KINDS if name.startswith("punkt")), KINDS[1])
    raise UserError(
        f"nltk's '{name}' is not on this machine and cannot be downloaded; put its folder at "
        f"DIR/{NLTK_FILES}/{kind}/{max(wanted)} for --data_dir DIR, or at {kind}/{max(wanted)} in a folder that the variable NLTK_DATA names"
    )
