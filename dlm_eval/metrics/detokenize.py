"""Plain text from the tokenised texts of benchmarks for language modelling.

The rules are those of the data loaders with which SEDD, MDLM and BD3LM evaluate
(louaaron/Score-Entropy-Discrete-Diffusion 0605786, data.py:25-96; kuleshov-group/mdlm c112c52,
dataloader.py:24-103; kuleshov-group/bd3lms 1c3e8f4 has the same), so perplexities are of the same
texts. A rule list is applied in its order. One rule of theirs is left out: its pattern
(dataloader.py:27) needs slashes around an apostrophe, so it never matches.

Also here: the rows of a data set, where the authors load it in another form.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

Rule = tuple[str | re.Pattern[str], str]  # what is replaced, and by what


def replacing(rules: Sequence[Rule]) -> Callable[[str], str]:
    """Returns a function that applies rules one after the other."""

    def replaced(text: str) -> str:
        for old, new in rules:
            text = text.replace(old, new) if isinstance(old, str) else old.sub(new, text)
        return text

    return replaced


def _joined(marks: str, before: str = " ", after: str = " ") -> list[Rule]:
    """Returns rules that pull each mark to the word before it."""
    return [(f"{before}{mark}{after}", f"{mark}{after}") for mark in marks]


def _inside(*pairs: tuple[str, str]) -> list[Rule]:
    """Returns rules that remove white space inside brackets and quotation marks."""
    return [
        (re.compile(rf"{re.escape(a)}\s*([^{re.escape(b)}]*?)\s*{re.escape(b)}"), rf"{a}\1{b}")
        for a, b in pairs
    ]


# dataloader.py:24-54
WIKITEXT = replacing(
    [
        ("s '", "s'"),
        *((f" @{mark}@ ", mark) for mark in "-,."),
        *_joined(":;.!?,"),
        *_inside(("(", ")"), ("[", "]"), ("{", "}"), ('"', '"'), ("'", "'")),
        *(("= " * count + "=", "=" * (count + 1)) for count in (3, 2, 1)),
        (" ° ", "°"),
        (" \n", "\n"),
        ("\n ", "\n"),
        (" N ", " 1 "),
        (" 's", "'s"),
    ]
)

# dataloader.py:57-68; ten times, since neighbours share a space
PTB = replacing(
    [
        (" 's", "'s"),
        ("s ' ", "s' "),
        (" n't", "n't"),
        (" \n ", "\n"),
        ("\\/", "/"),
        *[(" N ", " 1 ")] * 10,
        ("$ 1", "$1"),
        ("# 1", "#1"),
        ("<unk>", "?"),
    ]
)

# dataloader.py:71-91
LM1B = replacing(
    [
        *((f"{name} : / / ", f"{name}://") for name in ("http", "https")),
        (re.compile(r" '(\w+)"), r"'\1"),
        (re.compile(r" (\w+) \. "), r" \1. "),
        (re.compile(r" (\w+) \.$"), r" \1."),
        (" ? ", "? "),
        (re.compile(r" \?$"), "?"),
        (" ! ", "! "),
        (re.compile(r" !$"), "!"),
        *_joined(",:;"),
        (" / ", "/"),
        *((re.compile(rf"{mark} ([^{mark}]+) {mark}"), rf"{mark}\1{mark}") for mark in "\"'"),
        (re.compile(r"\( ([^()]+) \)"), r"(\1)"),
        (re.compile(r"\[ ([^\[\]]+) \]"), r"[\1]"),
        *((f"{sign} ", sign) for sign in "$£"),
    ]
)

LAMBADA = replacing([("“", '"'), ("”", '"')])  # dataloader.py:94-97


def wikitext(doc: Mapping[str, Any]) -> str:
    """Returns a line of WikiText as plain text."""
    return WIKITEXT(doc["text"])


def ptb(doc: Mapping[str, Any]) -> str:
    """Returns a sentence of the Penn Treebank as plain text."""
    return PTB(doc["sentence"])


def lm1b(doc: Mapping[str, Any]) -> str:
    """Returns a sentence of the One Billion Word benchmark as plain text."""
    return LM1B(doc["text"])


def lambada(doc: Mapping[str, Any]) -> str:
    """Returns a passage with straight quotation marks, behind a line break (dataloader.py:94-97)."""
    return "\n" + LAMBADA(doc["text"]).strip()


def paper(doc: Mapping[str, Any]) -> str:
    """Returns a scientific article as plain text, by the rules of two sets (dataloader.py:100-103)."""
    return LM1B(WIKITEXT(doc["article"]))


# -- rows ------------------------------------------------------------------------------------------


def wikitext_lines(pages: Any) -> Any:
    """Returns the lines of WikiText, as its own data set has them, from its pages.

    A line keeps its line break, and an empty one is "". The pages are the file's, cut before each
    title; the break of the line before a title is at no page.
    """
    import datasets

    whole = " \n" + "\n".join(pages["page"])
    lines = whole.splitlines(keepends=True)
    return datasets.Dataset.from_dict({"text": [line if line.strip() else "" for line in lines]})


def last_100000(docs: Any) -> Any:
    """Returns the last hundred thousand documents: OpenWebText's validation set
    (dataloader.py:350-354)."""
    return docs.select(range(max(0, len(docs) - 100_000), len(docs)))


def chunks_of_256(docs: Any) -> Any:
    """Returns texts cut into chunks of 256 characters, without the rest (dataloader.py:180-274)."""
    import datasets

    texts = [text[at : at + 256] for text in docs["text"] for at in range(0, len(text) - 255, 256)]
    return datasets.Dataset.from_dict({"text": texts})


def bits_results(doc: Mapping[str, Any], results: Sequence[float]) -> dict[str, Any]:
    """Returns the log-likelihood (nats) of a text and its number of characters."""
    return {"bits_per_character": (results[0], len(doc["text"]))}
