"""Notes in the journal about the settings of its answers.

The journal's keys are hashes. A run therefore also stores its settings, so that --score_only can
say which settings differ.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from typing import Any

from dlm_eval.harness.records import Record
from dlm_eval.journal import Journal
from dlm_eval.printable import counted
from dlm_eval.rng import digest
from dlm_eval.workers import NO_ANSWER

LONGEST = 40  # maximum characters of a value that is stored in full
MOST = 5  # maximum number of differences in a message
OF_EXAMPLES = ("examples.", "target", "samples")  # settings that matter only if examples are shown
log = logging.getLogger(__name__)


def note_settings(journal: Journal, task: str, settings: Mapping[str, Any]) -> None:
    """Stores the settings of answers of `task`."""
    journal.note(f"{_prefix(task)}{digest(settings)[:16]}", dict(settings))


def warn_of_missing(journal: Journal, task: str, settings: Mapping[str, Any], records: Iterable[Record]) -> None:
    """Warns of answers of `task` that a journal lacks, with the differences to the most similar run
    in it.
    """
    asked = [record for record in records if record.task == task]
    absent = sum(record.error == NO_ANSWER for record in asked)
    if not absent:
        return
    said = f"{task}: {absent} of {counted(len(asked), 'answer', 'are')} not in the journal"
    known = [differences(other, settings) for other in journal.notes(_prefix(task)).values()]
    if not known:
        log.warning("%s, which has no finished run of this task", said)
    elif nearest := min(known, key=len):
        more = f" and {counted(len(nearest) - MOST, 'other difference')}" if len(nearest) > MOST else ""
        log.warning("%s; it has answers of a run with %s%s", said, ", ".join(nearest[:MOST]), more)
    else:
        log.warning("%s; a run with the same settings had fewer documents", said)


def differences(other: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Returns the settings in which a stored run differs from this one."""
    names = [*now, *(name for name in other if name not in now)]
    if other.get("num_fewshot") != now.get("num_fewshot"):
        names = [name for name in names if not name.startswith(OF_EXAMPLES)]
    return [f"{name} {other.get(name)} (now {now.get(name)})" for name in names if other.get(name) != now.get(name)]


def readable(parts: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Returns settings by dotted name, each as a short value or, if long, as a digest."""
    found: dict[str, Any] = {}
    for name, value in parts.items():
        if isinstance(value, Mapping):
            found |= readable(value, f"{prefix}{name}.")
        else:
            plain = value if isinstance(value, (bool, int, float, type(None))) else str(value)
            found[prefix + name] = plain if len(str(plain)) <= LONGEST else f"#{digest(plain)[:8]}"
    return found


def _prefix(task: str) -> str:
    return f"asked:{task}:"
