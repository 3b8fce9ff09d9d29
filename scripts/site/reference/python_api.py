"""The pages of the Python API, from `__all__` and docstrings."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from typing import Any

from reference.text import prose

PYTHON = {
    "dlm_eval": "Loading a model, evaluating, scoring and filling canvases.",
    "dlm_eval.decoding": "Decoding: what fills the open positions, and what a strategy of your own extends.",
    "dlm_eval.likelihood": "Likelihoods: estimators, and what an estimator of your own extends.",
    "dlm_eval.models": "Models by name.",
    "dlm_eval.models.denoiser": "What a model is: `Denoiser`, and protocols of what some models can do besides.",
    "dlm_eval.testing": "Regression tests for pytest.",
}


def python_api() -> str:
    """Returns the page of what the packages export."""
    parts = [
        "# Python\n",
        "What is documented here is public; everything else may change. Metrics have "
        "[a page of their own](metrics.md).\n",
    ]
    shown: set[str] = set()
    for package, about in PYTHON.items():
        parts += [f"## {package}\n", f"{about}\n"]
        for path in exported(package):
            if path not in shown:
                shown.add(path)
                parts.append(f"::: {path}\n")
    return "\n".join(parts)


def exported(package: str) -> list[str]:
    """Returns the paths of a package's `__all__`, or of what a module defines: where each is defined."""
    module = importlib.import_module(package)
    if names := vars(module).get("__all__"):
        return [_defined(package, name, getattr(module, name)) for name in names]
    own = [
        (inspect.getsourcelines(value)[1], f"{package}.{name}")
        for name, value in vars(module).items()
        if not name.startswith("_")
        and (inspect.isclass(value) or inspect.isfunction(value))
        and value.__module__ == package
    ]
    return [path for _, path in sorted(own)]


def _defined(package: str, name: str, value: Any) -> str:
    if inspect.isclass(value) or inspect.isfunction(value):
        return f"{value.__module__}.{value.__qualname__}"
    return f"{package}.{name}"


def metrics() -> str:
    """Returns the page of the scoring functions."""
    import dlm_eval.metrics

    parts = [
        "# Metrics\n",
        inspect.cleandoc(dlm_eval.metrics.__doc__ or "").replace("``", "`") + "\n",
    ]
    for found in pkgutil.iter_modules(dlm_eval.metrics.__path__):
        name = f"dlm_eval.metrics.{found.name}"
        about = inspect.cleandoc(importlib.import_module(name).__doc__ or "").split("\n\n")[0]
        parts += [f"## {name}\n", f"{prose(about)}\n"]
        parts += [f"::: {path}\n" for path in exported(name)]
    return "\n".join(parts)
