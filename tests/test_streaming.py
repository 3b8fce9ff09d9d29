"""Jobs are streamed: a pool answers requests while those of the next documents and tasks are built."""

from __future__ import annotations

import contextvars
import os
import re
import signal
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from engine_jobs import comparable, mixed, run
from harness_tasks import DOCUMENTS, write_tasks
from lm_eval.api.task import ConfigurableTask

from dlm_eval import Canvas, evaluate
from dlm_eval.answers import Answering, in_this_context
from dlm_eval.decoding import fill
from dlm_eval.decoding.state import DecodeState
from dlm_eval.engine import Engine, engine
from dlm_eval.errors import RunError, UserError
from dlm_eval.harness.lm import DiffusionLM
from dlm_eval.harness.lm_eval_patches import request_flow
from dlm_eval.jobs import Answer, FillJob, Job, JobStream, Stopped
from dlm_eval.journal import Journal
from dlm_eval.models import load_model
from dlm_eval.models.denoiser import members
from dlm_eval.workers import InProcess
from dlm_eval.workers.devices import parse_devices
from dlm_eval.workers.driver import start_workers
from dlm_eval.workers.messages import WorkerConfig

NAMES = ["t_choice", "t_last", "t_write", "t_roll", "t_infill"]
TOY = {"vocab": 6, "inconsistency": 0.5}
SECONDS = 120.0  # after which a test that waits for a thread fails


@pytest.fixture(scope="module")
def tasks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = write_tasks(tmp_path_factory.mktemp("tasks"))
    twin = (folder / "t_write.yaml").read_text().replace("task: t_write", "task: t_twin")
    (folder / "t_twin.yaml").write_text(twin)
    again = (folder / "t_write.yaml").read_text().replace("task: t_write", "task: t_again")
    again = again.replace("max_gen_toks: 8", "max_gen_toks: 6")
    (folder / "t_again.yaml").write_text(again + "repeats: 3\n")
    return folder


@pytest.fixture(autouse=True)
def no_thread_is_left() -> Iterator[None]:
    yield
    assert not [thread for thread in threading.enumerate() if thread.name == "pool"]


def asked(tasks: Path, names: Any = NAMES, **settings: Any) -> dict[str, Any]:
    options = {"include_path": str(tasks), "bootstrap_iters": 10, "verbosity": "ERROR"}
    return evaluate("toy", names, **{"model_args": TOY, **options, **settings})


def plain(value: Any) -> Any:
    """Returns results without what tells of the clock or of the batches."""
    if isinstance(value, dict):
        return {
            key: plain(part)
            for key, part in value.items()
            if "seconds" not in key
            and not key.startswith(("device", "date", "start_time", "end_time"))
        }
    if isinstance(value, (list, tuple)):
        return [plain(part) for part in value]
    return repr(value)


def stored(folder: Path) -> int:
    with closing(sqlite3.connect(folder / "journal.sqlite")) as journal:
        return int(journal.execute("SELECT COUNT(*) FROM answers").fetchone()[0])


class Building:
    """Calls `then(name)` after the requests of each task are built and passed on."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, then: Any) -> None:
        self.names: list[str] = []
        build = ConfigurableTask.build_all_requests

        def build_all_requests(task: Any, **options: Any) -> None:
            then(task.config.task)
            build(task, **options)
            self.names.append(task.config.task)

        monkeypatch.setattr(ConfigurableTask, "build_all_requests", build_all_requests)


@pytest.fixture
def forwards(monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Event]:
    """Is set after the first forward pass."""
    happened, plain_forward = threading.Event(), engine.forward

    def forward(*args: Any) -> Any:
        try:
            return plain_forward(*args)
        finally:
            happened.set()

    monkeypatch.setattr(engine, "forward", forward)
    yield happened


def test_02_the_first_job_runs_before_the_second_task_is_built(
    tasks: Path, monkeypatch: pytest.MonkeyPatch, forwards: threading.Event
) -> None:
    waited = []

    def then(name: str) -> None:
        if name != NAMES[0]:
            waited.append(forwards.wait(SECONDS))

    building = Building(monkeypatch, then)
    asked(tasks)
    assert waited == [True] * 4 and building.names == NAMES


def test_02_the_first_job_runs_while_its_task_is_built(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, forwards: threading.Event
) -> None:
    """A task whose class builds requests in its own way is passed on when all are built."""
    count = 2 * request_flow.FIRST_PASSED
    documents = [{**DOCUMENTS[i % 5], "text": f"abc{'abcdef'[i % 6]}" * 2} for i in range(count)]
    construct, waited, done = ConfigurableTask.construct_requests, [], []

    def construct_requests(task: Any, *args: Any, **named: Any) -> Any:
        done.append(task.config.task)
        if len(done) == count:
            waited.append(forwards.wait(SECONDS))
        return construct(task, *args, **named)

    monkeypatch.setattr(ConfigurableTask, "construct_requests", construct_requests)
    folder = write_tasks(tmp_path, documents)
    found = asked(folder, "t_write")
    assert waited == [True] and done == ["t_write"] * count
    assert found["dlm_eval"]["cost"]["t_write"]["samples"] == count

    passed, ahead = [], DiffusionLM.ahead

    def noted(lm: DiffusionLM, requests: Any) -> None:
        passed.append(len(requests))
        ahead(lm, requests)

    monkeypatch.setattr(DiffusionLM, "ahead", noted)
    asked(folder, "t_write")
    assert passed == [request_flow.FIRST_PASSED, count - request_flow.FIRST_PASSED]
    passed.clear()
    Building(monkeypatch, lambda _: None)
    asked(folder, "t_write")
    assert passed == [count]


@pytest.mark.parametrize("passed", [(1, 1), (2, 3), (32, 512)])
@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"limit": 2, "estimator": "cubature,max_forwards=48,stop_at_error_rate=0.05"},
        {"samples": {"t_choice": [3, 1], "t_again": [4]}, "decode": {"temperature": 1.0}},
    ],
)
def test_02_files_are_equal_with_and_without_streaming(
    tasks: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    settings: dict[str, Any],
    passed: tuple[int, int],
) -> None:
    monkeypatch.setattr(request_flow, "FIRST_PASSED", passed[0])
    monkeypatch.setattr(request_flow, "MOST_PASSED", passed[1])
    names = [*NAMES, "t_twin", "t_again"] if "samples" not in settings else ["t_choice", "t_again"]
    found, files = [], []
    for streams in ("1", "0"):
        monkeypatch.setenv("DLM_EVAL_STREAM", streams)
        home = tmp_path / streams
        found.append(plain(asked(tasks, names, output_path=str(home), **settings)))
        texts = {
            path.name.rsplit("_", 1)[0]: re.sub(r'"seconds": [0-9.e+-]+', "", path.read_text())
            for path in (home / "toy").glob("samples_*.jsonl")
        }
        files.append(texts)
        assert len(texts) == len(names)
    for part in ("results", "samples", "configs", "n-samples"):
        assert found[0][part] == found[1][part]
    for part in ("cost", "errors", "fingerprint"):
        assert found[0]["dlm_eval"].get(part) == found[1]["dlm_eval"].get(part)
    assert files[0] == files[1]
    assert stored(tmp_path / "1") == stored(tmp_path / "0")


def test_02_equal_jobs_of_two_tasks_run_once(tasks: Path) -> None:
    one, both = (
        asked(tasks, names)["dlm_eval"]["cost"] for names in (["t_write"], ["t_write", "t_twin"])
    )
    assert both["total"]["device_rows"] == one["total"]["device_rows"] > 0
    assert both["t_twin"]["rows"] == both["t_write"]["rows"] == one["t_write"]["rows"]


def test_02_a_task_that_cannot_be_built_loses_nothing(
    tasks: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = asked(tasks)
    put, first = Journal.put, threading.Event()

    def noted(journal: Journal, *args: Any) -> None:
        put(journal, *args)
        first.set()

    def then(name: str) -> None:
        if name == NAMES[3]:
            assert first.wait(SECONDS)
            raise ValueError("no such column")

    with monkeypatch.context() as patched:
        patched.setattr(Journal, "put", noted)
        Building(patched, then)
        with pytest.raises(RunError, match="the run failed: ValueError: no such column"):
            asked(tasks, output_path=str(tmp_path))
    before = stored(tmp_path)
    assert before > 0
    found = asked(tasks, output_path=str(tmp_path))
    assert plain(found["results"]) == plain(expected["results"])
    assert (
        found["dlm_eval"]["cost"]["total"]["device_rows"]
        < expected["dlm_eval"]["cost"]["total"]["device_rows"]
    )


def test_02_a_pool_that_fails_ends_the_building(
    tasks: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    failed = threading.Event()

    def broken(pool: InProcess, jobs: Any, *_: Any) -> None:
        next(iter(jobs))
        failed.set()
        raise RunError("the device is lost: on purpose")

    def then(name: str) -> None:
        if name == NAMES[2]:
            assert failed.wait(SECONDS)

    monkeypatch.setattr(InProcess, "run", broken)
    building = Building(monkeypatch, then)
    with pytest.raises(RunError, match="the device is lost: on purpose"):
        asked(tasks)
    assert building.names[:2] == NAMES[:2] and len(building.names) < 5


def test_02_an_interrupt_while_building_keeps_what_is_answered(
    tasks: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put, first = Journal.put, threading.Event()

    def noted(journal: Journal, *args: Any) -> None:
        put(journal, *args)
        first.set()

    def then(name: str) -> None:
        if name == NAMES[1]:
            assert first.wait(SECONDS)
            raise KeyboardInterrupt

    monkeypatch.setattr(Journal, "put", noted)
    Building(monkeypatch, then)
    with pytest.raises(KeyboardInterrupt):
        asked(tasks, output_path=str(tmp_path))
    assert stored(tmp_path) > 0


SLOW = """
import time
from pathlib import Path

def text(doc):
    if doc["word"] == "bead":  # the last document, so not while the task loads
        Path({marker!r}).touch()
        time.sleep(600)
    return doc["text"]
"""


def test_02_a_signal_while_building_ends_the_command_in_one_line(tmp_path: Path) -> None:
    folder = write_tasks(tmp_path)
    marker = tmp_path / "building"
    (tmp_path / "slow.py").write_text(SLOW.format(marker=str(marker)))
    slow = (folder / "t_write.yaml").read_text().replace("task: t_write", "task: t_slow")
    slow = slow.replace('doc_to_text: "{{text}}"', "doc_to_text: !function slow.text")
    (folder / "t_slow.yaml").write_text(slow)
    command = [
        *(sys.executable, "-m", "dlm_eval", "--model", "toy", "--model_args", "vocab=6"),
        *("--tasks", "t_choice,t_slow", "--include_path", str(folder)),
        *("--output_path", str(tmp_path / "out")),
    ]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=dict(os.environ)
    )
    answered = False
    while process.poll() is None and not (answered and marker.exists()):
        try:
            answered = stored(tmp_path / "out") > 0
        except sqlite3.Error:
            threading.Event().wait(0.05)
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130, errors
    assert errors.strip().splitlines()[-1].startswith("dlm-eval: interrupted;")
    assert stored(tmp_path / "out") > 0


def test_02_score_only_streams_what_the_journal_has(tasks: Path, tmp_path: Path) -> None:
    first = asked(tasks, output_path=str(tmp_path))
    again = asked(tasks, output_path=str(tmp_path), score_only=True)
    assert plain(again["results"]) == plain(first["results"])
    more = asked(tasks, [*NAMES, "t_again"], output_path=str(tmp_path), score_only=True)
    assert more["dlm_eval"]["cost"]["t_again"]["errors"] == len(DOCUMENTS)
    assert plain(more["samples"]["t_choice"]) == plain(first["samples"]["t_choice"])


def test_02_the_progress_line_counts_all_requests_of_a_kind(
    tasks: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked(tasks, [*NAMES, "t_twin"], verbosity="WARNING")
    lines = capsys.readouterr().err
    # choices and last words, whole texts; the twin's jobs are those of t_write
    assert re.findall(r"(\w+): (\d+)/(\d+),", lines) == [
        ("likelihood", "20", "20"),
        ("generation", "10", "10"),
        ("likelihood", "5", "5"),
    ]


def test_02_the_variable_takes_two_values(tasks: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DLM_EVAL_STREAM", "no")
    with pytest.raises(UserError, match="DLM_EVAL_STREAM 'no' is not allowed"):
        asked(tasks, "t_write")


def test_02_requests_not_prepared_before_are_answered_too(tasks: Path) -> None:
    plain_ahead, seen = DiffusionLM.ahead, []

    def only_first(lm: DiffusionLM, requests: Any) -> None:
        seen.append(requests[0].task_name)
        if len(seen) % 2:
            plain_ahead(lm, requests)

    expected = asked(tasks)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(DiffusionLM, "ahead", only_first)
        found = asked(tasks)
    assert seen == NAMES and plain(found["samples"]) == plain(expected["samples"])


# -- pools and streams -----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def tiny() -> Any:
    return load_model("tiny", dtype="float32", device="cpu")


def slowly(stream: JobStream, parts: list[list[Job]], found: dict[int, Answer]) -> Any:
    """Returns a `done` that puts the next part when all jobs put so far are answered."""
    due = iter(parts)
    count = 0

    def done(number: int, answer: Answer) -> None:
        nonlocal count
        assert number not in found
        found[number] = answer
        if len(found) == count:
            more()

    def more() -> None:
        nonlocal count
        part = next(due, None)
        if part is None:
            stream.close()
        else:
            count += len(part)
            stream.put(part)

    more()
    return done


def test_02_a_growing_stream_has_the_bits_of_a_list(tiny: Any) -> None:
    """One process, and two workers that go on with other jobs after a run that was stopped."""
    jobs = mixed(tiny, 12)
    undisturbed = run(Engine(tiny), jobs)
    parts = [jobs[:1], jobs[1:9], jobs[9:]]
    workers = start_workers(WorkerConfig("tiny", {"dtype": "float32"}), parse_devices("cpu:2"))
    try:
        for pool in (InProcess(Engine(tiny)), workers):
            found: dict[int, Answer] = {}
            stream = JobStream(more=True)
            pool.run(stream, slowly(stream, parts, found))
            assert [comparable(found[number]) for number in range(len(jobs))] == undisturbed

            stopped = JobStream(jobs, more=True)
            with pytest.raises(Stopped):
                pool.run(stopped, lambda number, answer, stream=stopped: stream.stop())
            found = {}
            pool.run(list(reversed(jobs)), found.__setitem__)
            answers = [comparable(found[number]) for number in range(len(jobs))]
            assert answers == list(reversed(undisturbed))
    finally:
        workers.close()


def test_02_a_stream_stops_within_a_filling(tiny: Any) -> None:
    job = next(job for job in mixed(tiny, 12) if isinstance(job, FillJob))
    made = Engine(tiny)
    stream = JobStream([job], more=True)
    made.on_forward = stream.stop
    with pytest.raises(Stopped):
        InProcess(made).run(stream, lambda *_: None)
    assert made.cost.forwards == 1 and made.on_forward == stream.stop


def test_02_an_iterated_stream_ends_when_it_is_closed(tiny: Any) -> None:
    jobs = mixed(tiny, 3)
    stream, seen = JobStream(jobs[:1], more=True), []
    for number, job in enumerate(stream):
        seen.append(job)
        if number + 1 < len(jobs):
            stream.put(jobs[number + 1 : number + 2])
        else:
            stream.close()
    assert seen == jobs and not stream.open


class Count:
    """Counts the answers."""

    def __init__(self) -> None:
        self.total = self.known = self.new = 0

    def grow(self, number: int) -> None:
        self.total += number

    def __call__(self, answer: Answer, known: bool) -> None:
        self.known, self.new = self.known + known, self.new + (not known)


def test_02_known_and_equal_jobs_do_not_reach_the_pool(tiny: Any, tmp_path: Path) -> None:
    jobs = mixed(tiny, 6)
    with closing(Journal(tmp_path / "journal.sqlite")) as journal:
        counts = []
        for background in (True, False):
            count = Count()
            pool = InProcess(Engine(tiny))
            answering = Answering(pool.run, "model", journal, background)
            keys = [*answering.add(jobs[:4], count), *answering.add([*jobs[2:], jobs[0]], count)]
            found = answering.answers(keys)
            assert found[2:4] == found[4:6] and found[0] == found[-1]
            answering.finish()
            counts.append((count.total, count.known, count.new))
        distinct = len(set(jobs))
        assert counts == [(distinct, 0, distinct), (distinct, distinct, 0)]


def test_02_the_pools_thread_has_the_settings_of_its_maker() -> None:
    name: contextvars.ContextVar[str] = contextvars.ContextVar("name", default="none")
    name.set("here")
    seen: list[Any] = []

    def look() -> None:
        seen.append((
            name.get(), torch.is_grad_enabled(), torch.is_autocast_enabled("cpu"),
            torch.get_autocast_dtype("cpu"), torch.get_num_threads(), torch.get_default_device(),
            torch.is_inference_mode_enabled(),
        ))  # fmt: skip

    threads = torch.get_num_threads()
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16), torch.device("meta"):
        work = in_this_context(look)
        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
        look()
    assert seen[0] == seen[1] == (
        "here", False, True, torch.bfloat16, threads, torch.device("meta"), False,
    )  # fmt: skip


# -- processor time of steps -----------------------------------------------------------------------


def test_03_a_block_is_looked_up_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """And what a model offers is asked as often in 24 steps as in 4."""
    model = load_model("toy", vocab=6)
    canvas = Canvas.completion([1, 2], 24, "k")
    looked: list[int] = []
    asked_for: list[Any] = []
    begin, missing = DecodeState.__init__, members.missing_members

    class Blocks(np.ndarray):  # type: ignore[type-arg]
        def __eq__(self, other: Any) -> Any:
            looked.append(other)
            return np.asarray(self) == other

    def made(state: DecodeState, *args: Any) -> None:
        begin(state, *args)
        state.block_of = state.block_of.view(Blocks)

    def noted(model: Any, protocol: Any) -> list[str]:
        asked_for.append(protocol.__name__)
        return missing(model, protocol)

    monkeypatch.setattr(DecodeState, "__init__", made)
    monkeypatch.setattr(members, "missing_members", noted)
    counts = []
    for steps in (4, 24):
        looked.clear()
        asked_for.clear()
        options = {"steps": steps, "block_length": 6, "early_exit": False}
        (filling,) = fill(model, [canvas], "confidence", **options)
        assert filling.forwards == steps and looked == [0, 1, 2, 3]
        counts.append(asked_for.count("KVCacheDenoiser"))
    assert counts[0] == counts[1]
