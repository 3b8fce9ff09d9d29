"""Imports the Python of every stock task of lm-eval once, and prints as JSON which of it cannot be imported, and why. Run in a process of its own."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import re
import sys
from pathlib import Path

import lm_eval.tasks

from dlm_eval.errors import UserError
from dlm_eval.harness.lm_eval_patches import missing_modules
from dlm_eval.harness.requirements import missing_package

ROOT = Path(lm_eval.tasks.__file__).parent
NAMED = re.compile(r"!function\s+([\w.-]+)\.\w+")


def files() -> list[Path]:
    """Returns the Python files that YAML files of tasks name functions or classes of."""
    found = set()
    for yaml in [
        *ROOT.rglob("*.yaml"),
        *ROOT.rglob("*.yml"),
        *(p for p in ROOT.rglob("_*") if p.is_file() and not p.suffix),
    ]:
        for module in NAMED.findall(yaml.read_text(encoding="utf-8", errors="replace")):
            found |= {
                path
                for path in (yaml.parent / f"{module.replace('.', '/')}.py", ROOT / f"{module}.py")
                if path.is_file()
            }
    return sorted(found)


def why_not(path: Path) -> str | None:
    """Imports a file as lm-eval does; returns why that failed."""
    spec = importlib.util.spec_from_file_location(
        ".".join(["lm_eval.tasks", *path.relative_to(ROOT).with_suffix("").parts]), path
    )
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.path.insert(0, str(path.parent))
    try:
        spec.loader.exec_module(module)
    except UserError as error:
        return str(error)
    except BaseException as error:  # also exit()
        return missing_package(error) or f"{type(error).__name__}: {error}"
    finally:
        sys.path.remove(str(path.parent))
    return None


if __name__ == "__main__":
    tried = files()
    with missing_modules(), contextlib.redirect_stdout(sys.stderr):
        failed = {
            path.relative_to(ROOT).as_posix(): reason
            for path in tried
            if (reason := why_not(path)) is not None
        }
    print(json.dumps({"tried": len(tried), "failed": failed}))
