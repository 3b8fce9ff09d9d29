"""CSV text that is safe for spreadsheets and programs."""

from __future__ import annotations

import csv
import io
import math
import re
from collections.abc import Iterable, Sequence

from dlm_eval.printable import CONTROL

# Characters that spreadsheets and text cleaners skip at the beginning of a cell: all kinds of
# spaces, quotes, soft hyphens, joiners, fillers, byte order marks, variation selectors, tags.
SKIPPED = (
    r"\s\"'`\u2018-\u201f\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f\u2028-\u202f\u205f-\u206f\u2800\u3164"
    r"\ufe00-\ufe0f\ufeff\uff02\uff07\uffa0\ufff0-\ufffb\U000e0000-\U000e0fff"
)
# A spreadsheet evaluates a cell as a formula if it begins with one of these characters, also in
# full-width and small forms. If ";" separates columns, a ";" inside a cell begins another cell.
FORMULA = re.compile(
    rf"(^|;)([{SKIPPED}]*[=+\-@\uff1d\uff0b\uff0d\uff20\ufe66\ufe62\ufe63\ufe6b\u2212])"
)


def safe_text(text: str) -> str:
    """Returns untrusted text as one line that no spreadsheet reads as a formula.

    Control characters become spaces. An apostrophe is inserted before characters that would begin a
    formula. A leading apostrophe of the text is doubled, so that removing one restores the text.
    """
    line = CONTROL.sub(" ", text)
    safe = FORMULA.sub(r"\1'\2", line)
    return "'" + safe if line.startswith("'") and not FORMULA.match(line) else safe


def cell(value: object, missing: str = "") -> str:
    """Returns a value as the text of a cell. Floats keep all digits; text is made safe."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return missing
    if isinstance(value, bool):
        return "true" if value else "false"
    return safe_text(value) if isinstance(value, str) else repr(value)


def csv_text(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Returns a table of cells (from `cell`) as CSV text, with RFC 4180 quoting and "\\n"."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow([safe_text(column) for column in columns])
    writer.writerows(rows)
    return buffer.getvalue()
