"""Trap: tasks import modules that newer libraries no longer have."""

from __future__ import annotations

import functools
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from dlm_eval.patching import replaced, replaced_on_import


@contextmanager
def missing_modules(data_dir: str | Path | None = None) -> Iterator[None]:
    """Adds modules and functions that libraries have removed, and nltk's files (requirements.py).

    Upstream (lm-eval 0.4.13): stock tasks import `transformers.data.metrics.squad_metrics` (removed
    in transformers 5), `pkg_resources` (removed in setuptools 82) and `datasets.load_metric`
    (removed in datasets 3). `nltk.download` ignores files in a data folder.

    Raises:
        UserError: a task inside the context needs a file of nltk that is missing.
    """
    import datasets

    from dlm_eval.harness import requirements

    modules = requirements.stand_ins()
    sys.modules.update(modules)
    try:
        with ExitStack() as stack:
            if not hasattr(datasets, "load_metric"):
                stack.enter_context(replaced(datasets, "load_metric", requirements.load_metric))
            download = functools.partial(requirements.nltk_download, data_dir=data_dir)
            stack.enter_context(replaced_on_import("nltk", "download", download))
            yield
    finally:
        for name in modules:
            sys.modules.pop(name, None)
