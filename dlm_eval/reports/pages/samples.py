"""The page of one task of one run: every document with its texts, score, cost and trace.

The page holds the scores of the task's other runs on the same documents too, so that it can show
the documents that one run lost against another. Texts are left out as `SamplesPage.texts` says.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from dlm_eval.errors import UserError
from dlm_eval.printable import counted, printable, valid_unicode
from dlm_eval.redaction import redact_text, redact_values
from dlm_eval.reports.files.json_values import listed
from dlm_eval.reports.files.measures import document_scores, measures_of
from dlm_eval.reports.files.row import Row
from dlm_eval.reports.files.samples_file import (
    Document,
    documents_of,
    numbered_samples,
    read_samples,
)
from dlm_eval.reports.pages.index import short_source, shown_name
from dlm_eval.reports.pages.site import ALL, NONE, SamplesPage, Site
from dlm_eval.reports.pages.web import render

MOST_DOCUMENTS = 20_000  # of a page
MOST_PEERS = 60  # other runs whose scores a page holds
LONGEST_TEXT = 20_000  # characters of a text
MOST_CHARACTERS = 24_000_000  # of all texts of a page
MOST_TOKENS = 20_000  # of a trajectory
BINS = 24  # of the histogram
WIDTH, HEIGHT, LEFT, BOTTOM = 640, 170, 40, 36  # of the histogram, in SVG units
GENERATED = "generate_until"


def samples_page(site: Site, page: SamplesPage, follows: bool = False) -> str:
    """Returns the page as HTML.

    Raises:
        UserError: its samples file cannot be read.
    """
    try:
        documents, details = _read(page)
    except (OSError, ValueError, RecursionError, MemoryError) as reason:
        raise UserError(f"samples file '{page.samples}' cannot be read: {reason}") from reason
    shown = list(documents.items())[:MOST_DOCUMENTS]
    texts, scores = _Texts(page.texts), document_scores(page.row, documents)
    rows = [
        _document(document, details.get(_place(document), {}), scores.get(key), texts)
        for key, document in shown
    ]
    traces = {
        str(number): [_shown_trace(trace, texts) for trace in own]
        for number, (_, document) in enumerate(shown)
        if (own := details.get(_place(document), {}).get("traces"))
    }
    measure = measures_of((page.row,), documents).get(page.row.measure)
    nats = measure is not None and measure.scale == "nats"
    peers = site.peers(page)[:MOST_PEERS]
    template = {
        **_names(page, peers),
        "facts": _facts(page, len(documents), nats),
        "notes": _notes(page, len(documents), texts),
        "histogram": _histogram(rows, _top(rows)),
        "follows": follows,
    }
    data = {
        "documents": rows,
        "top": _top(rows),
        "sign": 1 if nats else page.row.sign,
        "generated": page.kind == GENERATED,
        "texts": page.texts,
        "peers": [_peer(peer, shown) for peer in peers],
    }
    return render(
        "samples.html",
        ("house.css", "results.css", "samples.css"),
        ("house.js", "follow.js", "samples.js"),
        redact_values(template),
        {**redact_values(data), "traces": traces},
        follows,
    )


def _names(page: SamplesPage, peers: Iterable[SamplesPage]) -> dict[str, Any]:
    """Returns the values of the template that name things."""
    return {
        "title": shown_name(f"{page.task}: {page.label}"),
        "label": shown_name(page.label),
        "task": shown_name(page.task),
        "source": printable(short_source(page.row.source)),
        "box": (WIDTH, HEIGHT),
        "peers": [(peer.id, shown_name(peer.label)) for peer in peers],
    }


def _top(rows: Iterable[Mapping[str, Any]]) -> float | None:
    """Returns the score of a right document, 1 or 100, if all are right or wrong; else None."""
    values = {row["v"] for row in rows if row["v"] is not None}
    return next((top for top in (1.0, 100.0) if values <= {0.0, top}), None)


def _facts(page: SamplesPage, count: int, nats: bool) -> list[str]:
    row = page.row
    facts = [f"{row.metric} {row.value:.4g}", counted(count, "document"), *row.decoding_notes]
    if nats:
        facts.append("scores of documents are log-likelihoods in nats")
    if row.forwards_per_sample:
        facts.append(f"{row.forwards_per_sample:.4g} forwards per document")
    if row.tokens_per_forward and page.kind == GENERATED:
        facts.append(f"{row.tokens_per_forward:.3g} tokens per forward")
    if row.computed_per_sample and row.approximation:
        facts.append(f"{row.computed_per_sample:.4g} computed positions per document")
    return [*facts, row.date] if row.date else facts


def _notes(page: SamplesPage, count: int, texts: _Texts) -> list[str]:
    notes = []
    if page.texts != ALL:
        what = "Texts are" if page.texts == NONE else "Texts of the dataset are"
        notes.append(f"{what} not shown{f': {page.why}' if page.why else ''}.")
    if count > MOST_DOCUMENTS:
        notes.append(f"Only the first {MOST_DOCUMENTS} documents are shown.")
    if texts.spent > MOST_CHARACTERS:
        notes.append("Texts of later documents are left out, because the page would be too large.")
    return notes


# -- reading ---------------------------------------------------------------------------------------

Place = tuple[str, int | None]
Details = dict[str, Any]


def _read(page: SamplesPage) -> tuple[dict[str, Document], dict[Place, Details]]:
    """Returns key -> document, and what a page shows of a document besides."""
    details: dict[Place, Details] = {}

    def watched(samples: Iterable[Mapping[str, Any]]) -> Iterator[Mapping[str, Any]]:
        for sample in samples:
            (document,) = documents_of([sample], page.kind).values()
            details.setdefault(_place(document), {}).update(_details(sample, page))
            yield sample

    samples = (sample for _, sample in numbered_samples(page.samples))
    return documents_of(watched(samples), page.kind), details


def _place(document: Document) -> Place:
    return document.key.partition("#")[0], document.doc_id


def _details(sample: Mapping[str, Any], page: SamplesPage) -> Details:
    """Returns the rest of a sample. Values of other types than expected count as missing."""
    arguments = sample.get("arguments")
    asked = [
        argument for argument in arguments.values() if isinstance(argument, dict)
    ] if isinstance(arguments, dict) else []  # fmt: skip
    found: Details = {}
    if page.kind == GENERATED:
        extra = asked[0].get("arg_1") if asked else None
        hole = extra.get("hole") if isinstance(extra, dict) else None
        suffix = hole.get("suffix") if isinstance(hole, dict) else None
        found["suffix"] = suffix if isinstance(suffix, str) else ""
        found["exit"] = [str(end)[:40] for end in listed(sample.get("exit"))[:64]]
        found["steps"] = [step for step in listed(sample.get("steps"))[:64] if type(step) is int]
        traces = [_trajectory(each) for each in listed(sample.get("trajectory"))[:64]]
        found["traces"] = traces if any(traces) else []
        if str(sample.get("filter") or "none") == (page.row.filter or "none"):
            taken = sample.get("filtered_resps")
            taken = taken[0] if isinstance(taken, list) and len(taken) == 1 else taken
            found["taken"] = taken if isinstance(taken, str) else None
    else:
        choices = [argument.get("arg_1") for argument in asked]
        found["choices"] = [each if isinstance(each, str) else "" for each in choices]
    return found


def _trajectory(value: Any) -> dict[str, Any] | None:
    """Returns the trajectory of an answer (docs/reference/trajectories.md); None if it has another form."""
    if not isinstance(value, dict):
        return None
    texts, steps, shares = (listed(value.get(name)) for name in ("text", "step", "confidence"))
    if not 0 < len(texts) == len(steps) == len(shares) <= MOST_TOKENS:
        return None
    if not all(isinstance(t, str) for t in texts) or not all(type(s) is int for s in steps):
        return None
    return {
        "x": texts,
        "s": steps,
        "c": [
            c if isinstance(c, (int, float)) and 0 <= c <= 1 and c == c else None for c in shares
        ],
    }


def _peer(peer: SamplesPage, shown: Iterable[tuple[str, Document]]) -> dict[str, Any]:
    """Returns another run, with its scores of the shown documents; None if it has none."""
    return {"id": peer.id, "label": shown_name(peer.label), "values": _of_peer(peer, shown)}


def _of_peer(peer: SamplesPage, shown: Iterable[tuple[str, Document]]) -> list[float | None]:
    """Returns the peer's scores of the shown documents; None if it has none."""
    try:
        state = peer.samples.stat()
        scores = _scores(peer.samples, state.st_mtime_ns, state.st_size, peer.kind, peer.row)
    except (OSError, ValueError, RecursionError, MemoryError):
        return []
    return [scores.get(key) for key, _ in shown]


@lru_cache(maxsize=1024)
def _scores(path: Path, time: int, size: int, kind: str, row: Row) -> Mapping[str, float | None]:
    """Returns key -> score of a samples file. `time` and `size` tell versions of it apart."""
    scores = document_scores(row, read_samples(path, kind))
    return {key: _short(score) for key, score in scores.items()}


def _short(value: float | None) -> float | None:
    """Returns a number with at most six digits."""
    return None if value is None else float(f"{value:.6g}")


# -- what a page holds -----------------------------------------------------------------------------


class _Texts:
    """Texts as a page shows them: none, the model's own, or all; limited in length.

    Attributes:
        spent: characters so far.
    """

    def __init__(self, shown: str) -> None:
        self._shown = shown
        self.spent = 0

    def dataset(self, text: str) -> str | None:
        """Returns a text of the dataset, or None."""
        return self._cut(text) if self._shown == ALL else None

    def model(self, text: str) -> str | None:
        """Returns a text that the model wrote, or None."""
        return None if self._shown == NONE else self._cut(text)

    def _cut(self, text: str) -> str | None:
        self.spent += min(len(text), LONGEST_TEXT)
        if self.spent > MOST_CHARACTERS:
            return None
        rest = len(text) - LONGEST_TEXT
        return text if rest <= 0 else f"{text[:LONGEST_TEXT]}… ({rest} more characters)"


def _document(
    document: Document, details: Details, score: float | None, texts: _Texts
) -> dict[str, Any]:  # fmt: skip
    """Returns a document as plain data with short names; what is unknown is left out."""
    row: dict[str, Any] = {
        "n": document.doc_id,
        "k": document.key,
        "f": document.forwards,
        "tok": document.tokens,
        "sec": document.seconds,
        "x": details.get("exit"),
        "st": details.get("steps"),
        "m": _short(document.margin),
        "me": _short(document.margin_stderr),
    }
    if document.error is not None:  # it may quote the document
        row["e"] = texts.dataset(document.error) or "the reason is not shown"
    if document.texts is not None:
        row["p"] = texts.dataset(document.texts.prompt)
        row["q"] = texts.dataset(details.get("suffix") or "")
        row["t"] = texts.dataset(document.texts.target)
        answers = document.texts.answers
        if "choices" in details:
            row["w"] = document.answer
            row["c"] = [texts.dataset(valid_unicode(text)) for text in details["choices"]]
            row["a"] = list(answers)  # log-probabilities
        else:
            row["a"] = [texts.model(answer) for answer in answers]
            taken = details.get("taken")
            if taken is not None and taken not in answers:
                row["r"] = texts.model(valid_unicode(taken))
    return {"v": _short(score)} | {
        name: value for name, value in row.items() if value is not None and value != []
    }


def _shown_trace(trace: dict[str, Any] | None, texts: _Texts) -> dict[str, Any] | None:
    """Returns a trajectory without its texts if they are not shown or spell out a secret."""
    if trace is None:
        return None
    whole = "".join(trace["x"])
    shown = texts.model(whole) is not None and redact_text(whole) == whole
    return {**trace, "x": [valid_unicode(text) for text in trace["x"]] if shown else None}


def _histogram(rows: list[dict[str, Any]], top: float | None) -> dict[str, Any] | None:
    """Returns the bars of documents by forwards: wrong at the bottom, right above."""
    costs = [row["f"] for row in rows if row.get("f") is not None]
    if not costs:
        return None
    low, high = min(costs), max(costs)
    whole = all(cost == int(cost) for cost in costs)
    width = max((high - low + 1) / BINS, 1.0) if whole else (high - low) / BINS or 1.0
    width = float(-(-width // 1)) if whole else width
    count = min(int((high - low) / width) + 1, BINS + 1)
    bins = [[0, 0] for _ in range(count)]
    for row in rows:
        if row.get("f") is not None:
            right = top is None or row["v"] == top
            bins[min(int((row["f"] - low) / width), count - 1)][right] += 1
    most = max(map(sum, bins))
    step = (WIDTH - LEFT - 10) / max(count, 8)
    bottom, height = HEIGHT - BOTTOM, HEIGHT - BOTTOM - 10
    bars = []
    for number, (wrong, right) in enumerate(bins):
        first = low + number * width
        last = first + width - 1 if whole else first + width
        where = f"{first:g}" if first == last else f"{first:.4g}–{last:.4g}"
        words = (
            counted(wrong + right, "document") if top is None else f"{right} right, {wrong} wrong"
        )
        bars.append({
            "x": round(LEFT + number * step + 1, 1),
            "width": round(step - 2, 1),
            "wrong": round(height * wrong / most, 1),
            "right": round(height * right / most, 1),
            "title": f"{where} forwards: {words}",
            "name": f"{first:.4g}",
            "named": number % max(1, -(-count // 8)) == 0,
        })  # fmt: skip
    return {"bars": bars, "bottom": bottom, "most": most, "left": LEFT, "split": top is not None}
