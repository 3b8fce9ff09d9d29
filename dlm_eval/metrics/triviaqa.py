"""TriviaQA, closed book: three ways in which papers count an answer as right.

* ``exact_match``: lm-eval's rule: equal to an alias, case and punctuation aside.
* ``alias_match``: DiffuLLaMA's (arXiv 2410.17891): a normalised alias stands anywhere in the normalised answer.
* ``f1``: overlap of tokens with the best alias (Rajpurkar et al. 2016, section 6.1).
"""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Sequence
from typing import Any

ARTICLES = re.compile(r"\b(?:a|an|the)\b")
NO_PUNCTUATION = str.maketrans("", "", string.punctuation)


def normalize(text: str) -> str:
    """Returns the text in lower case without punctuation, articles and surplus spaces (SQuAD's normalisation)."""
    return " ".join(ARTICLES.sub(" ", text.lower().translate(NO_PUNCTUATION)).split())


def aliases(doc: dict[str, Any]) -> list[str]:
    """Returns the normalised aliases that are not empty: the data set's own column where it has one."""
    answer = doc["answer"]
    found = answer.get("normalized_aliases") or [normalize(alias) for alias in answer["aliases"]]
    return [alias for alias in found if alias]  # an empty one would stand in every answer


def alias_match(answer: str, normalized_aliases: Sequence[str]) -> float:
    """Returns 1.0 where some alias is the answer or stands in it as a substring ("art" stands in "party")."""
    said = normalize(answer)
    return float(any(alias in said for alias in normalized_aliases))


def token_f1(answer: str, alias: str) -> float:
    """Returns the harmonic mean of precision and recall of the normalised tokens, a fraction."""
    said, wanted = normalize(answer).split(), normalize(alias).split()
    common = sum((Counter(said) & Counter(wanted)).values())
    return 2 * common / (len(said) + len(wanted)) if common else 0.0


def exact_match(answer: str, aliases: Sequence[str]) -> float:
    """Returns 1.0 where the answer is an alias, case and punctuation aside.

    The rule of lm-eval's ``exact_match``, whose arrays of fixed width cut a text that grows in lower case ("İdris").
    """
    said = answer.strip().lower().translate(NO_PUNCTUATION)
    return float(any(said == alias.lower().translate(NO_PUNCTUATION) for alias in aliases))


def process_results(doc: dict[str, Any], results: Sequence[str]) -> dict[str, float]:
    """Returns the three metrics of one answer, fractions."""
    answer, wanted = results[0], aliases(doc)
    return {
        "exact_match": exact_match(answer, doc["answer"]["aliases"]),
        "alias_match": alias_match(answer, wanted),
        "f1": max((token_f1(answer, alias) for alias in wanted), default=0.0),
    }


def first_2000(docs: Any) -> Any:
    """Returns the questions that the DiffuLLaMA paper uses: the first two thousand."""
    return docs.select(range(min(2000, len(docs))))
