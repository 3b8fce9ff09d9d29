"""The pictures of the documentation are those that scripts/pictures.py makes."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PICTURES = ROOT / "docs" / "pictures"


def structure(svg: str) -> tuple[list[str], int]:
    """Returns the texts of a picture and the number of its shapes."""
    texts = re.findall(r"<text[^>]*>([^<]*)</text>", svg)
    return texts, svg.count("<path") + svg.count("<use")


@pytest.mark.full
def test_committed_pictures_are_those_of_the_script(tmp_path: Path) -> None:
    command = [sys.executable, str(ROOT / "scripts" / "pictures.py"), "--out", str(tmp_path)]
    subprocess.run(command, check=True, cwd=tmp_path)
    made = sorted(path.name for path in tmp_path.glob("*.svg"))
    assert made == sorted(path.name for path in PICTURES.glob("*.svg"))
    for name in made:
        new, old = ((folder / name).read_text(encoding="utf-8") for folder in (tmp_path, PICTURES))
        assert structure(new) == structure(old), name


@pytest.mark.parametrize("path", sorted(PICTURES.glob("*.svg")), ids=lambda path: path.stem)
def test_a_picture_is_shown_with_a_description(path: Path) -> None:
    pages = [*ROOT.glob("docs/**/*.md"), ROOT / "README.md"]
    shown = [
        description
        for page in pages
        for description in re.findall(
            rf"!\[([^\]]*)\]\([^)]*pictures/{path.name}\)", page.read_text(encoding="utf-8")
        )
    ]
    assert shown and all(len(description) > 40 for description in shown)


@pytest.mark.parametrize("path", sorted(PICTURES.glob("*.svg")), ids=lambda path: path.stem)
def test_a_picture_has_texts_and_a_dark_mode(path: Path) -> None:
    svg = path.read_text(encoding="utf-8")
    assert structure(svg)[0] and "prefers-color-scheme: dark" in svg
    colours = set(re.findall(r"(?:fill|stroke): (#[0-9a-f]{6})", svg.partition("</style>")[2]))
    dark = set(re.findall(r": (#[0-9a-f]{6})\"\]", svg.partition("</style>")[0]))
    assert colours <= dark  # each colour has its counterpart
