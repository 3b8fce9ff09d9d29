"""A trace as one self-contained web page.

The page has no network access and no inline handlers; its content security policy forbids all other
scripts.
"""

from __future__ import annotations

from dlm_eval.printable import printable, printable_lines
from dlm_eval.reports.pages.web import render
from dlm_eval.reports.trace.recording import Recording


def page(recording: Recording) -> str:
    """Returns the page as HTML."""
    title = printable(f"{recording.model}: {recording.strategy}")
    return render(
        "trace.html",
        ("house.css", "trace.css"),
        ("house.js", "trace.js"),
        {"title": title, "text": printable_lines(recording.text)},
        recording.plain(),
    )
