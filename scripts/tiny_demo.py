"""The rows of the five `demo` tasks, from held-out documents of tiny_text.py, in the columns of their benchmark families.

    python scripts/tiny_demo.py task_configs/demo     # writes demo_<task>.jsonl

Texts are cut where tokens are: a space belongs to the word after it, a newline to the line it ends.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tiny_text import CLASSES, Document, held_out_documents


def choice_row(document: Document, rng: random.Random) -> dict[str, Any]:
    """Which last word: the true one, or one of three others of its kind (people, things, places ...)."""
    context, word = document.text.removesuffix(".").rsplit(" ", 1)
    kind = next(words for words in CLASSES.values() if word in words)
    choices = [word, *rng.sample([other for other in kind if other != word], 3)]
    rng.shuffle(choices)
    return {
        "context": context,
        "choices": [" " + choice for choice in choices],
        "answer": choices.index(word),
    }


def last_word_row(document: Document, rng: random.Random) -> dict[str, Any]:
    """A story without its full stop, split before its last word."""
    text = document.text.removesuffix(".")
    context, word = text.rsplit(" ", 1)
    return {"text": text, "context": context, "word": word}


def word_problem_row(document: Document, rng: random.Random) -> dict[str, Any]:
    """Question and worked answer, as GSM8K names them."""
    return {"question": document.parts["question"], "answer": document.parts["answer"]}


def story_infill_row(document: Document, rng: random.Random) -> dict[str, Any]:
    """One of the three middle sentences is missing; a space belongs to the word after it."""
    sentences, hole = document.parts["sentences"], rng.randint(1, 3)
    return {
        "prefix": " ".join(sentences[:hole]),
        "middle": " " + sentences[hole],
        "suffix": " " + " ".join(sentences[hole + 1 :]),
    }


def code_infill_row(document: Document, rng: random.Random) -> dict[str, Any]:
    """One body line is missing, never the last. Running the code gives its tests."""
    lines, name = document.parts["lines"], document.parts["entry_point"]
    hole = rng.randint(2, len(lines) - 2)
    space: dict[str, Any] = {}
    exec(document.text, space)  # our own template, just built
    checks = [
        f"    assert candidate{_call(args)} == {space[name](*map(_thaw, args))!r}\n"
        for args in document.parts["inputs"]
    ]
    return {
        "task_id": f"demo/{hashlib.sha256(document.text.encode()).hexdigest()[:8]}/L{hole}",
        "prompt": "".join(lines[:hole]),
        "suffix": "".join(lines[hole + 1 :]),
        "canonical_solution": lines[hole],
        "test": "def check(candidate):\n" + "".join(checks),
        "entry_point": name,
    }


def _thaw(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _call(args: tuple[Any, ...]) -> str:
    return "(" + ", ".join(repr(_thaw(value)) for value in args) + ")"


DEMO: dict[str, tuple[str, int, Callable[[Document, random.Random], dict[str, Any]]]] = {
    "choice": ("story", 100, choice_row),
    "last_word": ("story", 100, last_word_row),
    "word_problem": ("problem", 60, word_problem_row),
    "story_infill": ("story", 60, story_infill_row),
    "code_infill": ("function", 30, code_infill_row),
}


def demo_rows(task: str, seed: int = 0) -> list[dict[str, Any]]:
    """The held-out documents of one demo task, in the columns of its benchmark family."""
    family, count, make = DEMO[task]
    rng, documents = (
        random.Random(f"{task}-{seed}"),
        held_out_documents(family, sorted(DEMO).index(task) + 100 * seed),
    )
    return [make(next(documents), rng) for _ in range(count)]


def main() -> None:
    """Writes demo_<task>.jsonl into the folder named."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    folder: Path = parser.parse_args().folder
    folder.mkdir(parents=True, exist_ok=True)
    for task in DEMO:
        rows = "".join(json.dumps(row) + "\n" for row in demo_rows(task))
        (folder / f"demo_{task}.jsonl").write_text(rows, encoding="utf-8")


if __name__ == "__main__":
    main()
