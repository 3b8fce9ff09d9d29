"""`dlm-eval cache ls|rm|export`: journals, which store finished answers."""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dlm_eval.cli.options import path_of
from dlm_eval.errors import UserError, unknown_name_error
from dlm_eval.output import one_line
from dlm_eval.printable import counted
from dlm_eval.redaction import redact

if TYPE_CHECKING:
    from dlm_eval.journal import Journal

NAME = "journal.sqlite"


def add_parser(subparsers: Any) -> None:
    """Adds `cache` with the verbs ls, rm and export."""
    parser = subparsers.add_parser(
        "cache", help="finished answers: list, remove, export", description=__doc__
    )
    verbs = parser.add_subparsers(dest="verb", metavar="ls|rm|export", required=True)
    for verb, text in (
        ("ls", "list journals: models, answers, size, age"),
        ("rm", "remove answers (of one model), or whole journals"),
        ("export", "print every answer as a line of JSON"),
    ):
        sub = verbs.add_parser(verb, help=text, description=text)
        sub.add_argument(
            "path", nargs="?", type=path_of("PATH", str), default="results",
            help="journal file, or a folder with journals in or below it (default: results)",
        )  # fmt: skip
        if verb != "ls":
            sub.add_argument(
                "--fingerprint", default="", metavar="HEX",
                help="only answers of the model whose fingerprint begins so (see ls)",
            )  # fmt: skip
        if verb == "export":
            sub.add_argument(
                "-o",
                "--output",
                type=path_of("--output", str),
                metavar="FILE",
                help="write to FILE instead of standard output",
            )
        sub.set_defaults(main={"ls": _ls, "rm": _rm, "export": _export}[verb])


def find(path: str) -> list[Path]:
    """Returns the journals at or below `path`.

    Raises:
        UserError: there is no journal.
    """
    place = Path(path)
    inside = sorted(place.rglob(NAME)) if os.path.isdir(place) else []
    found = [place] if os.path.isfile(place) else inside
    if not found:
        raise UserError(
            f"cache path '{path}' has no journal ({NAME}); give an --output_path of a run"
        )
    return found


def _open(path: Path) -> Journal:
    """Checks and opens the journal. Opening a damaged file without the check would rename it."""
    import sqlite3

    from dlm_eval.journal import Journal, check

    try:
        check(path)
    except sqlite3.Error as error:
        raise UserError(f"cache path '{path}' is not a readable journal: {error}") from error
    return Journal(path)


def _ls(args: argparse.Namespace) -> int:
    for path in find(args.path):
        journal = _open(path)
        print(f"{one_line(str(path))}  {path.stat().st_size / 2**20:.1f} MiB")
        for row in journal.summary():
            when = time.strftime("%Y-%m-%d %H:%M", time.localtime(row["last"]))
            print(
                f"  {row['fingerprint'][:12]}  {row['answers']:>8} answers "
                f" {row['bytes'] / 2**20:>8.1f} MiB  last {when}  {one_line(row['model'])}"
            )
        journal.close()
    return 0


def _rm(args: argparse.Namespace) -> int:
    paths = find(args.path)
    if args.fingerprint:
        _require(paths, args.fingerprint)
    for path in paths:
        if args.fingerprint:
            journal = _open(path)
            print(
                f"{one_line(str(path))}: {counted(journal.remove(args.fingerprint), 'answer')} "
                "removed"
            )
            journal.close()
            continue
        _release(path)
        for suffix in ("", "-wal", "-shm"):
            path.with_name(path.name + suffix).unlink(missing_ok=True)
        print(f"{one_line(str(path))}: removed")
    return 0


def _require(paths: list[Path], fingerprint: str) -> None:
    """Raises UserError if no journal has answers of a model with this fingerprint."""
    known: set[str] = set()
    for path in paths:
        journal = _open(path)
        known |= {row["fingerprint"] for row in journal.summary()}
        journal.close()
    if not any(name.startswith(fingerprint) for name in known):
        raise unknown_name_error("--fingerprint", fingerprint, {name[:12] for name in known})


def _release(path: Path) -> None:
    """Checks that a file may be removed: it is a journal (possibly damaged) that no run uses.

    Raises:
        UserError: the file is in use or is not a journal.
    """
    import sqlite3
    from contextlib import closing

    from dlm_eval.journal import check

    try:
        if path.name != NAME:
            check(path)
        with closing(sqlite3.connect(path, timeout=1)) as database:
            database.execute("PRAGMA journal_mode=DELETE")  # fails if another process uses the file
    except sqlite3.OperationalError as error:
        raise UserError(
            f"cache path '{path}' cannot be removed ({error}); does a run use it?"
        ) from error
    except sqlite3.DatabaseError as error:
        if path.name != NAME:
            raise UserError(f"cache path '{path}' is not a journal: {error}") from error


def _export(args: argparse.Namespace) -> int:
    paths = find(args.path)
    if args.fingerprint:
        _require(paths, args.fingerprint)
    try:
        stream = open(args.output, "w", encoding="utf-8") if args.output else sys.stdout  # noqa: SIM115
    except (OSError, ValueError) as error:
        raise UserError(
            f"--output '{args.output}' cannot be written: "
            f"{getattr(error, 'strerror', None) or error}"
        ) from error
    try:
        for path in paths:
            journal = _open(path)
            for row in journal.export():
                if row["model"].startswith(args.fingerprint):
                    print(json.dumps(redact(row)), file=stream)
            journal.close()
    finally:
        if args.output:
            stream.close()
    return 0
