"""Scores of documents that have a subject: over all documents, and the mean of the subjects."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
OPTION = re.compile(r"(?:(?P<letter>\([A-Z]\))|-) (?P<text>.*)")  # "(A) valid", or "- valid"


def right_letter(doc: dict[str, Any]) -> str:
    """Returns the letter of the right choice, from MMLU's column `answer` or BIG-bench's
    `multiple_choice_scores`."""
    scores = doc.get("multiple_choice_scores")
    return LETTERS[doc["answer"] if scores is None else list(scores).index(1)]


def letter_results(doc: dict[str, Any], results: Sequence[str]) -> dict[str, Any]:
    """Returns whether the written text is the letter of the right choice, up to outer spaces."""
    right = float(results[0].strip() == right_letter(doc))
    return {"acc": right, "acc_macro": (doc["subject"], right)}


def with_choices(docs: Any) -> Any:
    """Returns BIG-Bench Hard's documents with BIG-bench's columns `inputs`,
    `multiple_choice_targets` and `multiple_choice_scores`.

    Documents whose question does not end in a list of choices are left out.
    """
    found = docs.filter(lambda doc: _options(doc) is not None, load_from_cache_file=False)
    return found.map(_options, load_from_cache_file=False)


def _options(doc: dict[str, Any]) -> dict[str, Any] | None:
    question, found, listed = doc["input"].rpartition("\nOptions:\n")
    choices = [OPTION.match(line) for line in listed.splitlines()] if found else []
    if not choices or not all(choices):
        return None
    named = [(match["letter"] or match["text"], match["text"]) for match in choices if match]
    return {
        "inputs": question,
        "multiple_choice_targets": [text for _, text in named],
        "multiple_choice_scores": [int(name == doc["target"]) for name, _ in named],
    }


def macro(items: Sequence[tuple[str, float]]) -> float:
    """Returns the mean over subjects of their means, from (subject, score) of each document."""
    by_subject: dict[str, list[float]] = {}
    for subject, score in items:
        by_subject.setdefault(subject, []).append(score)
    means = [sum(scores) / len(scores) for scores in by_subject.values()]
    return sum(means) / len(means)
