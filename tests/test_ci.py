"""The parts of .ci/full: named alike in the script, in CONTRIBUTING.md and in the workflow of every night."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FULL = ROOT / ".ci" / "full"


def parts() -> list[str]:
    named = re.search(r"^parts='([\w ]+)'$", FULL.read_text(), re.MULTILINE)
    assert named is not None
    return named[1].split()


def test_parts_are_documented_and_run_every_night() -> None:
    rows = re.findall(
        r"^\| `\.ci/full (\w+)`", (ROOT / "CONTRIBUTING.md").read_text(), re.MULTILINE
    )
    nightly = re.search(r"part: \[([^]]+)\]", (ROOT / ".github/workflows/nightly.yml").read_text())
    functions = re.findall(r"^(\w+)\(\) \{$", FULL.read_text(), re.MULTILINE)
    assert nightly is not None and rows == nightly[1].split(", ") == parts()
    assert set(parts()) <= set(functions)


@pytest.mark.parametrize("part", ["nosuch", "", "lon", "newest long", "-h"])
def test_another_part_is_an_error(part: str) -> None:
    run = subprocess.run([str(FULL), "long", part], capture_output=True, text=True)
    assert run.returncode == 2 and run.stdout == ""
    assert run.stderr == f"no part '{part}': {', '.join(parts())}\n"


def test_only_tests_of_faults_are_repeated() -> None:
    """`-k fault` would choose those of defaults too."""
    (word,) = re.findall(r"pytest -k (\w+);", FULL.read_text())
    files = [
        path.name for path in (ROOT / "tests").glob("test_*fault*.py") if "default" not in path.name
    ]
    assert files and all(word in name for name in files) and word not in "test_default.py"
