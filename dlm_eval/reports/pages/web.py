"""Web pages of reports: one template engine, one style, one policy.

A page is one file. Its style and script are in it, and a content security policy names their
hashes, so that no other script runs, and nothing is loaded from elsewhere. Jinja escapes all values
of a template. Data for the script is JSON in an element that is not executed (`safe_json`).
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape

from dlm_eval.printable import valid_unicode

TEMPLATES = Path(__file__).parent / "templates"
# Characters that can end a script element or, in old browsers, a JavaScript line.
UNSAFE = re.compile("[<>&\u2028\u2029]")


def render(
    template: str,
    styles: Sequence[str],
    scripts: Sequence[str],
    values: dict[str, Any],
    data: Any = None,
    follows: bool = False,
) -> str:
    """Returns a page as HTML.

    Args:
        template, styles, scripts: names of files in `templates`.
        values: names of the template -> values.
        data: what the script reads from the element `data`.
        follows: whether the script may ask the server that the page comes from.
    """
    style, script = ("\n".join(map(_file, names)) for names in (styles, scripts))
    policy = [
        "default-src 'none'",
        f"style-src '{_hash(style)}'",
        f"script-src '{_hash(script)}'",
        *(["connect-src 'self'"] if follows else []),
        "base-uri 'none'",
        "form-action 'none'",
    ]
    page = _environment().get_template(template)
    return valid_unicode(
        page.render(
            values,
            policy=Markup("; ".join(policy)),
            style=Markup(style),
            script=Markup(script),
            data=Markup(safe_json(data)),
        )
    )


def safe_json(data: Any) -> str:
    """Returns JSON that is safe inside a script element."""
    text = json.dumps(data, ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    return UNSAFE.sub(lambda match: f"\\u{ord(match[0]):04x}", text)


@cache
def _environment() -> Environment:
    environment = Environment(
        autoescape=True,
        loader=FileSystemLoader(TEMPLATES),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters["soft"] = _soft
    return environment


def _soft(name: str) -> Markup:
    """Returns a name that may wrap after `_`, `-`, `=`, `/` and commas."""
    return Markup(re.sub(r"([_=/,-])(?=\w)", r"\1<wbr>", str(escape(name))))


@cache
def _file(name: str) -> str:
    return (TEMPLATES / name).read_text(encoding="utf-8")


def _hash(source: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(source.encode()).digest()).decode()
