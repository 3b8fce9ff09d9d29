"""What a recorded case is, how its results are stored exactly, and how names that were changed are translated.

A record is made of JSON values. Numbers are written by `repr`, so that they come back bit for bit. What may change freely (messages, digests that
include source text, help texts) lies under a key `words`, which `compare` tells apart. Times, dates and paths are left out.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

RENAMED = Path(__file__).with_name("renamed.yaml")
LONGEST = 160  # characters of a text that are kept; a digest stands for the rest
STEP = " > "  # between the keys of a path
UNSTABLE = re.compile(
    r"seconds|(^|_)time$|_time_|tokens/s|tokens_per_second|^speed|(^|_)date$|(^|_)git|^code$|env_info|^environment$|peak_|_version$|^source$|device_name"
    r"|^wall_|^machine$|^device$"
)
STAMP = re.compile(r"\d{4}-\d\d-\d\dT\d\d-\d\d-\d\d\.\d+")  # of a result file's name
FREE = re.compile(
    r"^(fingerprint|configuration|scoring|configs|task_hashes|transformers|version|chat_template|.*sha(256)?)$"
)


@dataclass(frozen=True)
class Case:
    """One question with its answer to come.

    Attributes:
        name: "MODEL/KIND/WHAT" in the spelling of the first recording.
        run: returns the answer.
    """

    name: str
    run: Callable[[], Any]


@dataclass(frozen=True)
class Renamed:
    """The table of names that were changed (scripts/renamed.yaml)."""

    strategies: Mapping[str, str] = field(default_factory=dict)
    decode: Mapping[str, Any] = field(default_factory=dict)
    estimators: Mapping[str, str] = field(default_factory=dict)
    estimator_options: Mapping[str, Any] = field(default_factory=dict)
    keys: Mapping[str, str | None] = field(default_factory=dict)
    values: Mapping[str, str] = field(default_factory=dict)
    added: tuple[str, ...] = ()

    @classmethod
    def read(cls, path: Path | None) -> Renamed:
        """Returns the table in the file, an empty one for None."""
        return cls(**((yaml.safe_load(path.read_text(encoding="utf-8")) or {}) if path else {}))

    def decoding(self, settings: Mapping[str, Any]) -> dict[str, Any]:
        """Returns decode settings in the code's spelling."""
        spelled = _options(settings, self.decode)
        if "strategy" in spelled:
            spelled["strategy"] = self.strategies.get(spelled["strategy"], spelled["strategy"])
        return spelled

    def estimating(self, name: str, options: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
        """Returns an estimator and its options in the code's spelling."""
        return self.estimators.get(name, name), _options(options, self.estimator_options)

    def path(self, keys: tuple[str, ...]) -> tuple[str, ...] | None:
        """Returns where the new code stores what the old one stored at `keys`; None if it is gone."""
        for old, new in self.keys.items():
            parts = tuple(old.split(STEP))
            for i in range(len(keys) - len(parts) + 1):
                if keys[i : i + len(parts)] == parts:
                    if new is None:
                        return None
                    keys = (*keys[:i], *new.split(STEP), *keys[i + len(parts) :])
                    break
        return keys

    def value(self, value: Any) -> Any:
        """Returns the new name if `value` is a name that was changed, else `value`."""
        names = {**self.strategies, **self.estimators, **self.values}
        return names.get(value, value) if isinstance(value, str) else value


def _options(settings: Mapping[str, Any], table: Mapping[str, Any]) -> dict[str, Any]:
    spelled: dict[str, Any] = {}
    for name, value in settings.items():
        new = table.get(f"{name}={value}", table.get(name, name))
        if isinstance(new, Mapping):
            spelled.update(new)
        elif new is not None:
            spelled[new] = value
    return spelled


def listed(settings: Mapping[str, Any]) -> str:
    """Returns "k=v,k=v", as the command line takes it."""
    return ",".join(f"{name}={_shown(value)}" for name, value in settings.items())


def _shown(value: Any) -> str:
    return json.dumps(value) if isinstance(value, (list, tuple, bool)) else str(value)


def plain(value: Any, places: tuple[str, ...] = ()) -> Any:
    """Returns `value` as JSON values: fields of dataclasses by name, long texts cut, unstable keys left out, free ones under `words`.

    Args:
        value: what was answered.
        places: folders of this machine; texts show them as <place>.
    """
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        value = {f.name: getattr(value, f.name) for f in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        kept = {str(key): inner for key, inner in value.items() if not UNSTABLE.search(str(key))}
        free = {key: kept.pop(key) for key in list(kept) if FREE.match(key)}
        words = kept.pop("words", {})
        stored = {key: plain(inner, places) for key, inner in kept.items()}
        words = {key: plain(inner, places) for key, inner in {**words, **_flat_texts(free)}.items()}
        return {**stored, "words": words} if words else stored
    if isinstance(value, (list, tuple, set, frozenset)):
        return [
            plain(inner, places)
            for inner in (sorted(value) if isinstance(value, (set, frozenset)) else value)
        ]
    if hasattr(value, "item"):
        value = value.item()
    if value is None or isinstance(value, (bool, int, float)):
        return value
    return _cut(_without_places(str(value), places))


def _flat_texts(free: Mapping[str, Any]) -> dict[str, Any]:
    return {
        key: inner if isinstance(inner, str) else json.dumps(inner, default=str, sort_keys=True)
        for key, inner in free.items()
    }


def _without_places(text: str, places: tuple[str, ...]) -> str:
    for place in places:
        text = text.replace(place, "<place>")
    return STAMP.sub("<time>", text)


def _cut(text: str) -> str:
    if len(text) <= LONGEST:
        return text
    return (
        f"{text[:60]}... {len(text)} characters, {hashlib.sha256(text.encode()).hexdigest()[:20]}"
    )


def leaves(record: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Yields (path, value) of all that is not a mapping or a sequence, and of empty ones."""
    if isinstance(record, Mapping) and record:
        for key, inner in record.items():
            yield from leaves(inner, (*path, key))
    elif isinstance(record, list) and record:
        for index, inner in enumerate(record):
            yield from leaves(inner, (*path, str(index)))
    else:
        yield path, record
