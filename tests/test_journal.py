"""The journal: what was put is there after any death, what is torn or foreign is set aside, and several runs can share one file."""

from __future__ import annotations

import json
import os
import random
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest

from dlm_eval.cli import main
from dlm_eval.errors import RunError
from dlm_eval.journal import Journal

# A run in miniature, without torch: puts answers "<who>-0", "<who>-1", ... as fast as it can, and says how far the disk has got.
WRITER = """
import sys, time
from pathlib import Path
from dlm_eval.journal import Journal
path, who, count = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
journal = Journal(path)
for number in range(count):
    journal.put(f"{who}-{number}", {"value": number, "text": "x" * 200}, who)
    if number % 20 == 19:
        journal.commit()
        print(number, flush=True)
journal.close()
"""


def writer(path: Path, who: str, count: int, **options: object) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", WRITER, str(path), who, str(count)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **options,  # type: ignore[call-overload]
    )


def keys(path: Path) -> set[str]:
    journal = Journal(path)
    found = {row["key"] for row in journal.export()}
    journal.close()
    return found


def test_answers_are_there_after_closing(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "deep" / "journal.sqlite")
    journal.put("a", {"x": 1.5, "nothing": float("nan")}, "model")
    assert journal.get(["a", "b"])["a"]["x"] == 1.5  # at once
    journal.note("budget", 4096)
    journal.close()
    journal = Journal(tmp_path / "deep" / "journal.sqlite")
    assert (
        journal.get(["a", "b"]).keys() == {"a"}
        and journal.noted("budget") == 4096
        and journal.noted("other") is None
    )
    journal.close()


def test_an_answer_is_on_disk_within_seconds_though_no_other_follows(tmp_path: Path) -> None:
    path = tmp_path / "journal.sqlite"
    journal = Journal(path)
    journal.put("only", {"x": 1})
    limit = time.monotonic() + 10
    with sqlite3.connect(path) as other:
        while not other.execute("SELECT COUNT(*) FROM answers").fetchone()[0]:
            assert time.monotonic() < limit
            time.sleep(0.05)
    journal.close()


def test_kill_9_loses_nothing_that_was_committed(tmp_path: Path) -> None:
    path, draw, said = tmp_path / "journal.sqlite", random.Random(0), -1
    for _ in range(4):  # each time further, into the same file
        process = writer(path, "w", 100_000)
        assert process.stdout is not None
        for _ in range(draw.randint(1, 12)):
            said = max(said, int(process.stdout.readline()))
        process.send_signal(signal.SIGKILL)
        process.communicate()
        found = keys(path)
        assert {f"w-{n}" for n in range(said + 1)} <= found
    assert not list(tmp_path.glob("*.aside-*"))


def test_two_runs_share_one_journal(tmp_path: Path) -> None:
    path = tmp_path / "journal.sqlite"
    both = [writer(path, who, 400) for who in "abc"]
    for process in both:
        _, errors = process.communicate(timeout=120)
        assert process.returncode == 0, errors
    assert keys(path) == {f"{who}-{n}" for who in "abc" for n in range(400)}
    assert not list(tmp_path.glob("*.aside-*"))


def test_a_full_disk_is_one_line_and_loses_nothing(tmp_path: Path) -> None:
    import resource

    path = tmp_path / "journal.sqlite"
    limit = lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))  # noqa: E731
    process = writer(path, "w", 100_000, preexec_fn=limit)
    out, errors = process.communicate(timeout=120)
    assert (
        process.returncode != 0
        and "cannot be written" in errors.splitlines()[-1]
        and "RunError" in errors.splitlines()[-1]
    )
    said = int(out.splitlines()[-1])
    assert said >= 100 and {f"w-{n}" for n in range(said + 1)} <= keys(path)


def filled(path: Path) -> None:
    journal = Journal(path)
    for number in range(2000):
        journal.put(str(number), {"x": "y" * 100})
    journal.close()


@pytest.mark.parametrize("damage", ["cut", "overwritten", "text", "foreign", "header"])
def test_a_torn_or_foreign_file_is_set_aside_whole_and_said(
    tmp_path: Path, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "journal.sqlite"
    filled(path)
    whole = path.read_bytes()
    if damage == "cut":
        path.write_bytes(whole[: len(whole) // 2])
    elif damage == "overwritten":
        path.write_bytes(whole[:8192] + os.urandom(16384) + whole[8192 + 16384 :])
    elif damage == "header":
        path.write_bytes(b"\0" * 100 + whole[100:])
    elif damage == "text":
        path.write_text("notes of mine, nothing to do with it\n" * 100)
    else:
        path.unlink()
        with sqlite3.connect(path) as other:
            other.execute(
                "CREATE TABLE answers (key TEXT PRIMARY KEY, value TEXT, model TEXT, time REAL)"
            )
    damaged = path.read_bytes()
    journal = Journal(path)
    journal.put("new", {"x": 1})
    journal.close()
    assert keys(path) == {"new"}
    (aside,) = (
        file for file in tmp_path.glob("*.aside-*") if not file.name.endswith(("-wal", "-shm"))
    )
    assert aside.read_bytes() == damaged and aside.name in caplog.text


def test_runs_that_find_a_torn_file_at_once_share_the_new_one(tmp_path: Path) -> None:
    path = tmp_path / "journal.sqlite"
    path.write_text("torn " * 2000)
    both = [writer(path, who, 40) for who in "abcd"]
    for process in both:
        _, errors = process.communicate(timeout=120)
        assert process.returncode == 0, errors
    assert keys(path) == {f"{who}-{n}" for who in "abcd" for n in range(40)}
    assert len(list(tmp_path.glob("*.aside-*"))) == 1


def test_random_damage_never_gives_another_answer(tmp_path: Path) -> None:
    path, draw = tmp_path / "journal.sqlite", random.Random(0)
    journal = Journal(path)
    for number in range(300):
        journal.put(f"{number:064}", {"x": number, "text": "y" * number})
    journal.note("budget", 4096)
    journal.close()
    whole = path.read_bytes()
    for _ in range(25):
        data = bytearray(whole)
        for _ in range(draw.choice([1, 20])):
            data[draw.randrange(len(data))] ^= 1 << draw.randrange(8)
        path.write_bytes(data if draw.random() < 0.7 else data[: draw.randrange(len(data))])
        journal = Journal(path)
        found = journal.get([f"{number:064}" for number in range(300)])
        assert all(found[key]["x"] == int(key) for key in found) and journal.noted("budget") in (
            4096,
            None,
        )
        journal.put("new", {"x": 1})
        journal.close()
        assert "new" in keys(path)
        for file in tmp_path.iterdir():
            file.unlink()


def test_an_answer_that_stands_under_another_key_counts_as_absent(tmp_path: Path) -> None:
    path = tmp_path / "journal.sqlite"
    filled(path)
    with sqlite3.connect(path) as other:
        other.execute(
            "UPDATE answers SET (value, checksum) = (SELECT value, checksum FROM answers WHERE key = '1') WHERE key = '2'"
        )
        other.execute("UPDATE answers SET value = CAST(value AS BLOB) WHERE key = '3'")
    journal = Journal(path)
    assert journal.get(["1", "2", "3"]).keys() == {"1"}
    journal.close()


@pytest.mark.parametrize("byte", [b"8", b"\xff"])
def test_a_damaged_answer_counts_as_absent(
    tmp_path: Path, byte: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    """One byte of one value, which SQLite's own checks do not see."""
    path = tmp_path / "journal.sqlite"
    journal = Journal(path)
    journal.put("good", {"x": 1.25})
    journal.put("bad", {"x": 1.75})
    journal.close()
    path.write_bytes(path.read_bytes().replace(b"1.75", b"1." + byte + b"5"))
    journal = Journal(path)
    assert (
        journal.get(["good", "bad"]) == {"good": {"x": 1.25}}
        and "1 answer is damaged" in caplog.text
    )
    assert [row["key"] for row in journal.export()] == ["good"]
    journal.put("bad", {"x": 1.75})
    journal.close()
    assert not list(tmp_path.glob("*.aside-*")) and keys(path) == {"good", "bad"}


def test_a_place_that_cannot_be_written_is_a_run_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match="cannot be written"):
        Journal(tmp_path / "file" / "journal.sqlite")


# -- dlm-eval cache --------------------------------------------------------------------------------


def test_cache_lists_exports_and_removes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "run" / "journal.sqlite"
    journal = Journal(path)
    for number in range(3):
        journal.put(f"a{number}", {"x": number}, "aaaa1111")
    journal.put("b", {"x": "é"}, "bbbb2222")
    journal.note("model:aaaa1111", "tiny")
    journal.close()
    assert main(["cache", "ls", str(tmp_path)]) == 0
    out = capsys.readouterr().out
    assert "aaaa1111" in out and "3 answers" in out and "tiny" in out
    assert (
        main(
            [
                "cache",
                "export",
                str(tmp_path),
                "--fingerprint",
                "bbbb",
                "-o",
                str(tmp_path / "out.jsonl"),
            ]
        )
        == 0
    )
    (line,) = (tmp_path / "out.jsonl").read_text(encoding="utf-8").splitlines()
    assert json.loads(line)["answer"] == {"x": "é"}
    assert main(["cache", "rm", str(tmp_path), "--fingerprint", "aaaa"]) == 0
    assert keys(path) == {"b"}
    assert main(["cache", "rm", str(tmp_path)]) == 0 and not path.exists()
    capsys.readouterr()
    assert main(["cache", "ls", str(tmp_path)]) == 2 and "has no journal" in capsys.readouterr().err


def test_cache_mistakes_are_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    journal = Journal(tmp_path / "journal.sqlite")
    journal.close()
    for words in (
        ["export", str(tmp_path), "-o", str(tmp_path)],
        ["rm", str(tmp_path), "--fingerprint", "zzz"],
    ):
        assert main(["cache", *words]) == 2
        assert len(capsys.readouterr().err.splitlines()) == 1


def test_a_journal_in_use_is_not_removed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    journal = Journal(tmp_path / "journal.sqlite")
    assert (
        main(["cache", "rm", str(tmp_path)]) == 2
        and "does a run use it?" in capsys.readouterr().err
    )
    journal.put("a", {"x": 1})
    journal.close()
    assert keys(journal.path) == {"a"}


def test_a_foreign_file_is_left_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "letter.txt"
    path.write_text("dear all\n" * 1000)
    for verb in ("ls", "export", "rm"):
        assert main(["cache", verb, str(path)]) == 2
    assert path.read_text() == "dear all\n" * 1000 and list(tmp_path.iterdir()) == [path]
