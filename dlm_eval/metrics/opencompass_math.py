"""MATH as OpenCompass scores it, in the copy that LLaDA's authors evaluate with (ML-GSAI/LLaDA
b7e6c35, opencompass/opencompass/datasets/math.py: `math_postprocess_v2`, `MATHEvaluator` v2).

Two answers are equal if one of three readings makes them the same text: `plain`, `plain` and then
`final`, or `final`. `final` is the normalisation of Lewkowycz et al. 2022 (arXiv 2206.14858,
appendix D.1) with OpenCompass's additions. Both work on text only. They are lists of replacements,
and their order matters.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from dlm_eval.metrics.opencompass import Answers, Docs

Rule = tuple[re.Pattern[str], str]


def _texts(*pairs: tuple[str, str]) -> tuple[Rule, ...]:
    return tuple((re.compile(re.escape(old)), new.replace("\\", r"\\")) for old, new in pairs)


def _removed(*texts: str) -> tuple[Rule, ...]:
    return _texts(*((text, "") for text in texts))


def _patterns(*pairs: tuple[str, str]) -> tuple[Rule, ...]:
    return tuple((re.compile(old), new) for old, new in pairs)


# -- plain: LaTeX without what does not change a value ---------------------------------------------

BEFORE_UNITS = (
    *_removed("\\!", "\\ "),
    *_texts(("\\\\", "\\"), ("\\\\", "\\"), ("tfrac", "frac"), ("dfrac", "frac")),
    *_removed("\\left", "\\right"),
)
UNITS = re.compile(r"\\text{.*?}$")  # kept if nothing else is there
BEHIND_UNITS = (
    *_removed("^{\\circ}", "^\\circ", "\\$", "$", "\\text", "x\\in", "\\%", "%"),
    *_texts((" .", " 0."), ("{.", "{0."), ("\\cdot", ""), ("infinity", "\\infty")),
)
BEHIND_INFINITY = (
    *_texts(("+\\inity", "\\infty"), ("and", ""), ("\\mathbf", "")),
    *_patterns((r"\\mbox{.*?}", "")),
)
WHOLE_NUMBERS = _patterns((r"(\d+)\.0+([^\d])", r"\1\2"), (r"(\d+)\.0+$", r"\1"))
SQUARE_ROOTS = _patterns((r"\\sqrt(\w+)", r"\\sqrt{\1}"))
QUOTIENT = re.compile(r"(.*)/(.*)", re.DOTALL)


def plain(text: str) -> str:
    """Returns an answer without units, signs of money and per cent, and spaces, with whole numbers
    without decimals, and with braces in roots and fractions.

    Raises:
        ValueError: it is a quotient a/b of something else than whole numbers.
    """
    text = _replaced(text.strip().replace("\n", "").rstrip("."), BEFORE_UNITS)
    text = UNITS.sub("", text).strip() or text
    text = _replaced(text, BEHIND_UNITS)
    if "\\infty" not in text:
        text = text.replace("inf", "\\infty")
    text = _replaced(text, BEHIND_INFINITY)
    if "j" in text and "i" not in text:  # the imaginary unit
        text = text.replace("j", "i")
    text = _replaced(text, WHOLE_NUMBERS)
    if text.startswith("."):
        text = f"0{text}"
    left, equals, right = text.partition("=")
    if equals and "=" not in right and len(left) <= 2:  # "x = 3"
        text = right
    text = _replaced(text, SQUARE_ROOTS).replace(" ", "")
    return _quotient(_fractions(text))


def _fractions(text: str) -> str:
    r"""Returns the text with braces around one-character parts of fractions: \frac12, \frac1{72}.
    The text is unchanged if a fraction has one character behind it or none."""
    first, *parts = text.split("\\frac")
    found = [first]
    for part in parts:
        if not part.startswith("{"):
            if len(part) < 2:
                return text
            above, below = part[0], part[1]
            part = f"{{{above}}}" + (part[1:] if below == "{" else f"{{{below}}}{part[2:]}")
        found.append(part)
    return "\\frac".join(found)


def _quotient(text: str) -> str:
    found = QUOTIENT.fullmatch(text) if text.count("/") == 1 else None
    if found is None:
        return text
    above, below = int(found[1]), int(found[2])
    return f"\\frac{{{above}}}{{{below}}}" if text == f"{above}/{below}" else text


# -- final: what a sentence says the answer is -----------------------------------------------------

FINAL = (
    *_texts(
        ("an ", ""), ("a ", ""), (".$", "$"), ("\\$", ""), ("\\ ", ""), (" ", ""),
        ("mbox", "text"), (",\\text{and}", ","), ("\\text{and}", ","), ("\\text{m}", "\\text{}"),
        ("\\le", "<"),
    ),
    *_removed(
        "square", "ways", "integers", "dollars", "mph", "inches", "ft", "hours", "km", "units",
        "\\ldots", "sue", "points", "feet", "minutes", "digits", "cents", "degrees", "cm", "gm",
        "pounds", "meters", "meals", "edges", "students", "childrentickets", "multiples",
        "\\text{s}", "\\text{.}", "\\text{\ns}", "\\text{}^2", "\\text{}^3", "\\text{\n}",
        "\\text{}", "\\mathrm{th}", "^\\circ", "^{\\circ}", "\\;", ",\\!", "{,}", '"', "\\dots",
        "\n", "\r", "\f",
    ),
    *_patterns(
        (r"\\text\{\((.*?)\)\}", r"\1"), (r"\\text\{(.*?)\}", r"\1"),
        (r"\\textbf\{(.*?)\}", r"\1"), (r"\\overline\{(.*?)\}", r"\1"), (r"\\boxed\{(.*)\}", r"\1"),
    ),
)  # fmt: skip
# The last match of each, one after the other, if there is one.
SAID = tuple(
    re.compile(pattern)
    for pattern in (r"finalansweris(.*)", r"answer?is:?(.*)", r"oxed\{(.*?)\}", r"\$(.*?)\$")
)
BRACES = (
    *_patterns((r"(frac)([^{])(.)", r"frac{\2}{\3}"), (r"(sqrt)([^{])", r"sqrt{\2}")),
    *_removed("$"),
)


def final(text: str) -> str:
    """Returns the answer in a sentence, without spaces, units and some LaTeX, and with numbers
    without commas."""
    text = _replaced(text, FINAL)
    for pattern in SAID:
        text = (pattern.findall(text) or [text])[-1]
    text = text.strip()
    if "rac" in text and "\\frac" not in text:
        text = text.replace("rac", "\\frac")
    text = _replaced(text, BRACES)
    digits = text.replace(",", "")
    return digits if digits.isdigit() else text


def _replaced(text: str, rules: Iterable[Rule]) -> str:
    for pattern, new in rules:
        text = pattern.sub(new, text)
    return text


# -- scores ----------------------------------------------------------------------------------------


def boxed(text: str) -> str | None:
    r"""Returns what stands in the last ``\boxed{...}``. None if there is none, its braces do not
    close, or the last box is an ``\fbox``."""
    start = text.rfind("\\boxed")
    if start < 0:
        return None
    depth = 0
    for place in range(start, len(text)):
        depth += {"{": 1, "}": -1}.get(text[place], 0)
        if text[place] == "}" and depth == 0:
            whole = text[start : place + 1]
            opening = "\\boxed{"
            return whole[len(opening) : -1] if whole.startswith(opening) else None
    return None


def answer(text: str) -> str:
    """Returns the answer in a solution: what is boxed, else the first sentence that says what the
    (final) answer is, else the first sentence."""
    found = boxed(text)
    inner = re.match(r"^\{(.*)\}$", found) if found else None
    if found := inner[1] if inner else found:
        return found
    sentences = text.split(".")
    said = (s for s in sentences if re.search("final answer|answer is", s.lower()))
    return final(next(said, sentences[0]))


def equal(written: str, right: str) -> bool:
    """Returns whether two answers are the same in one of the three readings."""
    readings: tuple[Callable[[str], str], ...] = (plain, lambda text: final(plain(text)), final)
    return written == right or any(_same(read, written, right) for read in readings)


def _same(read: Callable[[str], str], written: str, right: str) -> bool:
    try:
        return read(written) == read(right)
    except ValueError:
        return False


def verified(written: str, right: str) -> bool:
    """Returns whether math-verify finds the answer of a solution equal to `right`, as OpenCompass
    calls it (`MATHVerifyEvaluator` in the copy that SDAR's authors evaluate with, JetAstra/SDAR
    c2041a8). Boxed LaTeX is tried first, then other LaTeX; bare numbers are not read.
    """
    # imported here, since the package may be missing (extra math)
    from latex2sympy2_extended import NormalizationConfig
    from math_verify import LatexExtractionConfig, parse, verify

    gold = parse(f"${right}$", extraction_mode="first_match")
    if not gold:
        return False
    lenient = NormalizationConfig(
        basic_latex=True, units=True, malformed_operators=False, nits=False, boxed="all"
    )
    reading = LatexExtractionConfig(
        boxed_match_priority=0, normalization_config=lenient, try_extract_without_anchor=False
    )
    found = parse(written, extraction_config=[reading], extraction_mode="first_match")
    return bool(verify(found, gold))


def answers(resps: Answers, docs: Docs) -> list[list[str]]:
    """Returns the answer in each solution; a filter of task YAMLs."""
    return [[answer(text) for text in texts] for texts, _ in zip(resps, docs, strict=True)]


def results(doc: Mapping[str, Any], results: Sequence[str]) -> dict[str, float]:
    """Returns whether an answer equals the boxed one of MATH's solution.

    Raises:
        ValueError: The solution has none.
    """
    return {"exact_match": float(equal(results[0], _boxed_of(doc)))}


def verified_results(doc: Mapping[str, Any], results: Sequence[str]) -> dict[str, float]:
    """Returns whether math-verify finds the answer of a solution equal to the boxed one of MATH's.

    Raises:
        ValueError: MATH's solution has none.
    """
    return {"math_verify": float(verified(results[0], _boxed_of(doc)))}


def number_results(doc: Mapping[str, Any], results: Sequence[str]) -> dict[str, float]:
    """Returns whether an answer equals GSM8K's, compared as MATH's are (SDAR's configuration)."""
    right = doc["answer"].split("#### ")[1].replace(",", "")
    return {"exact_match": float(equal(results[0], right))}


def _boxed_of(doc: Mapping[str, Any]) -> str:
    found = boxed(doc["solution"])
    if found is None:
        raise ValueError("the document's solution has no boxed answer")
    return found
