"""Pieces of texts that can be encoded apart, so that shared parts of prompts are encoded once.

A text is cut only where a proof shows that the ids of its parts are those of the whole:

1. Added tokens, the normalizer and the pre-tokenizer see the text from left to right, and the model
   of a tokenizer (BPE) sees one pre-token at a time.
2. A cut lies between an ASCII letter or digit and a line end, or between '.', ':', '!', '?' and a
   space. No alternative of the regular expressions in `ALTERNATIVES` matches across such a place,
   and none but `\\s+(?!\\S)` looks beyond its match: it looks behind a run of white space, which
   never ends at a cut. So the matches left of a cut do not depend on what is right of it, one of
   them ends at the cut, and the search goes on from there as from the begin of a text.
3. NFC composes no space or line end with what is before it.
4. No added token contains such a place, or reads the text around it (`rstrip`, `single_word`).

A tokenizer for which one of these is not known is given whole texts.
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Mapping
from itertools import pairwise
from string import ascii_letters, digits
from typing import Any

CUT = re.compile(r"(?<=[A-Za-z0-9])(?=\n)|(?<=[.:!?])(?= )")
BEFORE_LINE_END = frozenset(ascii_letters + digits)
SENTENCE_END = re.compile(r"[.:!?](?= )")
LONG = 200  # characters of a piece that is cut at the ends of sentences too
GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
# Of GPT-2, GPT-4, Llama 3, Qwen 2 and their likes.
SUFFIXES = (
    r"'s|'t|'re|'ve|'m|'ll|'d",
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)",
    r"(?i:[sdmt]|ll|ve|re)",
    r"'(?i:[sdmt]|ll|ve|re)",
    r"(?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])",
)
LETTERS = (r" ?\p{L}+", r"[^\r\n\p{L}\p{N}]?\p{L}+", r"[^\r\n\p{L}\p{N}]?+\p{L}+")
NUMBERS = (r" ?\p{N}+", r"\p{N}", r"\p{N}+", r"\p{N}{1,3}")
OTHERS = (r" ?[^\s\p{L}\p{N}]+", r" ?[^\s\p{L}\p{N}]+[\r\n]*", r" ?[^\s\p{L}\p{N}]++[\r\n]*")
BLANKS = (r"\s*[\r\n]+", r"\s*[\r\n]", r"\s+(?!\S)", r"\s+")
ALTERNATIVES = frozenset([*SUFFIXES, *SUFFIXES[0].split("|"), *LETTERS, *NUMBERS, *OTHERS, *BLANKS])
# Steps that see one pre-token of an earlier step at a time.
INSIDE = ("ByteLevel", "Split", "Digits", "Punctuation")


def can_cut(tokenizer: Mapping[str, Any]) -> bool:
    """Returns whether texts can be cut at `CUT`, by a tokenizer.json."""
    return (
        _composes_nothing(tokenizer.get("normalizer"))
        and _splits_at_cuts(tokenizer.get("pre_tokenizer"))
        and _sees_one_word(tokenizer.get("model"))
        and all(map(_cuts_around, tokenizer.get("added_tokens") or ()))
    )


def pieces(text: str) -> list[str]:
    """Returns the pieces of a text, in order."""
    first, *lines = text.split("\n")  # ten times as fast as a regular expression
    found, part = [], first
    for line in lines:
        if part[-1:] in BEFORE_LINE_END:
            found += _sentences(part)
            part = "\n" + line
        else:
            part += "\n" + line
    return [*found, *_sentences(part)]


def _sentences(part: str) -> list[str]:
    """Returns a piece in pieces of its own if it is long."""
    if len(part) < LONG:
        return [part]
    ends = [0, *(match.end() for match in SENTENCE_END.finditer(part)), len(part)]
    return [part[begin:end] for begin, end in pairwise(ends)]


def _composes_nothing(normalizer: Any) -> bool:
    return normalizer is None or normalizer.get("type") == "NFC"


def _sees_one_word(model: Any) -> bool:
    return isinstance(model, Mapping) and model.get("type") == "BPE" and not model.get("dropout")


def _splits_at_cuts(pre_tokenizer: Any) -> bool:
    """Returns whether the first step splits at every cut, and the others only split further."""
    if not isinstance(pre_tokenizer, Mapping):
        return False
    steps = (
        pre_tokenizer["pretokenizers"]
        if pre_tokenizer.get("type") == "Sequence"
        else [pre_tokenizer]
    )
    if not steps or not all(
        step.get("type") in INSIDE and not step.get("add_prefix_space") for step in steps
    ):
        return False
    first = steps[0]
    if first["type"] == "ByteLevel":
        return bool(first.get("use_regex", True))
    pattern = first["pattern"].get("Regex") if first["type"] == "Split" else None
    return (
        pattern is not None
        and first.get("behavior") in ("Isolated", "Removed")
        and bool(first.get("invert")) == (first["behavior"] == "Removed")
        and _is_known(pattern)
    )


def _is_known(pattern: str) -> bool:
    """Returns whether a regular expression has known alternatives, and one for every character."""
    found = set(_alternatives(pattern))
    kinds = (LETTERS, NUMBERS, OTHERS, (r"\s+",))
    return found <= ALTERNATIVES and all(found & set(kind) for kind in kinds)


def _alternatives(pattern: str) -> list[str]:
    """Returns the alternatives of a regular expression, those in brackets whole."""
    found, depth, begin, i = [], 0, 0, 0
    while i < len(pattern):
        letter = pattern[i]
        i += letter == "\\"  # the letter behind it has no meaning here
        depth += (letter in "([") - (letter in ")]")
        i += 1
        if letter == "|" and depth == 0:
            found.append(pattern[begin : i - 1])
            begin = i
    return [*found, pattern[begin:]]


def _cuts_around(token: Mapping[str, Any]) -> bool:
    """Returns whether an added token neither contains a cut nor reads the text around it."""
    content = str(token["content"])
    whole = [content, unicodedata.normalize("NFC", content)]
    return not (token.get("rstrip") or token.get("single_word") or any(map(CUT.search, whole)))


def read_rules(backend: Any) -> dict[str, Any]:
    """Returns the tokenizer.json of a tokenizer of the `tokenizers` library."""
    rules: dict[str, Any] = json.loads(backend.to_str())
    return rules
