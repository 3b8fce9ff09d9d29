"""Signs that generated text has collapsed: repetition, another script than the task's, no end.

They are counted per run, to explain a score; they are no metric.
"""

from __future__ import annotations

import unicodedata
from functools import lru_cache

from dlm_eval.reports.files.runs import TaskRun
from dlm_eval.reports.files.samples_file import Document, Texts

FLAGS = ("repetition", "other script", "length limit")
MOST_TEXT = 20_000  # characters of an answer that are read
GRAM = 4  # words
FEWEST_GRAMS = 12
DISTINCT = 0.5  # a text with a smaller share of distinct word sequences repeats itself
LONGEST_RUN = 30  # times the same character
FEWEST_LETTERS = 5
FOREIGN = 0.1  # share of letters


def counts(task: TaskRun) -> dict[str, int]:
    """Returns flag -> number of documents with it; empty if the run has no generated texts."""
    documents = (task.documents or {}).values() if task.generates else ()
    found = dict.fromkeys(FLAGS, 0)
    any_text = False
    for document in documents:
        if document.texts is None:
            continue
        any_text = True
        answers = [answer[:MOST_TEXT] for answer in document.texts.answers]
        found["repetition"] += any(map(repeats_itself, answers))
        found["other script"] += any(has_other_script(answer, document.texts) for answer in answers)
        found["length limit"] += document.full and not task.infill and _is_full(task, document)
    return found if any_text else {}


def _is_full(task: TaskRun, document: Document) -> bool:
    """Returns whether the visible text has as many tokens as the task allows."""
    length = task.settings.get("gen_length", "")
    answers = len(document.texts.answers) if document.texts else 1
    return length.isdecimal() and (document.tokens or 0) >= int(length) * answers


def repeats_itself(text: str) -> bool:
    """Returns whether fewer than half of the text's word sequences are distinct, or one character
    is repeated `LONGEST_RUN` times.
    """
    words = text.split()
    grams = [tuple(words[i : i + GRAM]) for i in range(len(words) - GRAM + 1)]
    if len(grams) >= FEWEST_GRAMS and len(set(grams)) < DISTINCT * len(grams):
        return True
    run, previous = 0, ""
    for character in text:
        run = run + 1 if character == previous and not character.isspace() else 1
        previous = character
        if run >= LONGEST_RUN and character.isalnum():
            return True
    return False


def has_other_script(answer: str, texts: Texts) -> bool:
    """Returns whether a tenth of the answer's letters are of scripts that neither prompt nor target
    uses.
    """
    letters = [_script(character) for character in answer if character.isalpha()]
    known = {_script(c) for c in (texts.prompt[-MOST_TEXT:] + texts.target) if c.isalpha()}
    if not known or not letters:
        return False
    foreign = sum(script not in known for script in letters)
    return foreign >= FEWEST_LETTERS and foreign >= FOREIGN * len(letters)


@lru_cache(maxsize=20_000)
def _script(letter: str) -> str:
    """Returns the first word of the letter's Unicode name: LATIN, CJK, CYRILLIC ..."""
    return unicodedata.name(letter, "?").split()[0]
