"""Pages and files that code, comments and the pages beside README.md name are there, with their anchors."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
CODE = ("dlm_eval", "scripts", "tests", "task_configs", "benchmarks", ".github", ".gitlab", ".ci", "pyproject.toml", "mkdocs.yml", "Containerfile")  # fmt: skip
TEXT = {".py", ".pyi", ".yaml", ".yml", ".toml", ".md", ".sh", ".html", ".js", ".css", ".cff", ""}
FRONT = ("README.md", "CONTRIBUTING.md", "SECURITY.md", "CHANGELOG.md", "leaderboards/README.md")
# A stem in capitals stands for any (SUITE.yaml). Scripts and tasks of a name may be those of other repositories.
PAGE = re.compile(r"(?<![\w/.-])(?:docs|tests|benchmarks|leaderboards)/[\w/.-]*(?<![A-Z])\w\.(?:md|svg|ipynb|css|py|yaml|yml|json|jsonl(?:\.gz)?)(?!\w)(?:#[\w-]+)?")  # fmt: skip
LINK = re.compile(r"!?\[(?:[^][]|\[[^][]*\])*\]\(([^()\s]+)\)")
FENCE = re.compile(r"^(```|~~~).*?^\1\s*$", re.MULTILINE | re.DOTALL)


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them; those of equal headings are numbered."""
    found: dict[str, int] = {}
    names = set()
    for heading in re.findall(
        r"^#+\s+(.*?)\s*#*$", FENCE.sub("", page.read_text(encoding="utf-8")), re.M
    ):
        text = re.sub(r"\[([^][]*)\]\([^()]*\)", r"\1", heading)
        slug = re.sub(r"[^\w\- ]", "", text.lower()).replace(" ", "-")
        number = found.get(slug, 0)
        found[slug] = number + 1
        names.add(f"{slug}-{number}" if number else slug)
    return names


def fault(target: str, base: Path) -> str | None:
    """Why a target `PATH#ANCHOR`, relative to `base`, does not exist, or None."""
    path, _, anchor = target.partition("#")
    page = (base / path).resolve() if path else base
    if not page.exists():
        return "no such file"
    if anchor and page.suffix == ".md" and anchor not in anchors(page):
        return "no such heading"
    return None


def tracked(*under: str) -> Iterator[Path]:
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--", *under],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    ).stdout
    files = [ROOT / name for name in listed.split("\0") if name]
    if not files:  # an sdist has no history
        files = [f for name in under for f in ((ROOT / name).rglob("*") if (ROOT / name).is_dir() else [ROOT / name])]  # fmt: skip
    for file in files:
        if file.is_file() and file.suffix in TEXT and file != Path(__file__).resolve():
            yield file


def test_pages_that_code_names_exist() -> None:
    wrong, seen = [], 0
    for file in tracked(*CODE):
        text = file.read_text(encoding="utf-8", errors="replace")
        for match in PAGE.finditer(text):
            target = match[0]
            seen += 1
            if reason := fault(target, ROOT):
                line = text.count("\n", 0, match.start()) + 1
                wrong.append(f"{file.relative_to(ROOT)}:{line}: {target}: {reason}")
    assert not wrong, "\n".join(wrong)
    assert seen > 100


@pytest.mark.parametrize("name", FRONT)
def test_links_of_the_pages_at_the_root_resolve(name: str) -> None:
    page = ROOT / name
    text = FENCE.sub(lambda found: "\n" * found[0].count("\n"), page.read_text(encoding="utf-8"))
    wrong = []
    for match in LINK.finditer(text):
        target = match[1]
        if re.match(r"[a-z]+:", target):
            continue
        whole = page if target.startswith("#") else page.parent
        if reason := fault(target, whole):
            wrong.append(f"{name}:{text.count(chr(10), 0, match.start()) + 1}: {target}: {reason}")
    assert not wrong, "\n".join(wrong)


def test_the_checks_find_what_is_wrong(tmp_path: Path) -> None:
    page = tmp_path / "a.md"
    page.write_text(
        "# A `b` (c)!\n\n## Twice\n\n```text\n# no heading\n```\n\n## Twice\n\n## [Link](x) to\n"
    )
    assert anchors(page) == {"a-b-c", "twice", "twice-1", "link-to"}
    assert fault("a.md#twice-1", tmp_path) is None and fault("#link-to", page) is None
    assert fault("a.md#no-heading", tmp_path) == "no such heading"
    assert fault("b.md", tmp_path) == "no such file"
    assert [m[0] for m in PAGE.finditer("see docs/x/y-z.md#q-1, (docs/a.md). not/docs/b.md")] == ["docs/x/y-z.md#q-1", "docs/a.md"]  # fmt: skip
    assert LINK.findall("[`a[0]`](b.md) and ![p](q.svg)") == ["b.md", "q.svg"]
