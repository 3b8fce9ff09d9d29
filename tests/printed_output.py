"""Compares an output that a page shows with what a command prints.

`...` on the page stands for anything: on a line of its own for any lines, within a line for any text.
Times, dates and paths are never compared, nor are columns of tables whose title names seconds.
"""

from __future__ import annotations

import re

MASKS = (
    (re.compile(r"\d{4}-\d\d-\d\d[T ]\d\d[:-]\d\d[:-]\d\d(\.\d+)?(Z|[+-]\d\d:\d\d)?"), "TIME"),
    (re.compile(r"\d{4}-(\d\d-\d\d)?\.{3,4}"), "..."),
    (re.compile(r"\b\d+(\.\d+)? (s|ms|min|h|seconds)\b"), "N s"),
    (re.compile(r"\b\d+(\.\d+)? (forwards|tokens|requests)/s"), "N/s"),
    (re.compile(r"(/[\w.-]+){2,}"), "PATH"),
    (re.compile(r"fingerprint [0-9a-f]+"), "fingerprint X"),
    (re.compile(r"-{3,}"), "---"),
    (re.compile(r"[ \t]+"), " "),
)
TIMED = re.compile(r"second|/s\b|\btime\b", re.IGNORECASE)


def masked(text: str) -> list[str]:
    """Returns the lines of a text with everything masked that differs from run to run."""
    lines = _without_timed_columns(text.splitlines())
    found = []
    for line in lines:
        for pattern, instead in MASKS:
            line = pattern.sub(instead, line)
        if line.strip(" -|:"):  # rules of tables are left out
            found.append(line.strip())
    return found


def _without_timed_columns(lines: list[str]) -> list[str]:
    """Masks columns of seconds in the tables of a text (`tabulate`'s simple and pipe formats)."""
    found = list(lines)
    for at, line in enumerate(lines):
        if at and re.fullmatch(r"\s*-+(\s+-+)*\s*", line):
            spans = [match.span() for match in re.finditer(r"-+", line)]
            timed = [span for span in spans if TIMED.search(lines[at - 1][slice(*span)])]
            below = at + 1
            while below < len(lines) and lines[below].strip():
                for start, end in timed:
                    if found[below][start:end].strip():
                        row = found[below].ljust(end)
                        found[below] = row[:start] + "T".ljust(end - start) + row[end:]
                below += 1
        elif at and re.fullmatch(r"\s*\|[-:|]+\|\s*", line):
            timed_at = [i for i, cell in enumerate(lines[at - 1].split("|")) if TIMED.search(cell)]
            below = at + 1
            while below < len(lines) and lines[below].strip().startswith("|"):
                cells = found[below].split("|")
                found[below] = "|".join(
                    " T " if i in timed_at and cell.strip() else cell
                    for i, cell in enumerate(cells)
                )
                below += 1
    return found


def missing(shown: str, printed: str) -> list[str]:
    """Returns the lines of a shown output that were not printed, in this order.

    Consecutive shown lines must be consecutive in the print, unless `...` stands between them.
    """
    lines, found = masked(printed), []
    at, gap = 0, True
    for line in masked(shown):
        if line == "...":
            gap = True
            continue
        pattern = re.compile(re.escape(line).replace(r"\.\.\.", ".*"))
        places = range(at, len(lines)) if gap else range(at, min(at + 1, len(lines)))
        hit = next((place for place in places if pattern.fullmatch(lines[place])), None)
        if hit is None:
            found.append(line)
            gap = True
        else:
            at, gap = hit + 1, False
    return found


def renewed(shown: str, printed: str) -> str:
    """Returns a shown output with its lines as they are printed now.

    Without `...` the whole output is taken. Else a line that is still printed stays, and one that is
    not is replaced by the first line below the last one found that begins with the same word; lines that
    hold `...` stay, as nobody knows what they leave out.
    """
    lines = printed.strip("\n").splitlines()
    if "..." not in shown:
        return "\n".join(line.rstrip() for line in lines)
    found, at = [], 0  # lines before `at` are used
    for line in shown.splitlines():
        below = lines[at:]
        if line.strip() and "..." not in line:
            same = next((k for k, other in enumerate(below) if not missing(line, other)), None)
            if same is None:  # not printed any more
                words = line.split()[:1]
                same = next(
                    (k for k, other in enumerate(below) if other.split()[:1] == words), None
                )
                line = line if same is None else below[same].rstrip()
            at += 0 if same is None else same + 1
        found.append(line)
    return "\n".join(found)


def replaced(page: str, shown: str, new: str) -> str:
    """Returns the page with the lines of one shown output replaced, indented as they were.

    Raises:
        ValueError: the output is not on the page, or more than once.
    """
    old = shown.splitlines()
    lines = page.splitlines()
    hits = [
        at
        for at in range(len(lines) - len(old) + 1)
        if all(lines[at + k].strip() == text.strip() for k, text in enumerate(old))
    ]
    if len(hits) != 1:
        raise ValueError(f"the output is {len(hits)} times on the page: {old[0]}")
    (at,) = hits
    indent = lines[at][: len(lines[at]) - len(lines[at].lstrip())]
    lines[at : at + len(old)] = [f"{indent}{line}".rstrip() for line in new.splitlines()]
    return "\n".join(lines) + "\n"
