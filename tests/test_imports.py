"""The floors of the house: a module imports from its own floor and from those below, inside functions too."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "dlm_eval"
FLOORS = (  # from the ground up
    "bars canvas counts errors file_state hub options output packaged patching plugins printable reasons recorded_answers redaction rng settings signals uncertainty user_files variables yaml_text",
    "models",
    "budget engine",
    "decoding likelihood",
    "answers jobs journal progress workers",
    "metrics sandbox",
    "harness",
    "reports",
    "testing",
    "cli __main__",
)
REPORTS = "files", "board regression", "sweep", "pages", "trace run"  # the floors of `reports`
LEVEL = {name: level for level, names in enumerate(FLOORS) for name in names.split()}


def imports(code: str, package: str) -> Iterator[str]:
    """Yields the packages and modules of ours that a file of `package` imports.

    Relative imports and `import_module("dlm_eval.harness.lm")` count too.
    """
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.Call) and "import_module" in ast.unparse(node.func):
            name = node.args[0].value if isinstance(node.args[0], ast.Constant) else ""
            yield from name.split(".")[1:2] if str(name).startswith("dlm_eval.") else []
        elif isinstance(node, ast.ImportFrom):
            above = (
                package.split(".")[: len(package.split(".")) + 1 - node.level] if node.level else []
            )
            parts = [*above, *(node.module or "").split(".")] if node.module else above
            names = (
                parts[1:2] or [alias.name for alias in node.names] if parts[0] == "dlm_eval" else []
            )
            yield from (name for name in names if not name.startswith("__"))
        elif isinstance(node, ast.Import):
            yield from (
                alias.name.split(".")[1]
                for alias in node.names
                if alias.name.startswith("dlm_eval.")
            )


def test_imports_point_downwards() -> None:
    arrows = {
        (file.relative_to(PACKAGE).parts[0].removesuffix(".py"), name)
        for file in PACKAGE.rglob("*.py")
        if file != PACKAGE / "__init__.py"  # the front door: it names what is inside
        for name in imports(
            file.read_text(encoding="utf-8"), ".".join(file.relative_to(PACKAGE.parent).parts[:-1])
        )
    }
    assert {name for arrow in arrows for name in arrow} <= LEVEL.keys(), (
        "give a new module its floor"
    )
    assert {(a, b) for a, b in arrows if LEVEL[a] < LEVEL[b]} == set()


def test_packages_of_reports_point_downwards() -> None:
    level = {name: level for level, names in enumerate(REPORTS) for name in names.split()}
    arrows = {
        (file.relative_to(PACKAGE / "reports").parts[0], name)
        for file in (PACKAGE / "reports").glob("*/*.py")
        for name in re.findall(r"dlm_eval\.reports\.(\w+)", file.read_text(encoding="utf-8"))
    }
    assert {name for arrow in arrows for name in arrow} == level.keys()
    assert {(a, b) for a, b in arrows if a != b and level[a] <= level[b]} == set()


@pytest.mark.parametrize(
    "line",
    [
        "from dlm_eval.harness import run",
        "from dlm_eval import harness",
        "import dlm_eval.harness.run as run",
        "from ..harness import run",
        "from .. import harness",
        "def f():\n    import importlib\n    return importlib.import_module('dlm_eval.harness.run')",
    ],
)
def test_every_form_of_an_import_is_seen(line: str) -> None:
    assert [
        name for name in imports(line, "dlm_eval.models") if LEVEL.get(name, 99) > LEVEL["models"]
    ]
