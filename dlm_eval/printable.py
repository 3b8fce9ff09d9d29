"""Text from outside made safe to show: on one line, without control characters."""

from __future__ import annotations

import re

# Characters that control a terminal, or reorder or hide text: control characters (C0, DEL, C1),
# line and paragraph separators, bidirectional marks, shaping and annotation marks, tags, and halves
# of surrogate pairs.
CONTROL = re.compile(
    r"[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u206f\ufff9-\ufffb\ud800-\udfff\U000e0001-\U000e007f]"
)
SURROGATE = re.compile("[\ud800-\udfff]")
# Characters with a meaning in Markdown (end of a cell, code, HTML, link, emphasis). Names rarely
# contain them.
MARKDOWN = re.compile(r"[\\|`<>\[\]*~&]")
_ALL_MARKDOWN = re.compile(r"[\\`*_{}\[\]<>#|~&$^]")
# What becomes a link without any mark: addresses and mentions.
_LINK = re.compile(r"(?i)h(?=ttps?:)|f(?=tp:)|w(?=ww\.)|(?<!\w)@(?=\w)")
VISIBLE = {"\n": "⏎", "\t": "⇥"}


def printable(text: str) -> str:
    """Returns text on one line with every control character escaped: "⏎", "⇥", "\\u001b"."""
    return CONTROL.sub(_visible, text)


def printable_lines(text: str) -> str:
    """Returns text with all control characters except newlines escaped."""
    return CONTROL.sub(lambda match: "\n" if match[0] == "\n" else _visible(match), text)


def markdown(text: str) -> str:
    """Returns text on one line that Markdown shows as it is, without HTML, links and mentions."""
    return _LINK.sub(r"\g<0>&#8203;", _ALL_MARKDOWN.sub(r"\\\g<0>", printable(text)))


def decimals(value: float, sign: str = "") -> str:
    """Returns a score with four decimals, or with four digits if it is large; `sign` may be "+"."""
    # + 0.0: no "-0.0000"
    return f"{round(value, 4) + 0.0:{sign}.4f}" if abs(value) < 1e6 else f"{value:{sign}.4g}"


def shortened(text: str, most: int) -> str:
    """Returns text of at most `most` characters; a cut one ends in "…"."""
    return text if len(text) <= most else f"{text[: most - 1]}…"


def counted(number: int, noun: str, verb: str = "") -> str:
    """Returns "1 sample" or "2 samples"; with a plural verb ("are"), "1 sample is" ..."""
    one = {"are": "is", "have": "has", "were": "was", "do": "does"}.get(verb, f"{verb}s")
    words = f"{number} {noun}" if number == 1 else f"{number} {noun}s"
    return f"{words} {one if number == 1 else verb}" if verb else words


def valid_unicode(text: str) -> str:
    """Returns text with lone halves of surrogate pairs escaped, so that it has a UTF-8 form."""
    return text if is_text(text) else SURROGATE.sub(_spelled, text)


def is_text(text: str) -> bool:
    """Returns whether text has a UTF-8 form, which tokenizers and hashes need."""
    return text.isascii() or SURROGATE.search(text) is None


def _visible(match: re.Match[str]) -> str:
    return VISIBLE.get(match[0]) or _spelled(match)


def _spelled(match: re.Match[str]) -> str:
    number = ord(match[0])
    return f"\\u{number:04x}" if number <= 0xFFFF else f"\\U{number:08x}"
