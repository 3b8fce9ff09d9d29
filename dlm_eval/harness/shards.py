"""Runs of one shard of the documents (`--shard I/N`), and the merge of all shards to one result.

A shard builds the requests of all documents, since few-shot examples are drawn document by
document, but answers only its own. It writes two files to its folder: its journal, and shard.json
with the run's settings and identity, failed answers and cost.

shard.json marks the shard as finished only after the journal is closed. A merge therefore never
opens a journal that another machine writes to; SQLite does not support that on a shared file
system.

`merge` copies all answers to one journal and runs the harness once on them, as `--score_only` does.
Metrics, errors and files thus come from the same code as in every other run.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import os
import sqlite3
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import reduce
from pathlib import Path
from typing import Any

import dlm_eval
from dlm_eval.answers import journal_key
from dlm_eval.engine import Cost
from dlm_eval.errors import DlmEvalError, RunError, UserError
from dlm_eval.harness.checks import Ask, check_settings
from dlm_eval.harness.identity import asked_with, digests, note_settings, readable
from dlm_eval.harness.model_kind import Loaded, Spent
from dlm_eval.harness.open_model import open_model
from dlm_eval.harness.results import document_number, json_value
from dlm_eval.harness.run import Finished, run
from dlm_eval.harness.run_metadata import environment
from dlm_eval.harness.run_settings import RunSettings, output_directory, run_settings
from dlm_eval.harness.shard import Shard, shard_of
from dlm_eval.jobs import Answer, Done, Job, Keep, keep_none
from dlm_eval.printable import counted
from dlm_eval.redaction import REDACTED, redact, redact_values
from dlm_eval.workers import NO_ANSWER, JournalOnly

log = logging.getLogger(__name__)
FILE = "shard.json"
JOURNAL = "journal.sqlite"
MOST = 3  # differences in a message
WHOLE = ("model", "configuration", "fingerprint", "scoring")  # digests over many settings
# Settings that may differ between shards: those of the machine, and those that only a merge uses.
FREE = (
    "shard", "device", "devices", "engine", "ray_address", "batch_size", "max_batch_size", "model_args", "output_path",
    "data_dir", "include_path", "resume", "score_only", "dry_run", "log_samples", "log_trajectories", "confirm_run_unsafe_code", "unsandboxed",
    "sandbox", "hf_hub_log_args", "verbosity",
)  # fmt: skip
# Settings of a shard or its machine that a merge does not use.
PLACE = ("shard", "devices", "engine", "ray_address", "max_batch_size")


@dataclass(frozen=True)
class ShardDone:
    """A finished shard: its folder, and the numbers of answered and of failed documents."""

    shard: Shard
    folder: Path
    documents: int
    errors: int


@dataclass(frozen=True)
class StoredShard:
    """A shard on disk.

    Attributes:
        shard: its number.
        folder: folder of its files.
        finished: whether all its documents are answered. If not, the attributes below are empty.
        settings: settings of its run, by name.
        identity: facts that must be equal in all shards of a run, by dotted name.
        model: fingerprint of the model.
        failed: answers that are errors, by journal key.
        spent: cost of the shard.
        devices: facts about its devices.
    """

    shard: Shard
    folder: Path
    finished: bool
    settings: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    identity: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    model: str = ""
    failed: Mapping[str, Answer] = dataclasses.field(default_factory=dict)
    spent: Spent = Spent()
    devices: Sequence[Mapping[str, Any]] = ()

    def __str__(self) -> str:
        return f"shard {self.shard} ({self.folder})"


# -- a run of one shard ----------------------------------------------------------------------------


class _AllAnswered(DlmEvalError):
    """Ends the run of a shard before filters and metrics."""


def run_shard(settings: RunSettings) -> ShardDone:
    """Answers the documents of one shard; writes its files to a folder below the output path.

    Raises:
        UserError: a setting is not allowed.
        RunError: the run failed; finished answers are in the shard's journal.
    """
    shard, start = settings.part, time.perf_counter()
    assert shard is not None and settings.output_path is not None  # checked with the settings
    check_settings(settings)
    folder = output_directory(str(output_directory(settings.output_path) / shard.folder))
    _write(folder, {"shard": str(shard), "finished": False})
    found: list[dict[str, Any]] = []
    documents: list[tuple[int, int]] = []

    def answered(loaded: Loaded, tasks: Mapping[str, Any]) -> None:
        found.append(_described(loaded, tasks, settings))
        asked = {(record.task, record.doc_id): False for record in loaded.records}
        asked |= {
            (record.task, record.doc_id): True
            for record in loaded.records
            if record.error is not None
        }
        documents.append((len(asked), sum(asked.values())))
        raise _AllAnswered("all requests of the shard are answered")

    try:
        run(replace(settings, output_path=str(folder)), answered=answered)
    except _AllAnswered:
        _write(folder, {**found[0], "finished": True, "wall_seconds": time.perf_counter() - start})
    return ShardDone(shard, folder, *documents[0])


def _described(loaded: Loaded, tasks: Mapping[str, Any], settings: RunSettings) -> dict[str, Any]:
    """Returns the facts about a shard that its file contains."""
    assert loaded.journal is not None
    own = {field.name: getattr(settings, field.name) for field in dataclasses.fields(settings)}
    compared = {name: value for name, value in own.items() if name not in FREE}
    identity: dict[str, Any] = {"dlm_eval": dlm_eval.__version__, "model": loaded.lm.fingerprint}
    for name, task in tasks.items():
        asked = asked_with(name, task, loaded, settings)
        note_settings(loaded.journal, name, asked)
        identity[name] = {**asked, **digests(name, task, loaded, settings, ())}
    failed = {
        key: [answer.error, answer.rows, answer.seconds] for key, answer in loaded.lm.failed.items()
    }
    devices = loaded.pool.devices()
    return {
        "shard": settings.shard,
        "settings": redact(json_value(own)),
        "identity": redact(readable({"settings": json_value(compared), **identity})),
        "model": loaded.lm.fingerprint,
        "failed": redact_values(failed),
        "device": vars(loaded.pool.cost()),
        "devices": devices,
        "environment": environment("", devices),
    }


def _write(folder: Path, content: Mapping[str, Any]) -> None:
    """Writes a shard's file atomically."""
    try:
        place = folder / f".{FILE}-{os.getpid()}"
        with place.open("w", encoding="utf-8") as stream:
            json.dump(content, stream, indent=1)
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(place, folder / FILE)
    except OSError as error:
        raise RunError(f"{folder / FILE} cannot be written: {error.strerror or error}") from error


# -- the shards of a run ---------------------------------------------------------------------------


def find_shards(paths: Iterable[str]) -> list[StoredShard]:
    """Returns all shards of one run, in order.

    Args:
        paths: folders of shards, parents of such folders, or files shard.json.

    Raises:
        UserError: a path has no shard; or a shard is missing, unfinished, given twice or from
            another run.
    """
    files: dict[Path, Path] = {}
    for path in paths:
        place = Path(path)
        inside = (
            sorted(place.rglob(FILE)) if place.is_dir() else [place] if place.name == FILE else []
        )
        found = [file for file in inside if file.is_file()]
        if not found:
            raise UserError(
                f"merge path '{path}' has no shard ({FILE}); give the --output_path of runs with "
                "--shard"
            )
        files |= {file.resolve(): file for file in found}
    shards = [_read(file) for file in files.values()]
    _check_numbers(shards)
    _check_identity(shards)
    return sorted(shards, key=lambda stored: stored.shard.number)


def _read(file: Path) -> StoredShard:
    try:
        data = json.loads(file.read_text(encoding="utf-8"))
        shard = Shard.parse(data["shard"])
        if data["finished"] is not True:
            return StoredShard(shard, file.parent, finished=False)
        return StoredShard(
            shard,
            file.parent,
            True,
            dict(data["settings"]),
            dict(data["identity"]),
            str(data["model"]),
            {
                key: Answer(None, str(error), int(rows), float(s))
                for key, (error, rows, s) in data["failed"].items()
            },
            Spent(Cost(**data["device"]), float(data["wall_seconds"])),
            [
                {**facts, "shard": str(shard), "machine": data["environment"]["machine"]}
                for facts in data["devices"]
            ],
        )
    except OSError as error:
        raise UserError(f"merge path '{file}' cannot be read: {error.strerror or error}") from error
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError, UserError) as error:
        raise UserError(
            f"merge path '{file}' is not the file of a shard: {type(error).__name__}: {error}"
        ) from error


def _check_numbers(shards: Sequence[StoredShard]) -> None:
    """Raises UserError unless each of N shards occurs once and is finished."""
    most = Counter(stored.shard.count for stored in shards).most_common(1)[0][0]
    by_number: dict[int, StoredShard] = {}
    for stored in shards:
        if stored.shard.count != most:
            other = next(other for other in shards if other.shard.count == most)
            raise UserError(
                f"{stored} and {other} are not of one run: their numbers of shards differ"
            )
        if (twin := by_number.setdefault(stored.shard.number, stored)) is not stored:
            raise UserError(
                f"shard {stored.shard} is there twice: {twin.folder} and {stored.folder}; give one"
            )
    if missing := [f"{number}/{most}" for number in range(1, most + 1) if number not in by_number]:
        word = "shard" if len(missing) == 1 else "shards"
        raise UserError(
            f"{word} {', '.join(missing)} missing (found: "
            f"{', '.join(str(s.shard) for s in shards)})"
        )
    for stored in shards:
        if not stored.finished:
            raise UserError(
                f"{stored} is not finished; run it again, which computes what is missing"
            )


def _check_identity(shards: Sequence[StoredShard]) -> None:
    """Raises UserError if settings, model, tasks or data differ between shards."""
    kinds = [json.dumps(stored.identity, sort_keys=True) for stored in shards]
    most = Counter(kinds).most_common(1)[0][0]
    usual = shards[kinds.index(most)]
    for stored, kind in zip(shards, kinds, strict=True):
        if kind != most:
            found = _differences(stored.identity, usual.identity)
            more = f" and {len(found) - MOST} more" if len(found) > MOST else ""
            raise UserError(
                f"{stored} is of another run than {usual}: {'; '.join(found[:MOST])}{more}"
            )


def _differences(here: Mapping[str, Any], there: Mapping[str, Any]) -> list[str]:
    """Returns the differences; digests over many settings only if nothing else differs."""
    names = [name for name in {**here, **there} if here.get(name) != there.get(name)]
    # The user's settings come first.
    names.sort(key=lambda name: not name.startswith("settings."))
    parts = [name for name in names if name.rsplit(".", 1)[-1] not in WHOLE] or names
    return [
        f"{name.removeprefix('settings.')} is {here.get(name)}, there {there.get(name)}"
        for name in parts
    ]


# -- the merge -------------------------------------------------------------------------------------


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
