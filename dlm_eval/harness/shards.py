"""Runs of one shard of the documents (`--shard I/N`), and the shards on disk.

A shard builds the requests of all documents, since few-shot examples are drawn document by
document, but answers only its own. It writes two files to its folder: its journal, and shard.json
with the run's settings and identity, failed answers and cost.

shard.json marks the shard as finished only after the journal is closed. A merge (`merge.py`)
therefore never opens a journal that another machine writes to; SQLite does not support that on a
shared file system.
"""

from __future__ import annotations

import dataclasses
import json
import os
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import dlm_eval
from dlm_eval.engine import Cost
from dlm_eval.errors import DlmEvalError, RunError, UserError
from dlm_eval.harness.checks import check_settings
from dlm_eval.harness.identity import asked_with, digests, note_settings, readable
from dlm_eval.harness.model_kind import Loaded, Spent
from dlm_eval.harness.results import json_value
from dlm_eval.harness.run import run
from dlm_eval.harness.run_metadata import environment
from dlm_eval.harness.run_settings import RunSettings, output_directory
from dlm_eval.harness.shard import Shard
from dlm_eval.jobs import Answer
from dlm_eval.redaction import redact, redact_values

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
    earlier = _earlier(folder)
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
    except UserError:
        if earlier:  # a mistake in a command does not undo the shard of an earlier one
            _write(folder, earlier)
        raise
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
        key: [answer.error, answer.rows, answer.seconds, answer.computed]
        for key, answer in loaded.lm.failed.items()
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


def _earlier(folder: Path) -> dict[str, Any]:
    """Returns what an earlier run wrote; {} if there was none."""
    try:
        found = json.loads((folder / FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


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
            sorted(place.rglob(FILE))
            if os.path.isdir(place)
            else [place]
            if place.name == FILE
            else []
        )
        found = [file for file in inside if os.path.isfile(file)]
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
                key: Answer(
                    None, str(error), int(rows), float(s), None if ran is None else int(ran)
                )
                for key, (error, rows, s, ran) in data["failed"].items()
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
