"""One samples file, of dlm_eval or of lm-eval alone, as one `Document` per document of the task.

Files are untrusted: lines and their number are bounded, and a value that does not have the expected
type counts as missing. A file with a line that is no JSON object raises ValueError.
"""

from __future__ import annotations

import json
import math
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TextIO

from dlm_eval.harness.file_names import file_name
from dlm_eval.printable import valid_unicode
from dlm_eval.reports.files import json_values
from dlm_eval.reports.files.json_values import listed

MOST_BYTES = 8 << 30  # of a samples file
MOST_LINE = 16 << 20  # characters of a line
MOST_LINES = 2_000_000
SHORT = 16  # hexadecimal digits of a digest: 64 bits
LARGEST = 1e50  # larger numbers count as missing, so that no sum or square overflows
MOST_ID = 2**63
SAME_NATS = 1e-3  # log-probabilities that differ by less are equal: kernels round differently

# A metric's value for one document: a number, or (sum, weight) of a weighted mean.
Value = float | tuple[float, float]
# What a score that is no mean takes of one document: target and answer, numbers or texts.
Pair = tuple[float, float] | tuple[str, str]


@dataclass(frozen=True)
class Texts:
    """The texts of a document: the prompt, the target, and the model's answers before filters."""

    prompt: str
    target: str
    answers: tuple[str, ...]


@dataclass(frozen=True)
class Document:
    """What a run knows of one document of a task.

    Attributes:
        key: digest of the document; equal documents of one task have a number behind it.
        doc_id: the task's number of the document; None if unknown.
        prompt: digest of the prompt; "" if unknown.
        values: "metric,filter" -> value.
        answer: digest of the generated texts; of a likelihood task, the preferred choice, or
            whether the greedy text is the target.
        margin: nats: log-probability of the target, minus that of the most likely other choice if
            there are choices; None for generated text.
        margin_stderr: its Monte Carlo standard error in nats; 0.0 if nothing was sampled, None if
            unknown.
        forwards, tokens, seconds: cost; None if unknown.
        computed: positions that the forwards of generated text ran; None if unknown.
        full: whether decoding of all texts went to its last step (exit `full`).
        error: reason why there is no answer or score; None otherwise.
        texts: None if they are unknown (a baseline has digests only).
        pairs: "metric,filter" -> pair, see `corpus.py`.
    """

    key: str
    doc_id: int | None
    prompt: str
    values: Mapping[str, Value]
    answer: str
    margin: float | None = None
    margin_stderr: float | None = None
    forwards: float | None = None
    tokens: float | None = None
    seconds: float | None = None
    full: bool = False
    error: str | None = None
    texts: Texts | None = None
    pairs: Mapping[str, Pair] = field(default_factory=dict)
    computed: float | None = None

    def cost(self, name: str) -> float | None:
        """Returns `forwards`, `computed`, `tokens` or `seconds`."""
        known = {"forwards": self.forwards, "computed": self.computed}
        return {**known, "tokens": self.tokens, "seconds": self.seconds}[name]

    def same_answer(self, other: Document) -> bool:
        """Returns whether two runs answered alike; log-probabilities may differ by `SAME_NATS`."""
        if self.margin is None or other.margin is None:
            return self.answer == other.answer
        return self.answer == other.answer and not abs(self.margin - other.margin) > SAME_NATS


def samples_beside(results: Path, task: str) -> Path | None:
    """Returns the samples file of a task of a result file; None if there is none."""
    date = results.stem.rpartition("_")[2]
    path = results.with_name(f"samples_{file_name(task)}_{date}.jsonl")
    return path if os.path.isfile(path) else None


def read_samples(path: Path, kind: str) -> dict[str, Document]:
    """Returns key -> document of a samples file, in the order of the file.

    Args:
        path: the file.
        kind: lm-eval's output type of the task (`generate_until`, `multiple_choice`, ...).

    Raises:
        ValueError: the file cannot be read, or a line is no JSON object or too long.
    """
    try:
        return documents_of((sample for _, sample in numbered_samples(path)), kind)
    except (RecursionError, MemoryError) as error:
        raise ValueError(f"not JSON lines ({type(error).__name__})") from error


def numbered_samples(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yields the number of each line of a samples file, from 1, and its sample.

    Raises:
        ValueError: the file cannot be read, a line is no JSON object or too long, or there are too
            many.
    """
    try:
        if path.stat().st_size > MOST_BYTES:
            raise ValueError(f"it is larger than {MOST_BYTES >> 30} GiB")
        with path.open(encoding="utf-8") as file:
            yield from _parsed(file)
    except OSError as error:
        raise ValueError(error.strerror or type(error).__name__) from error
    except (RecursionError, MemoryError, UnicodeDecodeError) as error:
        raise ValueError(f"not JSON lines ({type(error).__name__})") from error


def _parsed(file: TextIO) -> Iterator[tuple[int, dict[str, Any]]]:
    number = 0
    while line := file.readline(MOST_LINE + 1):
        number += 1
        if len(line) > MOST_LINE or number > MOST_LINES:
            raise ValueError(f"line {number} is too long, or the file has too many lines")
        if line.isspace():
            continue
        try:
            sample = json.loads(line)
        except ValueError:
            sample = None
        if not isinstance(sample, dict):
            raise ValueError(f"line {number} is not a JSON object")
        yield number, sample


def documents_of(samples: Iterable[Mapping[str, Any]], kind: str) -> dict[str, Document]:
    """Returns key -> document of parsed samples. Lines of one document under several filters are
    one document with the values of all filters.
    """
    seen: Counter[str] = Counter()
    place: dict[tuple[str, Any], str] = {}  # (digest, number of the task) -> key
    found: dict[str, Document] = {}
    filters: dict[str, set[str]] = {}
    for sample in samples:
        document = _document(sample, kind)
        pipeline = str(sample.get("filter") or "none")
        key = place.get((document.key, document.doc_id))
        if key is None or pipeline in filters[key]:
            seen[document.key] += 1
            number = seen[document.key]
            key = document.key if number == 1 else f"{document.key}#{number}"
            place[document.key, document.doc_id] = key
            found[key], filters[key] = replace(document, key=key), {pipeline}
        else:
            first = found[key]
            found[key] = replace(
                first,
                values={**first.values, **document.values},
                pairs={**first.pairs, **document.pairs},
                error=first.error or document.error,
            )
            filters[key].add(pipeline)
    return found


def _document(sample: Mapping[str, Any], kind: str) -> Document:
    doc_id = sample.get("doc_id")
    doc_id = doc_id if type(doc_id) is int and abs(doc_id) < MOST_ID else None
    error = sample.get("error")
    pipeline = str(sample.get("filter") or "none")
    steps = sample.get("exit")
    document = Document(
        key=_digest_of(sample.get("doc_hash")) or f"number {doc_id}",
        doc_id=doc_id,
        prompt=_digest_of(sample.get("prompt_hash")),
        values=_values(sample, pipeline),
        pairs=_pairs(sample, pipeline),
        answer="",
        forwards=_number(sample.get("forwards")),
        tokens=_number(sample.get("tokens")),
        seconds=_number(sample.get("seconds")),
        computed=_number(sample.get("computed_tokens")),
        full=isinstance(steps, list) and bool(steps) and all(end == "full" for end in steps),
        error=None if error is None else valid_unicode(str(error))[:500],
    )
    responses = listed(sample.get("resps"))
    if kind == "generate_until":
        answers = tuple(_texts(responses))
        texts = Texts(_prompt(sample), _text(sample.get("target")), answers)
        return replace(document, answer=digest(list(answers)), texts=texts)
    pairs = [_likelihood(response) for response in responses]
    shown = tuple(
        f"{value:.4f}" if greedy is None else f"{value:.4f} {greedy}" for value, greedy in pairs
    )
    texts = Texts(_prompt(sample), _text(sample.get("target")), shown)
    return replace(_scored(document, sample, pairs, kind), texts=texts)


def _scored(
    document: Document,
    sample: Mapping[str, Any],
    pairs: Sequence[tuple[float, bool | None]],
    kind: str,
) -> Document:
    """Returns the document of a likelihood task with its answer and margin."""
    values = [value for value, _ in pairs]
    if not values or any(math.isnan(value) for value in values):
        return document
    if kind != "multiple_choice":
        answer = f"greedy {pairs[0][1]}" if pairs[0][1] is not None else "text"
        errors = _numbers(sample.get("logprob_stderr"))
        error = errors[0] if len(errors) == len(values) else None
        margin = values[0] if math.isfinite(values[0]) else None
        return replace(document, answer=answer, margin=margin, margin_stderr=error)
    best = max(range(len(values)), key=values.__getitem__)
    document = replace(document, answer=f"choice {best}")
    gold = _gold(sample, len(values))
    if gold is None or len(values) < 2:
        return document
    other = max((i for i in range(len(values)) if i != gold), key=values.__getitem__)
    margin = values[gold] - values[other]
    if not math.isfinite(margin):
        return document
    return replace(document, margin=margin, margin_stderr=_margin_stderr(sample, gold, other))


def _gold(sample: Mapping[str, Any], choices: int) -> int | None:
    """Returns the index of the right choice if the sample's target is one."""
    target = str(sample.get("target"))
    return int(target) if target.isdecimal() and len(target) < 6 and int(target) < choices else None


def _margin_stderr(sample: Mapping[str, Any], gold: int, other: int) -> float | None:
    errors = _numbers(sample.get("logprob_stderr"))
    if max(gold, other) >= len(errors):
        return None
    left, right = errors[gold], errors[other]
    if left == right == 0:
        return 0.0
    table = listed(sample.get("logprob_correlation"))
    row = listed(table[gold]) if gold < len(table) else []
    shared = _number(row[other]) if other < len(row) else None
    variance = left**2 + right**2 - 2 * (shared or 0.0) * left * right
    return math.sqrt(max(variance, 0.0)) if math.isfinite(variance) else None


def _values(sample: Mapping[str, Any], pipeline: str) -> dict[str, Value]:
    """Returns the finite values of the sample's metrics; lists of two numbers are (sum, weight)."""
    found: dict[str, Value] = {}
    for name, value in _metrics(sample):
        number = _number(float(value) if isinstance(value, bool) else value)
        pair = _pair(value)
        if number is not None:
            found[f"{name},{pipeline}"] = number
        elif pair is not None and not isinstance(pair[1], str) and pair[1] > 1 / LARGEST:
            found[f"{name},{pipeline}"] = (float(pair[0]), pair[1])
    return found


def _pairs(sample: Mapping[str, Any], pipeline: str) -> dict[str, Pair]:
    """Returns the metrics of the sample that are lists of two numbers, or of two texts."""
    pairs = ((name, _pair(value)) for name, value in _metrics(sample))
    return {f"{name},{pipeline}": pair for name, pair in pairs if pair is not None}


def _pair(value: Any) -> Pair | None:
    if not isinstance(value, list) or len(value) != 2:
        return None
    first, second = value
    if isinstance(first, str) and isinstance(second, str):
        return first, second
    numbers = _numbers(value)
    return (numbers[0], numbers[1]) if len(numbers) == 2 else None


def _metrics(sample: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Yields the metrics of a sample with their values."""
    for name in listed(sample.get("metrics")):
        if isinstance(name, str):
            yield valid_unicode(name), sample.get(name)


def _likelihood(response: Any) -> tuple[float, bool | None]:
    """Returns (log-probability, whether it is the greedy text) of lm-eval's nested response."""
    while isinstance(response, list) and len(response) == 1:
        response = response[0]
    parts = response if isinstance(response, list) else [response]
    try:
        value = float(parts[0])
    except (IndexError, TypeError, ValueError, OverflowError):
        value = math.nan
    value = math.nan if LARGEST < abs(value) < math.inf else value
    greedy = str(parts[1]) if len(parts) == 2 else ""
    return value, {"True": True, "False": False}.get(greedy)


def _texts(responses: Sequence[Any]) -> Iterator[str]:
    for response in responses:
        if isinstance(response, list):
            yield from _texts(response)
        else:
            yield _text(response)


def _prompt(sample: Mapping[str, Any]) -> str:
    arguments = sample.get("arguments")
    if isinstance(arguments, dict):  # of a file
        first = arguments.get("gen_args_0")
        return _text(first.get("arg_0")) if isinstance(first, dict) else ""
    first = arguments[0] if isinstance(arguments, list) and arguments else None  # in memory
    return _text(first[0]) if isinstance(first, list) and first else ""


def _text(value: Any) -> str:
    return valid_unicode(value if isinstance(value, str) else "" if value is None else str(value))


def digest(value: Any) -> str:
    """Returns the first `SHORT` digits of the SHA-256 of JSON data."""
    return json_values.digest(value)[:SHORT]


def _digest_of(value: Any) -> str:
    """Returns the beginning of a recorded hash; "" if there is none."""
    return value[:SHORT] if isinstance(value, str) and value[:SHORT].isalnum() else ""


def _number(value: Any) -> float | None:
    """Returns a finite number of ordinary size, else None."""
    found = json_values.number(value)
    return found if found is not None and abs(found) <= LARGEST else None


def _numbers(value: Any) -> list[float]:
    """Returns the finite numbers of a list; empty if one is missing."""
    found = [_number(item) for item in listed(value)]
    kept = [number for number in found if number is not None]
    return kept if len(kept) == len(found) else []
