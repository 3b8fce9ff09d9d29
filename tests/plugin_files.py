"""What the tests of plug-ins share: the example of a guide, and a registry that is left as it was."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from dlm_eval import plugins
from dlm_eval.plugins import Registry


def example(guide: str, name: str) -> str:
    """Returns a Python file of a page of docs: the block whose first line is `# NAME`."""
    page = Path(__file__).resolve().parents[1] / "docs" / "guides" / guide
    blocks = re.findall(r"```python\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)
    (code,) = [block for block in blocks if block.startswith(f"# {name}\n")]
    return str(code)


@contextmanager
def left_as_it_was(registry: Registry[Any]) -> Iterator[None]:
    """Takes out again what a test has registered, and what is known of installed packages: a test may install one."""
    registry.names()
    before = dict(registry._classes)
    plugins._entry_points.cache_clear()
    yield
    plugins._entry_points.cache_clear()
    registry._classes.clear()
    registry._classes.update(before)
