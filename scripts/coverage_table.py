"""Writes the table of benchmark x source x protocol into docs/reproduce/suite-entries.md from the suites' YAMLs.

python scripts/coverage_table.py
"""

from __future__ import annotations

import sys
from pathlib import Path

from dlm_eval.harness.suites import Entry, Suite, suites

PAGE = Path(__file__).resolve().parents[1] / "docs" / "reproduce" / "suite-entries.md"
BEGIN, END = "<!-- begin: scripts/coverage_table.py -->\n", "<!-- end -->"


def table() -> str:
    """Returns the tables of all suites as Markdown."""
    parts = []
    for suite in suites().values():
        parts.append(f"## {suite.suite}\n\n{suite.about}. Source: {suite.source}.\n")
        parts.append(
            "| entry | task | settings | metric | protocol | figures | data |\n|---|---|---|---|---|---|---|"
        )
        parts += [_row(entry) for entry in suite.entries]
        parts.append(_rest(suite))
    return "\n".join(parts)


def _row(entry: Entry) -> str:
    own = entry.conditions
    settings = [f"{own.num_fewshot}-shot"] if own.num_fewshot is not None else []
    settings += ["chat"] if own.apply_chat_template else []
    settings += [f"{key}={value}" for key, value in (own.decode or {}).items()]
    settings += [own.estimator] if own.estimator else []
    settings += [f"repeats={own.repeats}"] if own.repeats else []
    settings += [f"limit={own.limit}"] if own.limit else []
    figures = ", ".join(f"{name} {value:g}" for name, value in entry.published.items())
    metric = ",".join(filter(None, (entry.metric, entry.filter)))
    cells = (
        entry.entry, f"`{entry.task}`", ", ".join(settings), metric, entry.protocol or "", figures,
        entry.data or "",
    )  # fmt: skip
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _rest(suite: Suite) -> str:
    lines = [f"\nDeparture of all entries: {text}." for text in suite.departures]
    lines += [
        f"\nDeparture of {entry.entry}: {text}."
        for entry in suite.entries
        for text in entry.departures
    ]
    lines += [f"\nOut of reach: {one.benchmark} ({one.reason})." for one in suite.out_of_reach]
    return "\n".join(line.replace("..", ".") for line in lines) + "\n"


def page(text: str) -> str:
    """Returns the page with the table of today."""
    before, _, rest = text.partition(BEGIN)
    return before + BEGIN + table() + END + rest.partition(END)[2]


if __name__ == "__main__":
    PAGE.write_text(page(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
    print(PAGE, file=sys.stderr)
