"""The one form in which text from outside is shown: on one line, and nothing in it that a terminal obeys."""

from __future__ import annotations

import re

# What a terminal obeys or what reorders or hides text: control characters (C0, DEL, C1), line and paragraph
# separators, marks of the reading direction, shaping and annotation marks, tags, and halves of a surrogate pair.
CONTROL = re.compile(
    r"[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u206f\ufff9-\ufffb\ud800-\udfff\U000e0001-\U000e007f]"
)
SURROGATE = re.compile("[\ud800-\udfff]")
VISIBLE = {"\n": "⏎", "\t": "⇥"}


def printable(text: str) -> str:
    """Returns text on one line in which every control character is spelled out: "⏎", "⇥", "\\u001b"."""
    return CONTROL.sub(_visible, text)


def printable_lines(text: str) -> str:
    """Returns text in which all control characters but "\\n" are spelled out."""
    return CONTROL.sub(lambda match: "\n" if match[0] == "\n" else _visible(match), text)


def counted(number: int, noun: str, verb: str = "") -> str:
    """Returns "1 sample", "2 samples"; with a verb of the plural ("are", "have", "were" or a regular one), "1 sample is", "2 samples are"."""
    one = {"are": "is", "have": "has", "were": "was", "do": "does"}.get(verb, f"{verb}s")
    words = f"{number} {noun}" if number == 1 else f"{number} {noun}s"
    return f"{words} {one if number == 1 else verb}" if verb else words


def valid_unicode(text: str) -> str:
    """Returns text that has a UTF-8 form: a lone half of a surrogate pair is spelled out."""
    return text if is_text(text) else SURROGATE.sub(_spelled, text)


def is_text(text: str) -> bool:
    """Returns whether text has a UTF-8 form, which no lone half of a surrogate pair has: tokenizers and hashes raise on it."""
    return text.isascii() or SURROGATE.search(text) is None


def _visible(match: re.Match[str]) -> str:
    return VISIBLE.get(match[0]) or _spelled(match)


def _spelled(match: re.Match[str]) -> str:
    number = ord(match[0])
    return f"\\u{number:04x}" if number <= 0xFFFF else f"\\U{number:08x}"
