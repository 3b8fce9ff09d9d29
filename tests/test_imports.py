"""The floors of the house: a module imports from its own floor and from those below, inside functions too."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

PACKAGE = Path(__file__).parents[1] / "dlm_eval"
FLOORS = (  # from the ground up
    "canvas errors hub options output packaged patching plugins printable redaction rng settings signals uncertainty yaml_text",
    "models",
    "budget engine",
    "decoding likelihood",
    "answers jobs journal progress workers",
    "metrics sandbox",
    "harness",
    "reports",
    "cli __main__",
)
LEVEL = {name: level for level, names in enumerate(FLOORS) for name in names.split()}


def imports(file: Path) -> Iterator[str]:
    """Yields the packages and modules of ours that a file imports."""
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom):
            parts = (node.module or "").split(".")
            names = parts[1:2] or [alias.name for alias in node.names] if parts[0] == "dlm_eval" else []
            yield from (name for name in names if not name.startswith("__"))
        elif isinstance(node, ast.Import):
            yield from (alias.name.split(".")[1] for alias in node.names if alias.name.startswith("dlm_eval."))


def test_imports_point_downwards() -> None:
    arrows = {
        (file.relative_to(PACKAGE).parts[0].removesuffix(".py"), name)
        for file in PACKAGE.rglob("*.py")
        if file != PACKAGE / "__init__.py"  # the front door: it names what is inside
        for name in imports(file)
    }
    assert {name for arrow in arrows for name in arrow} <= LEVEL.keys(), "give a new module its floor"
    assert {(a, b) for a, b in arrows if LEVEL[a] < LEVEL[b]} == set()
