"""Runs finish: the command is killed, preempted, interrupted, loses workers and memory at random moments, and ends with the undisturbed run's numbers.

The seeds make the moments reproducible as far as a clock allows. DLM_EVAL_FAULT_ROUNDS=20 repeats the whole with other seeds.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

ROUNDS = int(os.environ.get("DLM_EVAL_FAULT_ROUNDS", "1"))
COMMAND = [
    "--model",
    "tiny",
    "--model_args",
    "dtype=float32",
    "--tasks",
    "demo_story_infill,demo_choice",
    "--limit",
    "10",
    "--estimator",
    "k,samples=48",
]
TOTAL = 50  # requests: 10 stories, 10 questions of 4 choices


def start(home: Path, *options: str, **environment: str) -> subprocess.Popen[str]:
    variables = {**os.environ, "OMP_NUM_THREADS": "1", **environment}
    command = [sys.executable, "-m", "dlm_eval", *COMMAND, "--output_path", str(home), *options]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=variables)


def finish(process: subprocess.Popen[str]) -> str:
    out, errors = process.communicate(timeout=600)
    assert process.returncode == 0, errors
    return out + errors


def answers(home: Path) -> int:
    """Returns how many answers are on disk."""
    if not (home / "journal.sqlite").exists():
        return 0
    try:
        with closing(sqlite3.connect(f"file:{home / 'journal.sqlite'}?mode=ro", uri=True, timeout=10)) as journal:
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
            if parent == driver and b"dlm_eval.pool.local" in (entry / "cmdline").read_bytes():
                found.append(int(entry.name))
        except (OSError, IndexError):
            continue
    return found


def numbers(home: Path) -> dict[str, Any]:
    """Returns everything of the last results and samples that must not depend on how the run went."""
    file = sorted(home.rglob("results_*.json"))[-1]
    results = json.loads(file.read_text())
    kept: dict[str, Any] = {
        key: results[key] for key in ("results", "configs", "n-samples", "versions", "n-shot", "task_hashes")
    }
    kept["fingerprint"] = results["dlm_eval"]["fingerprint"]
    for task in ("demo_story_infill", "demo_choice"):
        lines = [
            json.loads(line) for line in sorted(home.rglob(f"samples_{task}_*.jsonl"))[-1].read_text().splitlines()
        ]
        kept[task] = [{key: value for key, value in line.items() if key != "seconds"} for line in lines]
    return kept


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("undisturbed")
    finish(start(home, "--devices", "cpu"))
    assert answers(home) == TOTAL
    return home


@pytest.mark.parametrize("seed", range(ROUNDS))
def test_a_run_that_is_struck_again_and_again_ends_with_the_same_numbers(
    undisturbed: Path, tmp_path: Path, seed: int
) -> None:
    draw, deaths, kept = random.Random(seed), 0, 0

    def strike(devices: str, number: signal.Signals, low: int, high: int) -> subprocess.Popen[str]:
        """Starts the command and sends it a signal once a random number of answers is on disk."""
        nonlocal deaths, kept
        process = start(tmp_path, "--devices", devices)
        if wait_for(tmp_path, draw.randint(low, high), process):
            time.sleep(draw.random())
            process.send_signal(number)
            deaths += 1
        assert answers(tmp_path) >= kept  # nothing that was on disk is lost
        kept = answers(tmp_path)
        return process

    process = strike("cpu:2", signal.SIGKILL, 1, 12)
    process.communicate(timeout=60)
    for number in draw.sample([signal.SIGTERM, signal.SIGINT], 2):
        begin = kept
        process = strike(draw.choice(["cpu", "cpu:2"]), number, begin + 2, begin + 8)
        sent = time.monotonic()
        _, errors = process.communicate(timeout=60)
        if process.returncode != 0:  # else the run was quicker than the signal
            assert process.returncode == 130 and "the same command goes on" in errors and "Traceback" not in errors
            assert time.monotonic() - sent < 5
    process = start(tmp_path, "--devices", "cpu:2", DLM_EVAL_MEMORY_TOKENS="96")  # and memory runs out
    if wait_for(tmp_path, draw.randint(kept + 1, kept + 6), process):
        for worker in workers_of(process.pid)[:1]:
            os.kill(worker, signal.SIGKILL)
            deaths += 1
    said = finish(process)
    assert "50/50" in said or answers(tmp_path) == TOTAL
    assert numbers(tmp_path) == numbers(undisturbed)
    print(f"seed {seed}: {deaths} deaths, 0 differences")


def test_scores_can_be_made_anew_without_the_model(undisturbed: Path, tmp_path: Path) -> None:
    (tmp_path / "journal.sqlite").write_bytes((undisturbed / "journal.sqlite").read_bytes())
    finish(start(tmp_path, "--score_only"))
    assert numbers(tmp_path) == numbers(undisturbed)
    total = json.loads(sorted(tmp_path.rglob("results_*.json"))[-1].read_text())["dlm_eval"]["cost"]["total"]
    assert total["device_forwards"] == 0


def test_score_only_says_what_the_journal_lacks(undisturbed: Path, tmp_path: Path) -> None:
    (tmp_path / "journal.sqlite").write_bytes((undisturbed / "journal.sqlite").read_bytes())
    process = start(tmp_path, "--score_only", "--seed", "7")  # other noise: other answers, which nobody has
    out, errors = process.communicate(timeout=300)
    assert process.returncode == 1 and "20 samples could not be answered" in out, errors
    line = sorted(tmp_path.rglob("samples_demo_choice_*.jsonl"))[-1].read_text().splitlines()[0]
    assert "--score_only" in json.loads(line)["error"]


def test_launchers_that_start_many_are_refused_with_the_alternative(tmp_path: Path) -> None:
    process = start(tmp_path, WORLD_SIZE="2", RANK="0")
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 2 and "--devices gpu:2" in errors and len(errors.strip().splitlines()) == 1
