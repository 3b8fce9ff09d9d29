"""`--shard I/N`: the share of each task's documents that one of N runs answers."""

from __future__ import annotations

import re
from dataclasses import dataclass

from dlm_eval.errors import UserError

FORM = re.compile(r"([0-9]{1,6})/([0-9]{1,6})")


@dataclass(frozen=True)
class Shard:
    """One of `count` shards, numbered from 1.

    The shard of a document depends only on its task and on its number in the task's data, and not
    on --limit, --samples or the order of tasks. Tasks begin at different shards. Otherwise the
    first documents of many small tasks would all be in one shard.
    """

    number: int
    count: int

    @classmethod
    def parse(cls, text: str) -> Shard:
        """Returns the shard from the option's text.

        Raises:
            UserError: it is not I/N with 1 <= I <= N.
        """
        match = FORM.fullmatch(text.strip())
        if match is None or not 1 <= int(match[1]) <= int(match[2]):
            raise UserError(
                f"--shard '{text}' is not allowed; it must be I/N with I from 1 to N (2/8: the "
                "second of 8)"
            )
        return cls(int(match[1]), int(match[2]))

    def __str__(self) -> str:
        return f"{self.number}/{self.count}"

    @property
    def folder(self) -> str:
        """Name of the folder of the shard's files."""
        return f"shard-{self.number}-of-{self.count}"

    def has(self, task: str, document: int | None) -> bool:
        """Returns whether a document belongs to this shard."""
        return shard_of(task, document, self.count) == self.number


def shard_of(task: str, document: int | None, count: int) -> int:
    """Returns the number (1 to `count`) of the shard that answers a document of a task."""
    from dlm_eval.rng import digest  # numpy, which `dlm-eval --help` does without

    return (int(digest(task)[:8], 16) + (document or 0)) % count + 1
