"""What tells the rows of a board apart, as their names."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from dlm_eval.reports.board.configurations import DISTINGUISHING, Configuration

DIGESTS = ("configuration", "scoring", "fingerprint", "setup")
OF_RUNS = ("documents", "date", "source")
MOST_NAMES = 200  # of settings that name rows


def differences(rows: Sequence[Configuration], notes: Sequence[Sequence[str]] = ()) -> list[str]:
    """Returns for each row what tells it from the other rows of its model.

    That is its label, if it has one; then the settings of the runs that differ, then other columns,
    as few as are needed.

    Args:
        rows: all rows of a board.
        notes: words that each row has in any case.
    """
    words = [[row.label] if row.label else [] for row in rows]

    def add(features: Iterable[Feature]) -> None:
        for feature in features:
            groups: dict[tuple[object, ...], list[int]] = {}
            for number, row in enumerate(rows):
                groups.setdefault((row.who, tuple(words[number])), []).append(number)
            for alike in (group for group in groups.values() if len(group) > 1):
                texts = feature([rows[number] for number in alike])
                if len(set(texts)) > 1:
                    for number, text in zip(alike, texts, strict=True):
                        words[number] += [text] if text else []

    names = dict.fromkeys(
        item.partition("=")[0] for row in rows for text in row.options for item in text.split(",")
    )
    add(_option(name) for name in list(names)[:MOST_NAMES] if name)
    for own, more in zip(words, notes, strict=False):
        own += more
    digests = (*DIGESTS, *OF_RUNS)
    add(_column(name, whole=True) for name in DISTINGUISHING if name not in digests)
    add(_column(name, whole=False) for name in DISTINGUISHING)
    return [" ".join(each) for each in words]


Feature = Callable[[Sequence[Configuration]], list[str]]


def _option(name: str) -> Feature:
    def texts(rows: Sequence[Configuration]) -> list[str]:
        return [
            " ".join(
                item
                for text in row.options
                for item in text.split(",")
                if item.partition("=")[0] == name
            )
            for row in rows
        ]

    return texts


def _column(name: str, whole: bool) -> Feature:
    """Returns the feature "column=value" of tasks in which rows differ.

    Args:
        name: a column.
        whole: whether only values count that are the same in all these tasks of a row. If not, the
            first task's is taken.
    """

    def texts(rows: Sequence[Configuration]) -> list[str]:
        shared = [key for key in rows[0].scores if all(key in row.scores for row in rows)]
        found = [
            [",".join(dict.fromkeys(r.text(name) for r in row.scores[key].rows)) for row in rows]
            for key in shared
        ]
        found = [column for column in found if len(set(column)) > 1]
        if not found or (whole and any(len(set(each)) > 1 for each in zip(*found, strict=True))):
            return [""] * len(rows)
        short = 12 if name in DIGESTS else None
        return [f"{name}={text[:short]}" if text else "" for text in found[0]]

    return texts
