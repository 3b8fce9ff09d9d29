"""Runs finish: the command is killed, preempted, interrupted, loses workers, memory, disk and journal at random moments, and ends with the undisturbed
run's numbers.

The seeds make the moments reproducible as far as a clock allows. By default one run is struck twice; DLM_EVAL_FAULT_ROUNDS=20 strikes twenty larger ones,
each with every fault (about a minute apiece; `pytest -s` shows the counts).
"""

from __future__ import annotations

import json
import os
import random
import resource
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from dlm_eval.cli import main

ROUNDS = int(os.environ.get("DLM_EVAL_FAULT_ROUNDS", "1"))
DOCUMENTS = 40 if ROUNDS > 1 else 15  # of each task
TASKS = ("demo_story_infill", "demo_word_problem", "demo_choice")
OPTIONS = [
    "--model",
    "tiny",
    "--model_args",
    "dtype=float32",
    "--tasks",
    ",".join(TASKS),
    "--limit",
    str(DOCUMENTS),
    "--estimator",
    "mask_count,max_forwards=48",
]
TOTAL = 6 * DOCUMENTS  # requests; a question has four choices
ONE_BY_ONE = ("--batch_size", "1")  # slower, so that there is something to strike


def words(home: Path, *options: str) -> list[str]:
    return [*OPTIONS, "--output_path", str(home), *options]


def start(
    home: Path, *options: str, file_size: int | None = None, **environment: str
) -> subprocess.Popen[str]:
    """Starts the command; `file_size` is the largest file (bytes) that its disk has room for."""
    variables = {**os.environ, "OMP_NUM_THREADS": "1", **environment}
    command = [sys.executable, "-m", "dlm_eval", *words(home, *options)]
    limit = (
        (lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (file_size, file_size)))
        if file_size
        else None
    )
    return subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=variables,
        preexec_fn=limit,
    )


def finish(process: subprocess.Popen[str]) -> str:
    out, errors = process.communicate(timeout=600)
    assert process.returncode == 0, errors
    return out + errors


def answers(home: Path) -> int:
    """Returns how many answers are on disk."""
    if not (home / "journal.sqlite").exists():
        return 0
    try:
        with closing(
            sqlite3.connect(f"file:{home / 'journal.sqlite'}?mode=ro", uri=True, timeout=10)
        ) as journal:
            return int(journal.execute("SELECT COUNT(*) FROM answers").fetchone()[0])
    except sqlite3.Error:
        return 0


def wait_for(home: Path, count: int, process: subprocess.Popen[str]) -> bool:
    """Waits until `count` answers are on disk; returns whether the run is still going."""
    while process.poll() is None and answers(home) < count:
        time.sleep(0.02)
    return process.poll() is None


def workers_of(driver: int) -> list[int]:
    """Returns the worker processes of a driver."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            parent = int((entry / "stat").read_text().rsplit(")", 1)[1].split()[1])
            if parent == driver and b"dlm_eval.workers.local" in (entry / "cmdline").read_bytes():
                found.append(int(entry.name))
        except (OSError, IndexError):
            continue
    return found


def numbers(home: Path) -> dict[str, Any]:
    """Returns everything of the last results and samples that must not depend on how the run went."""
    file = sorted(home.rglob("results_*.json"))[-1]
    results = json.loads(file.read_text())
    kept: dict[str, Any] = {
        key: results[key]
        for key in ("results", "configs", "n-samples", "versions", "n-shot", "task_hashes")
    }
    kept["fingerprint"] = results["dlm_eval"]["fingerprint"]
    for task in TASKS:
        lines = [
            json.loads(line)
            for line in sorted(home.rglob(f"samples_{task}_*.jsonl"))[-1].read_text().splitlines()
        ]
        kept[task] = [
            {key: value for key, value in line.items() if key != "seconds"} for line in lines
        ]
    return kept


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("undisturbed")
    assert main(words(home, "--devices", "cpu")) == 0
    assert answers(home) == TOTAL
    return home


# -- faults, each at a random moment of a run ------------------------------------------------------


@dataclass
class Struck:
    """An output directory whose runs are struck, and how often that has happened.

    Attributes:
        home: the directory; its journal goes from run to run.
        draw: the random moments.
        kept: answers that were on disk when last looked at.
        faults: how often it was struck.
    """

    home: Path
    draw: random.Random
    kept: int = 0
    faults: int = 0

    def somewhere(self) -> list[str]:
        """Returns options that must not matter."""
        return ["--devices", self.draw.choice(["cpu", "cpu:2"]), *ONE_BY_ONE]

    def begin(self, *options: str, **environment: str) -> subprocess.Popen[str]:
        """Starts the command and waits for a random moment: some more answers on disk, and a part of a second."""
        process = start(self.home, *options, **environment)
        if wait_for(self.home, min(TOTAL, self.kept + self.draw.randint(1, TOTAL // 8)), process):
            time.sleep(self.draw.random())
        return process

    def look(self) -> None:
        """Nothing that was on disk is lost."""
        found = answers(self.home)
        assert found >= self.kept
        self.kept = found


def killed(struck: Struck) -> None:
    """kill -9 of the driver, now and then while it is still loading."""
    if struck.draw.random() < 0.25:
        process = start(struck.home, *struck.somewhere())
        time.sleep(struck.draw.uniform(0, 6))
    else:
        process = struck.begin(*struck.somewhere())
    struck.faults += process.poll() is None
    process.kill()
    process.communicate(timeout=60)


def interrupted(struck: Struck) -> None:
    """Ctrl-C, or SIGTERM as of a scheduler: the way on is said within five seconds."""
    process = struck.begin(*struck.somewhere())
    number, sent = struck.draw.choice([signal.SIGTERM, signal.SIGINT]), time.monotonic()
    process.send_signal(number)
    out, errors = process.communicate(timeout=60)
    if "results: " not in out:  # else the run was quicker than the signal
        struck.faults += 1
        assert (
            process.returncode == 130
            and "the same command goes on" in errors
            and "Traceback" not in errors
        )
        assert time.monotonic() - sent < 5


def full(struck: Struck) -> None:
    """The journal's file cannot grow any more."""
    size = max((file.stat().st_size for file in struck.home.glob("journal.sqlite*")), default=0)
    limit = size + struck.draw.randint(8_000, 200_000)
    _, errors = (process := start(struck.home, *struck.somewhere(), file_size=limit)).communicate(
        timeout=120
    )
    if process.returncode != 0:  # else there was room enough
        struck.faults += 1
        assert (
            process.returncode == 1 and "Traceback" not in errors and len(_errors(errors)) == 1
        ), errors


def workers_struck(struck: Struck) -> None:
    """Of three workers one is killed, one hangs, and memory runs out in all; the run goes on."""
    process = struck.begin("--devices", "cpu:3", DLM_EVAL_MEMORY_TOKENS="96", DLM_EVAL_WATCHDOG="4")
    for number, worker in zip(
        (signal.SIGKILL, signal.SIGSTOP), workers_of(process.pid), strict=False
    ):
        os.kill(worker, number)
        struck.faults += 1
    finish(process)


def rivals(struck: Struck) -> None:
    """Two runs on one journal, of which one is killed."""
    other = start(struck.home, *struck.somewhere())
    killed(struck)
    finish(other)


def torn(struck: Struck) -> None:
    """The journal loses its second half, or a page of it is overwritten: it is kept aside or made whole, and said."""
    journal, wal = struck.home / "journal.sqlite", struck.home / "journal.sqlite-wal"
    wal.unlink(missing_ok=True)
    data = bytearray(journal.read_bytes()) if journal.exists() else bytearray(b"letter" * 999)
    place = struck.draw.randrange(0, max(1, len(data) // 4096)) * 4096
    data[place : place + 4096] = struck.draw.randbytes(4096)
    journal.write_bytes(data[: len(data) // 2] if struck.draw.random() < 0.5 else data)
    struck.faults += 1
    struck.kept = 0
    _, errors = (process := struck.begin(*struck.somewhere())).communicate(timeout=120)
    assert process.returncode == 0 and "was set aside" in errors, errors


def _errors(text: str) -> list[str]:
    return [line for line in text.splitlines() if "error" in line]


@pytest.mark.full
@pytest.mark.parametrize("seed", range(ROUNDS))
def test_a_run_that_is_struck_again_and_again_ends_with_the_same_numbers(
    undisturbed: Path, tmp_path: Path, seed: int
) -> None:
    struck = Struck(tmp_path, random.Random(seed))
    for fault in faults(struck.draw):
        fault(struck)
        struck.look()
    finish(start(tmp_path, "--devices", "cpu:2"))
    assert numbers(tmp_path) == numbers(undisturbed)
    print(f"seed {seed}: {struck.faults} faults, 0 differences")


def faults(draw: random.Random) -> list[Callable[[Struck], None]]:
    """Returns what happens to one run: those that end it first, since nothing is left to strike behind the others."""
    ending, lasting = [killed, interrupted, full], [workers_struck, rivals, torn]
    return (
        [*draw.sample(ending, 3), draw.choice(lasting)]
        if ROUNDS > 1
        else [draw.choice(ending), workers_struck]
    )


@pytest.fixture
def scored(undisturbed: Path, tmp_path: Path) -> Path:
    """A directory with the undisturbed run's journal alone."""
    (tmp_path / "journal.sqlite").write_bytes((undisturbed / "journal.sqlite").read_bytes())
    return tmp_path


def test_scores_can_be_made_anew_without_the_model(undisturbed: Path, scored: Path) -> None:
    assert main(words(scored, "--score_only")) == 0
    assert numbers(scored) == numbers(undisturbed)
    total = json.loads(sorted(scored.rglob("results_*.json"))[-1].read_text())["dlm_eval"]["cost"][
        "total"
    ]
    assert total["device_forwards"] == 0


def test_score_only_says_what_the_journal_lacks(
    scored: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # other noise: other likelihoods, which nobody has; what is written draws nothing
    assert main(words(scored, "--score_only", "--seed", "7")) == 1
    assert f"{DOCUMENTS} samples could not be answered" in capsys.readouterr().out
    line = sorted(scored.rglob("samples_demo_choice_*.jsonl"))[-1].read_text().splitlines()[0]
    assert "--score_only" in json.loads(line)["error"]


def test_launchers_that_start_many_are_refused_with_the_alternative(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "0")
    assert main(words(tmp_path)) == 2
    errors = capsys.readouterr().err
    assert "--devices gpu:2" in errors and len(errors.strip().splitlines()) == 1
