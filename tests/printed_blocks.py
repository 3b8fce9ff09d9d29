"""What the pages print for the reader to type: commands, Python and files, in the order of the page.

A page is Markdown. A block is fenced, or indented by four spaces behind an empty line. An invisible
comment directly above a block says what the block itself cannot:

    <!-- not run: REASON -->     it is read but not run; REASON begins with one of `REASONS`
    <!-- output -->              what the last command or Python block above it prints
    <!-- file: NAME -->          the text of a file, which the commands of the page name
    <!-- text -->                nothing to type (a format, a formula)
    <!-- files of: PAGE -->      (anywhere) the files of another page are there too

Without a comment: ```python blocks are Python, unless their first line is `# NAME.py`, which makes
them a file; ```bash and ```console blocks are commands. A line `$ COMMAND` is followed by its output.
"""

from __future__ import annotations

import ast
import re
import shlex
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

Kind = Literal["commands", "python", "file", "output", "text"]

# Why a block is not run. The word is followed by details, if there are any.
REASONS = {
    "hub": "it needs files of the Hugging Face hub",
    "gpu": "it needs a GPU",
    "api": "it needs a server with a model",
    "cluster": "it needs several machines, Slurm or Ray",
    "data": "it needs data that may not be in the repository",
    "minutes": "it takes minutes or hours",
    "install": "it installs packages, or needs an installed one",
    "elsewhere": "another test runs it",
}
PROGRAMS = ("dlm-eval", "python", "pip", "pytest", "ruff", "git", "ray", "srun", "sbatch", "export", "cd", "mkdir", "#!/bin/bash")  # fmt: skip
COMMENT = re.compile(r"<!--\s*(not run|output|file|text)\b\s*:?\s*(.*?)\s*-->")
FENCE = re.compile(r"^(\s*)(`{3,}|~{3,})\s*(\w*)")
ASSIGNMENT = re.compile(r"[A-Z][A-Z_]*=\S*")


@dataclass(frozen=True)
class Block:
    """One block of a page.

    Attributes:
        page: path of the page, relative to the root of the repository.
        line: number of its first line of text, from 1.
        kind: what it is.
        text: its lines, without the indentation.
        reason: why it is not run; empty if it is.
        name: of the file, for a file.
        indent: columns before its lines on the page.
    """

    page: str
    line: int
    kind: Kind
    text: str
    reason: str = ""
    name: str = ""
    indent: int = 0

    @property
    def place(self) -> str:
        return f"{self.page}:{self.line}"


@dataclass(frozen=True)
class Command:
    """A command of a block, with the output that is shown behind it (None: none is)."""

    text: str
    shown: str | None
    line: int


class PageError(ValueError):
    """A comment of a page that is not allowed."""


def pages(root: Path) -> list[Path]:
    """Returns the pages that are checked."""
    named = ("README.md", "CONTRIBUTING.md", "leaderboards/README.md")
    return [root / name for name in named] + sorted((root / "docs").rglob("*.md"))


def blocks(page: Path, root: Path) -> list[Block]:
    """Returns the blocks of a page.

    Raises:
        PageError: a reason or comment is not allowed.
    """
    lines = page.read_text(encoding="utf-8").splitlines()
    name = page.relative_to(root).as_posix()
    return [block for raw in _raw(lines) for block in _sorted(name, *raw)]


def _raw(lines: list[str]) -> Iterator[tuple[int, list[str], str | None, str]]:
    """Yields (index, lines, language or None if indented, comment above) of every block."""
    at = 0
    comment = ""
    while at < len(lines):
        line = lines[at]
        if fence := FENCE.match(line):
            end = at + 1
            while end < len(lines) and lines[end].strip() != fence[2]:
                end += 1
            yield at + 1, lines[at + 1 : end], fence[3], comment
            at, comment = end + 1, ""
        elif line.startswith("    ") and (at == 0 or not lines[at - 1].strip() or comment):
            end = at
            while end < len(lines) and (lines[end].startswith("    ") or not lines[end].strip()):
                end += 1
            while not lines[end - 1].strip():
                end -= 1
            yield at, lines[at:end], None, comment
            at, comment = end, ""
        else:
            if line.strip():
                comment = line.strip() if COMMENT.fullmatch(line.strip()) else ""
            at += 1


def _sorted(
    page: str, index: int, lines: list[str], language: str | None, comment: str
) -> Iterator[Block]:
    """Yields the block, or its parts between empty lines if they are of several kinds."""
    text = textwrap.dedent("\n".join(lines))
    indent = min((len(x) - len(x.lstrip()) for x in lines if x.strip()), default=0)
    said = COMMENT.fullmatch(comment)
    reason = name = ""
    kind: Kind | None = None
    if said and said[1] == "not run":
        reason = said[2]
        if reason.split(":")[0].split(",")[0].split()[0] not in REASONS:
            raise PageError(f"{page}:{index + 1}: '{reason}' must begin with {', '.join(REASONS)}")
    elif said and said[1] == "file":
        kind, name = "file", said[2]
    elif said:
        kind = "output" if said[1] == "output" else "text"
    if kind is None and (named := _file_name(text, language)):
        kind, name = "file", named
    if kind is None:
        kind = _kind(text, language)
    if kind is not None:
        yield Block(page, index + 1, kind, text, reason, name, indent)
        return
    part: list[str] = []
    for number, line in enumerate([*lines, ""]):
        if line.strip():
            part.append(line)
        elif part:
            inner = textwrap.dedent("\n".join(part))
            first = index + number - len(part) + 1
            yield Block(page, first, _kind(inner, None) or "text", inner, reason, "", indent)
            part = []


def _file_name(text: str, language: str | None) -> str:
    """Returns the name that the first line of a block gives, for Python and YAML."""
    first = text.lstrip().split("\n", 1)[0]
    if language in ("python", "yaml", None, "") and (
        found := re.match(r"# ([\w-]+\.(?:py|yaml))\b", first)
    ):
        return found[1]
    if language == "yaml" and (found := re.match(r"suite: (\w+)", first)):
        return f"{found[1]}.yaml"
    return ""


def _kind(text: str, language: str | None) -> Kind | None:
    """Returns what a block is; None if its parts may be of several kinds."""
    if language in ("python", "py"):
        return "python"
    if language in ("bash", "console", "sh", "shell"):
        return "commands"
    if language:
        return "text"
    if is_command(text.split("\n", 1)[0]):
        return None if _mixed(text) else "commands"
    if _is_python(text):
        return "python"
    return None if "\n\n" in text else "text"


def _mixed(text: str) -> bool:
    """Returns whether a block that begins with a command goes on with Python."""
    parts = re.split(r"\n\s*\n", text)
    return not text.startswith("$ ") and any(
        _is_python(part) and not is_command(part.split("\n", 1)[0]) for part in parts
    )


def is_command(line: str) -> bool:
    """Returns whether a line is a command by its first word."""
    words = line.removeprefix("$ ").split()
    while words and ASSIGNMENT.match(words[0]):
        words = words[1:]
    return bool(words) and (words[0] in PROGRAMS or line.startswith(("$ ", 'R="', "--")))


def _is_python(text: str) -> bool:
    """Returns whether a text is Python that does something: an import, a call, an assignment."""
    try:
        body = ast.parse(text).body
    except SyntaxError:
        return False
    return any(
        isinstance(node, (ast.Import, ast.ImportFrom, ast.Assign, ast.FunctionDef, ast.ClassDef))
        or (isinstance(node, ast.Expr) and isinstance(node.value, ast.Call))
        for node in body
    ) and not text.lstrip().startswith(("-", "include"))


def commands(block: Block) -> list[Command]:
    """Returns the commands of a block: lines that `\\` or a quote continues are joined, comments are
    left out, and `a && b` is two.
    """
    lines = block.text.split("\n")
    marked = any(line.startswith("$ ") for line in lines)
    found: list[Command] = []
    at = 0
    while at < len(lines):
        first, line = at, lines[at]
        at += 1
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        if marked and not line.startswith("$ "):
            continue
        line = line.removeprefix("$ ")
        while at < len(lines) and (line.endswith("\\") or not _closed(line)):
            joint = "\n" if not line.endswith("\\") else " "
            line = line.removesuffix("\\").rstrip(" ") + joint + lines[at].lstrip(" ")
            at += 1
        shown = None
        if marked:
            end = at
            while end < len(lines) and not lines[end].startswith("$ "):
                end += 1
            shown = "\n".join(lines[at:end]).strip("\n") or None
        parts = re.split(r"\s+&&\s+", without_comment(line))
        number = block.line + first
        found += [Command(part, None, number) for part in parts[:-1]]
        found.append(Command(parts[-1], shown, number))
    return found


def _closed(line: str) -> bool:
    try:
        shlex.split(line.removesuffix("\\"), comments=True)
    except ValueError:
        return False
    return True


def without_comment(line: str) -> str:
    """Returns a command without the comment behind it."""
    quote = ""
    for at, letter in enumerate(line):
        if quote:
            quote = "" if letter == quote else quote
        elif letter in "'\"":
            quote = letter
        elif letter == "#" and line[at - 1 : at].isspace():
            return line[:at].rstrip()
    return line.rstrip()
