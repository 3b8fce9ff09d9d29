"""A recording as one self-contained web page, without network access or inline handlers.

Its content security policy forbids all other scripts.
"""

from __future__ import annotations

import base64
import hashlib
import html
import json
import re
from pathlib import Path
from typing import Any

from dlm_eval.printable import printable, printable_lines
from dlm_eval.reports.recording import Recording

HERE = Path(__file__).parent
# Characters that can end a script element or, in old browsers, a JavaScript line.
UNSAFE = re.compile("[<>&\u2028\u2029]")


def page(recording: Recording) -> str:
    """Returns the page as HTML."""
    style, script = ((HERE / name).read_text(encoding="utf-8") for name in ("trace.css", "trace.js"))
    values = {
        "title": _text(printable(f"{recording.model}: {recording.settings.strategy.name}")),
        "policy": f"default-src 'none'; style-src '{_hash(style)}'; script-src '{_hash(script)}'; base-uri 'none'; form-action 'none'",
        "style": style,
        "script": script,
        "text": _text(printable_lines(recording.text)),
        "data": safe_json(recording.plain()),
    }
    template = (HERE / "trace.html").read_text(encoding="utf-8")
    # One pass, so that inserted text is not searched for placeholders.
    return re.sub(r"\{\{(\w+)\}\}", lambda match: values[match[1]], template)


def safe_json(data: Any) -> str:
    """Returns JSON that is safe inside a script element."""
    text = json.dumps(data, ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    return UNSAFE.sub(lambda match: f"\\u{ord(match[0]):04x}", text)


def _text(text: str) -> str:
    return html.escape(text.encode("utf-8", "replace").decode("utf-8"))


def _hash(source: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(source.encode()).digest()).decode()
