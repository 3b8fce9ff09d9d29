"""What each request cost and what became of it: the rows that a result's `cost` and its samples files are made of."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from lm_eval.api.instance import Instance

from dlm_eval.canvas import Score
from dlm_eval.noise import digest


@dataclass
class Record:
    """What one request cost and what became of it; `cost` in results is made of these."""

    task: str
    doc_id: int | None
    idx: int
    repeat: int
    doc: str
    kind: str
    rows: int = 0
    tokens: int = 0
    seconds: float = 0.0
    score: Score | None = None
    budget: int = 0
    truncated: int = 0
    error: str | None = None
    details: dict[str, Any] = field(default_factory=dict)


def records_of(requests: Iterable[Instance], kind: str) -> Iterable[Record]:
    """Yields a fresh record per request. lm-eval repeats a request by listing the same object several times in a row."""
    seen: Counter[int] = Counter()
    for request in requests:
        repeat = seen[id(request)]
        seen[id(request)] += 1
        yield Record(
            request.task_name or "", request.doc_id, request.idx, repeat, doc_key(request.doc or request.args), kind
        )


def doc_key(doc: Any) -> str:
    """Returns the identity of a document: its content, so that --limit, --samples and order cannot change its noise."""
    try:
        return digest(doc)
    except (TypeError, ValueError, RecursionError):  # it holds what JSON does not: keys of several types, itself
        from dlm_eval.harness.saving import plain

        return digest(plain(doc))
