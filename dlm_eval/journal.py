"""The journal: every finished answer is on disk within a second, so that nothing is computed twice.

It is one SQLite file (WAL) under the output path. A key is the sha256 of (model fingerprint,
settings, request, seed); a value is the answer as JSON. Long unfinished answers have checkpoints.
Answers are collected and written in one short transaction per second, so that any number of runs
may share one journal. A file that is damaged or not a journal is renamed, never overwritten. An
answer with a wrong checksum is ignored.
"""

from __future__ import annotations

import fcntl
import json
import logging
import os
import sqlite3
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any
from zlib import crc32

from dlm_eval.errors import RunError
from dlm_eval.printable import counted
from dlm_eval.redaction import redact

APPLICATION_ID = 0x444C4D45  # "DLME": marks the file as a journal (SQLite's application_id)
VERSION = 4  # of the tables below (SQLite's user_version)
COMMIT_SECONDS = 1.0
LOCK_SECONDS = 60.0  # how long to wait for another run's lock
TABLES = (
    "CREATE TABLE IF NOT EXISTS answers (key TEXT PRIMARY KEY, value TEXT NOT NULL, checksum "
    "INTEGER NOT NULL, model TEXT NOT NULL, time REAL NOT NULL)",
    # for unfinished answers; older versions ignore this table
    "CREATE TABLE IF NOT EXISTS checkpoints (key TEXT PRIMARY KEY, value TEXT NOT NULL, checksum "
    "INTEGER NOT NULL, model TEXT NOT NULL, time REAL NOT NULL)",
    "CREATE TABLE IF NOT EXISTS notes (key TEXT PRIMARY KEY, value TEXT NOT NULL, checksum "
    "INTEGER NOT NULL)",
)
# Condition for rows that a run can have written. The file may come from anywhere, and a column of
# SQLite can hold any type.
SOUND = "typeof(model) = 'text' AND typeof(value) = 'text' AND time BETWEEN 0 AND 1e11"
ROWS_AT_ONCE = 1000  # copied in one transaction
LONGEST = 2**28  # maximum bytes of a value; a long answer has a few million

log = logging.getLogger(__name__)


class Journal:
    """Answers and checkpoints by key, and notes (measurements and settings of runs).

    Args:
        path: the SQLite file; its directory is created.

    Raises:
        RunError: the file cannot be created or written.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._database = open_or_set_aside(path)
        self._lock = threading.Lock()
        self._fresh: dict[str, tuple[str, str, float]] = {}
        self._checkpoints: dict[str, tuple[str, str, float]] = {}
        self._fault: RunError | None = None
        self._closing = threading.Event()
        self._writer = threading.Thread(target=self._write_on, name="journal", daemon=True)
        self._writer.start()

    def get(self, keys: Iterable[str]) -> dict[str, dict[str, Any]]:
        """Returns the stored answers of `keys`, by key."""
        return self._stored("answers", self._fresh, list(keys))

    def kept(self, keys: Iterable[str]) -> dict[str, dict[str, Any]]:
        """Returns the stored checkpoints of `keys`, by key."""
        return self._stored("checkpoints", self._checkpoints, list(keys))

    def _stored(
        self, name: str, waiting: Mapping[str, tuple[str, str, float]], keys: Sequence[str]
    ) -> dict[str, dict[str, Any]]:
        """Returns the values of `keys` in a table or among those still to be written to it."""
        rows = []
        with self._lock:
            for begin in range(0, len(keys), 500):
                part = keys[begin : begin + 500]
                query = f"SELECT key, value, checksum FROM {name} WHERE key IN ({','.join('?' * len(part))})"
                rows += self._read(query, part)
            fresh = {key: json.loads(waiting[key][0]) for key in keys if key in waiting}
        return {key: json.loads(value) for key, value, _ in self._whole(rows)} | fresh

    def put(self, key: str, answer: dict[str, Any], model: str = "") -> None:
        """Stores an answer of `model` (its fingerprint). It is on disk within a second.

        Raises:
            RunError: the disk is full or not writable. Everything committed before is safe.
        """
        if self._fault is not None:
            raise self._fault
        with self._lock:
            self._fresh[key] = (json.dumps(answer), model, time.time())
            self._checkpoints.pop(key, None)

    def keep(self, key: str, checkpoint: dict[str, Any], model: str = "") -> None:
        """Stores the checkpoint of an unfinished answer, until a later one or the answer comes."""
        with self._lock:
            self._checkpoints[key] = (json.dumps(checkpoint), model, time.time())

    def note(self, key: str, value: Any) -> None:
        """Stores a note at once, without secrets."""
        text = json.dumps(redact(value))
        self._execute(
            [("INSERT OR REPLACE INTO notes VALUES (?, ?, ?)", [(key, text, checksum(key, text))])]
        )

    def noted(self, key: str) -> Any:
        """Returns a note, or None."""
        with self._lock:
            rows = self._read("SELECT key, value, checksum FROM notes WHERE key = ?", [key])
        return next((json.loads(value) for _, value, _ in self._whole(rows)), None)

    def notes(self, prefix: str) -> dict[str, Any]:
        """Returns the notes whose keys begin with `prefix`, by key."""
        with self._lock:
            rows = self._read(
                "SELECT key, value, checksum FROM notes WHERE substr(key, 1, ?) = ?",
                [len(prefix), prefix],
            )
        return {key: json.loads(value) for key, value, _ in self._whole(rows)}

    def commit(self) -> None:
        """Writes everything stored so far to disk.

        Raises:
            RunError: the disk is full or not writable.
        """
        with self._lock:
            fresh, checkpoints = dict(self._fresh), dict(self._checkpoints)
        statements: list[tuple[str, list[Any]]] = []
        for name, waiting in (("answers", fresh), ("checkpoints", checkpoints)):
            rows = [
                (key, value, checksum(key, value), *more) for key, (value, *more) in waiting.items()
            ]
            statements += (
                [(f"INSERT OR REPLACE INTO {name} VALUES (?, ?, ?, ?, ?)", rows)] if rows else []
            )
        if fresh:
            statements.append(("DELETE FROM checkpoints WHERE key = ?", [(key,) for key in fresh]))
        if statements:
            self._execute(statements)
        with self._lock:
            for written, left in ((fresh, self._fresh), (checkpoints, self._checkpoints)):
                for key, row in written.items():
                    if left.get(key) is row:
                        del left[key]
        if self._fault is not None:
            raise self._fault

    def close(self) -> None:
        """Commits and closes."""
        self._closing.set()
        self._writer.join()
        try:
            self.commit()
        finally:
            self._database.close()

    def summary(self) -> list[dict[str, Any]]:
        """Returns, for each model, its name, answers, bytes, and times of the first and last."""
        query = f"SELECT model, COUNT(*), SUM(LENGTH(value)), MIN(time), MAX(time) FROM answers WHERE {SOUND} GROUP BY model ORDER BY MAX(time)"
        with self._lock:
            rows = self._read(query)
        names = ("fingerprint", "answers", "bytes", "first", "last")
        called = [self.noted(f"model:{row[0]}") for row in rows]
        return [
            {"model": name if isinstance(name, str) else "", **dict(zip(names, row, strict=True))}
            for name, row in zip(called, rows, strict=True)
        ]

    def export(self) -> Iterator[dict[str, Any]]:
        """Yields every answer: key, model fingerprint, time, answer."""
        with self._lock:
            rows = self._read(
                f"SELECT key, value, checksum, model, time FROM answers WHERE {SOUND} ORDER BY "
                "time, key"
            )
        for key, value, _, model, when in self._whole(rows):
            yield {"key": key, "model": model, "time": when, "answer": json.loads(value)}

    def take(self, path: Path, model: str) -> int:
        """Copies the answers of `model`, and the notes about it, from another journal.

        The other file is only read. No run may write to it.

        Args:
            path: the other journal.
            model: fingerprint of the model.

        Returns:
            The number of answers copied.

        Raises:
            sqlite3.Error: the other file is damaged or not a journal.
        """
        with closing(_read_only(path)) as other:
            _examine(other)
            query = (
                f"SELECT key, value, checksum, model, time FROM answers WHERE {SOUND} AND model = ?"
            )
            found, count = other.execute(query, [model]), 0
            while rows := found.fetchmany(ROWS_AT_ONCE):
                whole = self._whole(rows)
                self._execute([("INSERT OR REPLACE INTO answers VALUES (?, ?, ?, ?, ?)", whole)])
                count += len(whole)
            query = "SELECT key, value, checksum FROM notes WHERE key = ? OR substr(key, 1, 6) = 'asked:'"
            notes = self._whole(other.execute(query, [f"model:{model}"]).fetchall())
            self._execute([("INSERT OR REPLACE INTO notes VALUES (?, ?, ?)", notes)])
        return count

    def _whole(self, rows: list[Any]) -> list[Any]:
        """Returns the rows (key, value, checksum, ...) whose checksums match.

        SQLite's own checks do not detect damage inside a page.
        """
        whole = [row for row in rows if checksum(row[0], row[1]) == row[2] and _is_json(row[1])]
        if len(whole) < len(rows):
            damaged = counted(len(rows) - len(whole), "answer", "are")
            log.warning("journal %s: %s damaged; ignored", self.path, damaged)
        return whole

    def remove(self, model: str = "") -> int:
        """Removes answers of models whose fingerprint begins with `model`; returns how many."""
        query, like = "FROM answers WHERE substr(model, 1, ?) = ?", (len(model), model)
        with self._lock:
            ((count,),) = self._read(f"SELECT COUNT(*) {query}", like)
        self._execute(
            [
                (f"DELETE {query}", [like]),
                (f"DELETE {query.replace('answers', 'checkpoints')}", [like]),
            ]
        )
        return int(count)

    def _write_on(self) -> None:
        """Commits every second; runs in its own thread."""
        while not self._closing.wait(COMMIT_SECONDS):
            try:
                self.commit()
            except RunError as fault:
                self._fault = fault
                return

    def _read(self, query: str, values: Sequence[Any] = ()) -> list[Any]:
        """Returns a query's rows; the caller holds the lock."""
        try:
            return self._database.execute(query, values).fetchall()
        except sqlite3.Error as error:  # damage that the check at opening did not find
            raise RunError(
                f"journal {self.path} cannot be read ({error}); move it away and run again"
            ) from error

    def _execute(self, statements: list[tuple[str, list[Any]]]) -> None:
        """Runs statements in one transaction."""
        try:
            with self._lock:
                self._database.execute("BEGIN IMMEDIATE")
                try:
                    for text, rows in statements:
                        self._database.executemany(text, rows)
                    self._database.execute("COMMIT")
                except BaseException:
                    if self._database.in_transaction:
                        self._database.execute("ROLLBACK")
                    raise
        except sqlite3.Error as error:
            raise RunError(
                f"journal {self.path} cannot be written ({error}); what it holds is safe, run again"
            ) from error


class StoredJournal(Journal):
    """A journal that is only read; its file does not change.

    Another run may write to it at the same time. Only if there is a WAL file, SQLite may create its
    index (`-shm`) beside it.

    Raises:
        RunError: the file cannot be opened, is damaged or is not a journal.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = threading.Lock()
        self._fresh, self._checkpoints = {}, {}
        try:
            self._database = _read_only(path, "ro")
            _examine(self._database)
        except sqlite3.Error as error:
            raise RunError(f"journal {path} cannot be read: {error}") from error

    def close(self) -> None:
        """Closes the file."""
        self._database.close()


def _is_json(text: Any) -> bool:
    try:
        json.loads(text)
    except (ValueError, TypeError, RecursionError):
        return False
    return True


def checksum(key: Any, value: Any) -> int:
    """Returns the checksum of `value` under `key`.

    The key is included, since a damaged index can lead to another row.
    """
    return crc32(f"{key} {value}".encode())


def open_or_set_aside(path: Path) -> sqlite3.Connection:
    """Opens a journal. A file that is damaged or not a journal is renamed with a warning, and a new
    one created.

    Raises:
        RunError: the file cannot be created or opened.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # if two runs find a damaged file, the second must not rename the first one's new file
        with _alone_in(path.parent):
            try:
                return _open(path)
            except sqlite3.OperationalError as error:
                raise RunError(f"journal {path} cannot be opened: {error}") from error
            except sqlite3.DatabaseError as error:
                aside = set_aside(path)
                log.warning(
                    "journal %s is not readable (%s); it was set aside as %s",
                    path,
                    error,
                    aside.name,
                )
                return _open(path)
    except (OSError, sqlite3.Error) as error:
        raise RunError(
            f"journal {path} cannot be written: {getattr(error, 'strerror', None) or error}"
        ) from error


@contextmanager
def _alone_in(folder: Path) -> Iterator[None]:
    """Locks `folder` while a journal is opened in it, if its file system supports locks."""
    place = os.open(folder, os.O_RDONLY)
    try:
        with suppress(OSError):
            fcntl.flock(place, fcntl.LOCK_EX)
        yield
    finally:
        os.close(place)


def set_aside(path: Path) -> Path:
    """Renames a journal with its WAL files; returns the new name."""
    aside = path.with_name(
        f"{path.name}.aside-{time.strftime('%Y%m%dT%H%M%S')}-{time.monotonic_ns() % 10**6}"
    )
    for suffix in ("", "-wal", "-shm"):
        part = path.with_name(path.name + suffix)
        if part.exists():
            part.rename(aside.with_name(aside.name + suffix))
    return aside


def _open(path: Path) -> sqlite3.Connection:
    database = sqlite3.connect(
        path, timeout=LOCK_SECONDS, check_same_thread=False, isolation_level=None
    )
    database.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, LONGEST)
    # Damaged text must not raise here: its checksum does not match.
    database.text_factory = lambda data: data.decode(errors="replace")
    try:
        _examine(database)
        _write_ahead(database)
        # FULL: a committed answer survives a power failure, at the cost of one sync per second.
        database.execute("PRAGMA synchronous=FULL")
        database.execute("BEGIN IMMEDIATE")
        for statement in (
            f"PRAGMA application_id={APPLICATION_ID}",
            f"PRAGMA user_version={VERSION}",
            *TABLES,
        ):
            database.execute(statement)
        database.execute("COMMIT")
    except sqlite3.Error:
        database.close()
        raise
    return database


def _read_only(path: Path, with_wal: str = "rw") -> sqlite3.Connection:
    """Opens a journal that no run writes to; its folder may be read-only.

    Args:
        with_wal: SQLite's mode if there are WAL files, of a killed process or of a run.
    """
    left = path.with_name(f"{path.name}-wal").exists()
    address = f"{path.resolve().as_uri()}?mode={with_wal if left else 'ro&immutable=1'}"
    database = sqlite3.connect(
        address, uri=True, timeout=LOCK_SECONDS, isolation_level=None, check_same_thread=False
    )
    database.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, LONGEST)
    database.text_factory = lambda data: data.decode(errors="replace")
    return database


def check(path: Path) -> None:
    """Raises sqlite3.DatabaseError if the file is damaged or not a journal; changes nothing."""
    with closing(sqlite3.connect(path, timeout=LOCK_SECONDS, isolation_level=None)) as database:
        _examine(database)


def _examine(database: sqlite3.Connection) -> None:
    database.execute("PRAGMA trusted_schema=OFF")
    database.execute("BEGIN")  # a consistent view, even if another run writes
    owner, version = (
        database.execute(f"PRAGMA {name}").fetchone()[0]
        for name in ("application_id", "user_version")
    )
    # A file may come from anywhere: a view could be endless, and a trigger could change what is
    # stored.
    if made := database.execute(
        "SELECT sql FROM sqlite_master WHERE sql IS NOT NULL LIMIT 100"
    ).fetchall():
        if owner != APPLICATION_ID:
            raise sqlite3.DatabaseError("another program's database")
        if version != VERSION:
            raise sqlite3.DatabaseError(
                f"its layout is version {version}, this dlm_eval has {VERSION}"
            )
        if {text for (text,) in made} - {text.replace("IF NOT EXISTS ", "") for text in TABLES}:
            raise sqlite3.DatabaseError("it holds other tables than a journal")
        if database.execute("PRAGMA integrity_check(1)").fetchone()[0] != "ok":
            raise sqlite3.DatabaseError("torn")
    database.execute("COMMIT")


def _write_ahead(database: sqlite3.Connection) -> None:
    """Switches to WAL. SQLite ignores its timeout here, so this retries."""
    limit = time.monotonic() + LOCK_SECONDS
    while True:
        try:
            database.execute("PRAGMA journal_mode=WAL")
            return
        except sqlite3.OperationalError as error:
            if "locked" not in str(error) or time.monotonic() > limit:
                raise
            time.sleep(0.02)
