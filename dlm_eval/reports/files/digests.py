"""Digests that say which scores are of the same settings.

dlm_eval records its digests in the file. For a file of lm-eval alone they are made from what it
recorded of the run and of each task.
"""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Collection

from dlm_eval.reports.files.content import Content
from dlm_eval.reports.files.json_values import digest, first_text
from dlm_eval.reports.files.row import Row

# Config keys that do not change the answers.
VOLATILE = ("batch_size", "batch_sizes", "device", "use_cache")
SEEDS = ("random_seed", "numpy_seed", "torch_seed", "fewshot_seed")
# What of a task was asked, and how its error was computed.
_ASKED = ("limit", "bootstrap_iters")
# Config keys that are no part of a run's setup: a task's own settings, and what of it was asked.
_OF_TASKS = (*VOLATILE, *SEEDS, *_ASKED, "gen_kwargs", "fingerprint")
_LAYOUT = ("device", "device_map", "batch_size", "max_batch_size", "parallelize")
# Settings of a run of dlm_eval that are part of every task's configuration.
_COMMON = ("apply_chat_template", "system_instruction", "fewshot_as_multiturn", "overlong")
# Facts of `--model recorded` that are those of a file. A model can have one for each task.
_OF_ANSWERS = ("answers", "match", "text", "counts")
_SHORT = 16  # hexadecimal digits


def setup(content: Content) -> str | None:
    """Returns a digest of the model and of the settings that all tasks of a run share."""
    settings = content.part("dlm_eval", "settings")
    if settings:
        model = content.part("dlm_eval", "settings", "model")
        shown = {k: v for k, v in model.items() if k not in (*_LAYOUT, *_OF_ANSWERS)}
        return digest([shown, {name: settings.get(name) for name in _COMMON}])[:_SHORT]
    config = {k: v for k, v in content.part("config").items() if k not in _OF_TASKS}
    if not config:
        return None
    names = ("model_source", "system_instruction", "chat_template_sha", "fewshot_as_multiturn")
    return digest([config, [content.whole.get(name) for name in names]])[:_SHORT]


class Digests:
    """The digests of the tasks and groups of one result file."""

    def __init__(self, content: Content) -> None:
        self._content = content
        kinds = ("configs", "versions", "n-shot")
        self._configuration = _Recorded(content, (*VOLATILE, *SEEDS, *_ASKED), kinds)
        self._settings = _Recorded(content, VOLATILE, (*kinds, "n-samples"))

    def of(self, task: str, name: str) -> str | None:
        """Returns the digest `name` of a task, or of all tasks of a group; None if one is unknown."""
        tasks = self._content.tasks[task]
        found = [self._one(each, name) for each in tasks]
        if any(value is None for value in found):
            return None
        if len(set(found)) == 1 and (len(tasks) == 1 or name == "documents"):
            return found[0]
        return digest(sorted(zip(tasks, map(str, found), strict=True)))

    def _one(self, task: str, name: str) -> str | None:
        alone = not self._content.of_dlm_eval and bool(self._content.part("config"))
        if name == "configuration" and alone:
            return self._configuration.of(task)
        return first_text(self._content.part("dlm_eval", "tasks", task).get(name))

    def identity(self, task: str, row: Row) -> str:
        """Returns what equal scores share: fingerprint, scoring and documents, or a digest of all
        recorded settings if there is no fingerprint.
        """
        if row.fingerprint:
            return " ".join(map(str, (row.fingerprint, row.scoring, row.documents)))
        return digest([self._settings.of(task) for task in self._content.tasks[task]])


class _Recorded:
    """Digests of what lm-eval recorded of the settings of a run and of each task."""

    def __init__(self, content: Content, left_out: Collection[str], kinds: Collection[str]) -> None:
        """Takes all keys of `config` but `left_out`, and what the parts `kinds` have of a task."""
        self._content, self._left_out, self._kinds = content, left_out, kinds
        self._found: dict[str, str] = {}

    def of(self, task: str) -> str:
        """Returns the digest of one task."""
        if task not in self._found:
            self._found[task] = self._digest(task)
        return self._found[task]

    def _digest(self, task: str) -> str:
        """Returns the SHA-256 of [config, the task's settings, names] as JSON."""
        names = ("model_source", "lm_eval_version", "chat_template_sha")
        own = [self._content.part(kind).get(task) for kind in self._kinds]
        rest = [own, [self._content.whole.get(name) for name in names]]
        whole = self._shared.copy()
        whole.update(json.dumps(rest, sort_keys=True)[1:].encode())
        return whole.hexdigest()

    @functools.cached_property
    def _shared(self) -> hashlib._Hash:
        """The hash of the beginning, which is the same for all tasks and may be large."""
        config = {k: v for k, v in self._content.part("config").items() if k not in self._left_out}
        return hashlib.sha256(f"[{json.dumps(config, sort_keys=True)}, ".encode())
