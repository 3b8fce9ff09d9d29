"""The merge of all shards to one result.

`merge` copies all answers to one journal and runs the harness once on them, as `--score_only` does.
Metrics, errors and files thus come from the same code as in every other run.
"""

from __future__ import annotations

import logging
import sqlite3
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import reduce
from pathlib import Path
from typing import Any

from dlm_eval.answers import journal_key
from dlm_eval.engine import Cost
from dlm_eval.errors import UserError
from dlm_eval.harness.checks import Ask, check_settings
from dlm_eval.harness.model_kind import Loaded, Spent
from dlm_eval.harness.open_model import open_model
from dlm_eval.harness.results import document_number
from dlm_eval.harness.run import Finished, run
from dlm_eval.harness.run_settings import RunSettings, output_directory, run_settings
from dlm_eval.harness.shard import shard_of
from dlm_eval.harness.shards import JOURNAL, StoredShard
from dlm_eval.jobs import Answer, Done, Job, Keep, keep_none
from dlm_eval.printable import counted
from dlm_eval.redaction import REDACTED
from dlm_eval.workers import NO_ANSWER, JournalOnly

log = logging.getLogger(__name__)
# Settings of a shard or its machine that a merge does not use.
PLACE = ("shard", "devices", "engine", "ray_address", "max_batch_size")


class FromShards(JournalOnly):
    """A pool that returns the errors of the shards. All other answers are in the journal."""

    def __init__(self, shards: Sequence[StoredShard], model: str) -> None:
        self._model = model
        self._failed = {key: answer for stored in shards for key, answer in stored.failed.items()}
        self._devices = [dict(facts) for stored in shards for facts in stored.devices]

    def run(self, jobs: Iterable[Job], done: Done, keep: Keep = keep_none) -> None:
        for index, job in enumerate(jobs):
            done(
                index,
                self._failed.get(journal_key(self._model, job), Answer(None, NO_ANSWER, 0, 0.0)),
            )

    def devices(self) -> list[dict[str, Any]]:
        return self._devices


def merge_settings(shards: Sequence[StoredShard], given: Mapping[str, Any]) -> RunSettings:
    """Returns the settings of the merged run: the first shard's, overridden by those in `given`.

    Raises:
        UserError: the shards are in different folders and there is no `output_path`.
    """
    kept = {
        name: _without_secrets(name, value)
        for name, value in shards[0].settings.items()
        if name not in PLACE
    }
    homes = {stored.folder.parent for stored in shards}
    if "output_path" not in given:
        if len(homes) > 1:
            raise UserError(
                f"--output_path is missing: the shards are in {len(homes)} folders; say where the "
                "result goes"
            )
        (home,) = homes
        asked = Path(str(kept["output_path"]))
        kept["output_path"] = str(home / asked.name if asked.suffix == ".json" else home)
    return run_settings({**kept, **given, "score_only": True})


def _without_secrets(name: str, value: Any) -> Any:
    """Returns a stored setting without secret values; these were replaced when it was stored."""
    if not isinstance(value, Mapping):
        return value
    for key in (secret := [key for key, part in value.items() if part == REDACTED]):
        log.warning(
            "--%s %s of the shards is a secret, which is not stored; the merge runs without it",
            name,
            key,
        )
    return {key: part for key, part in value.items() if key not in secret}


def merge(shards: Sequence[StoredShard], settings: RunSettings, ask: Ask | None = None) -> Finished:
    """Merges all shards to the result that one run of all documents would give.

    Args:
        shards: from `find_shards`.
        settings: from `merge_settings`.
        ask: asks the user whether generated code may run.

    Raises:
        UserError: the model or the tasks here differ from those of the shards, or a journal is
            damaged.
        RunError: the result cannot be computed or saved.
    """
    check_settings(settings)
    assert settings.output_path is not None  # checked with the settings
    with open_model(settings, output_directory(settings.output_path)) as opened:
        loaded = opened.under(settings)
        if loaded.lm.fingerprint != shards[0].model:
            raise UserError(
                f"--model '{settings.model}' is not the shards' model here: its fingerprint is"
                f" {loaded.lm.fingerprint[:12]}, theirs {shards[0].model[:12]}"
            )
        _collect(shards, loaded)
        cost = reduce(Cost.__add__, (stored.spent.device for stored in shards), Cost())
        spent = Spent(cost, sum(stored.spent.wall_seconds for stored in shards))
        shared = replace(opened, pool=FromShards(shards, shards[0].model), spent=spent)
        return run(
            settings, ask, shared, answered=lambda model, _: _check_answers(shards, settings, model)
        )


def _collect(shards: Sequence[StoredShard], loaded: Loaded) -> None:
    """Copies the answers of all shards to the journal of the merged run."""
    assert loaded.journal is not None
    for stored in shards:
        try:
            loaded.journal.take(stored.folder / JOURNAL, stored.model)
        except (sqlite3.Error, OSError) as error:
            raise UserError(
                f"{stored}: {JOURNAL} cannot be read ({error}); run it again"
            ) from error


def _check_answers(shards: Sequence[StoredShard], settings: RunSettings, loaded: Loaded) -> None:
    """Raises UserError if a request has no answer."""
    absent = [record for record in loaded.records if record.error == NO_ANSWER]
    owners = Counter(
        shard_of(
            record.task, document_number(record.task, record.doc_id, settings.chosen), len(shards)
        )
        for record in absent
    )
    if owners:
        number, count = owners.most_common(1)[0]
        raise UserError(
            f"{shards[number - 1]} lacks {counted(count, 'answer')}: its journal is damaged, or "
            "tasks or data"
            " here differ from the shard's; run it again, or merge on its machine"
        )
