"""The journal: every finished answer on disk within a second, so that nothing is computed twice.

One SQLite file (WAL) under the output path. A key is the sha256 of (model fingerprint, settings, request, seed); a value is the answer as JSON.
Any number of runs may use one journal at once; a file that is torn or not ours is set aside, never overwritten.
"""

from __future__ import annotations

import json
import logging
import sqlite3
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from dlm_eval.errors import RunError

APPLICATION_ID = 0x444C4D45  # "DLME": marks the file as ours (SQLite's application_id)
COMMIT_SECONDS = 1.0

log = logging.getLogger(__name__)


class Journal:
    """Answers by key.

    Args:
        path: the SQLite file; its directory is made.

    Raises:
        RunError: the file cannot be created or written.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._database = _open(path)
        except sqlite3.DatabaseError as error:
            if isinstance(error, sqlite3.OperationalError):
                raise RunError(f"journal {path} cannot be opened: {error}") from error
            aside = set_aside(path)
            log.warning("journal %s is not readable (%s); it was set aside as %s", path, error, aside.name)
            self._database = _open(path)
        except OSError as error:
            raise RunError(f"journal {path} cannot be written: {error.strerror or error}") from error
        self._committed = time.monotonic()

    def get(self, keys: Iterable[str]) -> dict[str, dict[str, Any]]:
        """Returns the answers that are there, by key."""
        wanted, found = list(keys), {}
        for begin in range(0, len(wanted), 500):
            part = wanted[begin : begin + 500]
            marks = ",".join("?" * len(part))
            for key, value in self._database.execute(f"SELECT key, value FROM answers WHERE key IN ({marks})", part):
                found[key] = json.loads(value)
        return found

    def put(self, key: str, answer: dict[str, Any]) -> None:
        """Stores an answer; it is on disk at the next commit, a second later at most while answers come.

        Raises:
            RunError: the disk is full or not writable; everything committed before is safe.
        """
        try:
            self._database.execute(
                "INSERT OR REPLACE INTO answers (key, value, time) VALUES (?, ?, ?)", (key, json.dumps(answer), time.time())
            )
            if time.monotonic() - self._committed > COMMIT_SECONDS:
                self.commit()
        except sqlite3.Error as error:
            raise RunError(f"journal {self.path} cannot be written: {error}; what it holds is safe, run again") from error

    def commit(self) -> None:
        """Makes everything put so far durable."""
        self._database.commit()
        self._committed = time.monotonic()

    def close(self) -> None:
        """Commits and closes."""
        self.commit()
        self._database.close()


def set_aside(path: Path) -> Path:
    """Renames a journal (with its WAL files) so that it is out of the way; returns the new name."""
    aside = path.with_name(f"{path.name}.aside-{time.strftime('%Y%m%dT%H%M%S')}-{time.monotonic_ns() % 10**6}")
    for suffix in ("", "-wal", "-shm"):
        part = path.with_name(path.name + suffix)
        if part.exists():
            part.rename(aside.with_name(aside.name + suffix))
    return aside


def _open(path: Path) -> sqlite3.Connection:
    database = sqlite3.connect(path, timeout=60, check_same_thread=False)
    try:
        database.execute("PRAGMA journal_mode=WAL")
        database.execute("PRAGMA synchronous=NORMAL")
        owner = database.execute("PRAGMA application_id").fetchone()[0]
        tables = {name for (name,) in database.execute("SELECT name FROM sqlite_master")}
        if owner != APPLICATION_ID and tables:
            raise sqlite3.DatabaseError("another program's database")
        database.execute(f"PRAGMA application_id={APPLICATION_ID}")
        database.execute("CREATE TABLE IF NOT EXISTS answers (key TEXT PRIMARY KEY, value TEXT NOT NULL, time REAL NOT NULL)")
        if database.execute("PRAGMA quick_check(1)").fetchone()[0] != "ok":
            raise sqlite3.DatabaseError("torn")
        database.commit()
    except sqlite3.DatabaseError:
        database.close()
        raise
    return database
