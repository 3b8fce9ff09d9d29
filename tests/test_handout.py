"""Jobs are handed out fairly: no worker is idle while another has jobs that it has not begun."""

from __future__ import annotations

import importlib.util
import itertools
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from engine_jobs import comparable, mixed, run

from dlm_eval.canvas import Canvas
from dlm_eval.decoding import resolve
from dlm_eval.decoding.checkpoints import State
from dlm_eval.engine import Engine
from dlm_eval.engine.rows import ForwardRow, LogProbs
from dlm_eval.jobs import Answer, Checkpoint, FillJob, Job, ScoreJob, drive_jobs
from dlm_eval.likelihood.auto import Auto
from dlm_eval.models import load_model
from dlm_eval.workers import worker as worker_module
from dlm_eval.workers.chunks import Chunks, weight
from dlm_eval.workers.devices import worker_devices
from dlm_eval.workers.driver import Workers, start_workers
from dlm_eval.workers.messages import Answered, Ready, Returned, WorkerConfig, usage


@pytest.fixture(scope="module")
def handout() -> ModuleType:
    """The simulation of benchmarks/handout.py."""
    path = Path(__file__).parents[1] / "benchmarks" / "handout.py"
    spec = importlib.util.spec_from_file_location("handout", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["handout"] = module  # dataclasses look it up
    spec.loader.exec_module(module)
    return module


# -- in simulated time -----------------------------------------------------------------------------


@pytest.mark.parametrize("slow", [1.0, 0.5])
def test_1_eight_workers_are_busy_with_humaneval(
    handout: ModuleType, shared: Path, slow: float
) -> None:
    jobs, real = handout.humaneval(shared / "data")
    assert len(jobs) == 164
    found = handout.simulate(jobs, handout.devices(real, slow))
    assert not any(answer.error for answer in found.answers)
    assert found.busy >= 0.9 and min(found.shares) >= 0.85


def test_1_eight_workers_are_busy_with_gsm8k(handout: ModuleType, shared: Path) -> None:
    jobs, real = handout.gsm8k(shared / "data", steps=4)
    assert len(jobs) == 1319
    found = handout.simulate(jobs, handout.devices(real, steps=4))
    assert not any(answer.error for answer in found.answers)
    assert found.busy >= 0.9 and min(found.shares) >= 0.85
    # of 65 536; a batch holds 40 canvases, and each worker writes 165
    assert found.batch >= 0.6 * handout.BATCH


def waiting_in_vain(handout: ModuleType, found: Any, begun: dict[int, float]) -> float:
    """Returns the longest time in which a ready worker had no job while another had jobs that it had not begun."""
    held: list[set[int]] = [set() for _ in found.ready]
    ready: set[int] = set()
    longest, since, before = 0.0, None, 0.0
    begins = [(when, None, number) for number, when in begun.items()]
    unbegun: list[set[int]] = [set() for _ in found.ready]
    for when, worker, message in sorted([*found.messages, *begins], key=lambda one: one[0]):
        if when > before:
            vain = any(not held[one] for one in ready) and any(unbegun)
            since = (before if since is None else since) if vain else None
            longest = max(longest, when - since if since is not None else 0.0)
            before = when
        if worker is None:
            for one in unbegun:
                one.discard(message)
        elif isinstance(message, Ready):
            ready.add(worker)
        elif isinstance(message, list):
            held[worker] |= {number for number, _ in message}
            unbegun[worker] |= {number for number, _ in message}
        elif isinstance(message, Answered):
            held[worker].discard(message.number)
        elif isinstance(message, Returned):
            held[worker] -= set(message.numbers)
            unbegun[worker] -= set(message.numbers)
    return longest


@pytest.mark.parametrize("lengths", [[64] * 60, list(range(20, 80)), [2000] + [40] * 30])
def test_1_no_worker_waits_longer_than_a_pass_while_another_has_jobs_not_begun(
    handout: ModuleType, monkeypatch: pytest.MonkeyPatch, lengths: list[int]
) -> None:
    """Batches of one canvas, so that workers hold many jobs that they have not begun; the third worker is slow, and three are late."""
    clock, begun = handout.Clock(), {}
    begin = worker_module._Worker._begin

    def noted(self: Any) -> tuple[int, Job]:
        number, job = begin(self)
        begun[number] = clock.now
        return number, job

    monkeypatch.setattr(worker_module._Worker, "_begin", noted)
    settings = resolve({"steps": 16, "early_exit": False})
    jobs = [
        FillJob(Canvas.completion([1] * length, 20, f"d{i}"), settings, 0)
        for i, length in enumerate(lengths)
    ]
    devices = [handout.Device(0.0, 1000.0), handout.Device(7.0, 1000.0), handout.Device(1.0, 100.0), handout.Device(11.0, 1000.0)]  # fmt: skip
    found = handout.simulate(jobs, devices, 64, clock)
    longest = max(end - start for own in found.passes for start, end, _ in own)
    assert waiting_in_vain(handout, found, begun) <= longest + 1e-6
    assert all(found.passes)
    assert any(
        isinstance(message, Returned) and message.numbers for _, _, message in found.messages
    )


# -- real workers ----------------------------------------------------------------------------------

LATE = """
import os, time
from pathlib import Path
from dlm_eval.models.families import tiny
from dlm_eval.models.family import load_family
from dlm_eval.models.loading import LoadSettings

FOLDER = Path(__file__).parent

def load(settings: LoadSettings):
    model = load_family(tiny.FAMILY, settings)
    if (FOLDER / "workers").exists():
        try:
            (FOLDER / "first").touch(exist_ok=False)
        except FileExistsError:  # the second worker
            while not (FOLDER / "second may start").exists():
                time.sleep(0.01)
            return model
        run = model.logits

        def logits(tokens, valid=None, positions=None):
            while (FOLDER / "first must wait").exists():
                time.sleep(0.01)
            return run(tokens, valid, positions)

        model.logits = logits
    return model
"""


@pytest.mark.parametrize("engine", ["local", pytest.param("ray", marks=pytest.mark.full)])
def test_1_a_late_worker_takes_jobs_that_the_first_has_not_begun(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, engine: str
) -> None:
    """The first worker stops in a forward pass while the second one, ready later, does the rest. The first then gives back what it has not begun."""
    if engine == "ray":
        pytest.importorskip("ray", reason="ray is not installed (pip install 'dlm_eval[ray]')")
    tiny = load_model("tiny", dtype="float32", device="cpu")
    jobs = [job for job in mixed(tiny, 40) if isinstance(job, FillJob)]
    undisturbed = run(Engine(tiny), jobs)
    (tmp_path / "late.py").write_text(LATE)
    (tmp_path / "workers").touch()
    hold = tmp_path / "first must wait"
    returned: list[int] = []
    by_worker: dict[int, list[int]] = {0: [], 1: []}
    hand_out, take = Workers._hand_out, Workers._take

    def checked(self: Workers, task: Any) -> None:
        hand_out(self, task)
        if any(slot.idle for slot in self.slots):
            assert not task.chunks
            assert all(slot.asked or slot.bare for slot in self.slots if slot.held)
            hold.unlink(missing_ok=True)

    def noted(self: Workers, slot: Any, message: Any, task: Any) -> None:
        if isinstance(message, Returned):
            returned.extend(message.numbers)
        if isinstance(message, Answered):
            by_worker[slot.index].append(message.number)
        take(self, slot, message, task)

    monkeypatch.setattr(Workers, "_hand_out", checked)
    monkeypatch.setattr(Workers, "_take", noted)
    config = WorkerConfig(
        str(tmp_path / "late.py"), {"pretrained": "asset:tiny", "dtype": "float32"}, batch_size=1
    )
    pool = start_workers(config, worker_devices("cpu:2", engine), engine)
    found: dict[int, Answer] = {}

    def done(number: int, answer: Answer) -> None:
        found[number] = answer
        if len(found) == 2:
            hold.touch()
            (tmp_path / "second may start").touch()

    try:
        pool.run(jobs, done)
    finally:
        pool.close()
        if engine == "ray":
            sys.modules["ray"].shutdown()
    assert [comparable(found[number]) for number in range(len(jobs))] == undisturbed
    first, second = sorted(
        by_worker.values(), key=lambda numbers: not set(numbers) & set(list(found)[:2])
    )
    assert len(first) + len(second) == len(jobs) and set(second) & set(returned)
    # half of the jobs were in the driver's hands, and it got returned ones
    assert len(second) > len(jobs) // 2


# -- parts -----------------------------------------------------------------------------------------


def fills(count: int, length: int = 50) -> list[Job]:
    settings = resolve({"steps": 10})
    return [
        FillJob(Canvas.completion([1] * (length - 10), 10, f"f{i}"), settings, 0)
        for i in range(count)
    ]


def test_1_a_chunk_is_a_part_of_the_fair_share() -> None:
    jobs = fills(100, 1100)
    assert len(Chunks(jobs, 2).next()) == 25
    assert len(Chunks(jobs, 8).next()) == 7
    assert len(Chunks(jobs, 2).next(speed=0.1)) == 5
    assert Chunks(jobs, 2).next(held=25 * weight(jobs[0])) == []
    assert len(Chunks(jobs, 2).next(held=10 * weight(jobs[0]))) == 15
    assert len(Chunks(jobs, 1000).next()) == 1  # never nothing for a worker without jobs
    # short canvases: the whole share, for a batch of 1024 tokens
    assert len(Chunks(fills(100, 50), 10).next()) == 10


def test_1_jobs_given_back_are_handed_out_again_in_order() -> None:
    jobs: list[Job] = fills(40)
    chunks = Chunks(jobs, 2)
    first, second = chunks.next(), chunks.next()
    chunks.put_back(reversed(first))
    numbers = list(first)
    again: list[int] = []
    while chunks:
        again += chunks.next()
    assert again[: len(numbers)] == numbers and sorted(again + second) == list(range(40))


def test_1_choices_of_a_question_under_way_stay_with_their_worker() -> None:
    settings = Auto(max_forwards=2)
    jobs = [(4 * q + c, ScoreJob(Canvas.continuation([1, 2], [c], f"q{q}"), settings, 0)) for q in range(3) for c in range(4)]  # fmt: skip
    sent: list[Any] = []
    engine = Engine(load_model("toy"))
    worker = worker_module._Worker(lambda: usage(engine), lambda wait=True: None, sent.append)
    worker.take(jobs)
    assert next(worker.jobs()) == jobs[0]
    worker.take("give back")
    assert sent[-1] == Returned([number for number, _ in jobs[4:]])
    assert list(itertools.islice(worker.jobs(), 4)) == [*jobs[1:4], None]


def test_1_a_checkpoint_makes_a_job_lighter() -> None:
    (job,) = fills(1)
    assert isinstance(job, FillJob)
    state = State(0, 4, 4, 4, 4, 0, 3, (), (), ())
    begun = FillJob(job.canvas, job.settings, 0, Checkpoint(state, 1.0))
    assert weight(begun) == 6 * len(job.canvas) and weight(job) == 10 * len(job.canvas)


def test_1_samples_and_guidance_count_as_work() -> None:
    (job,) = fills(1)
    assert isinstance(job, FillJob)
    drawn = FillJob(job.canvas, resolve({"steps": 10, "samples": 3, "temperature": 1.0}), 0)
    guided = FillJob(job.canvas, resolve({"steps": 10, "guidance": 0.5}), 0)
    assert weight(drawn) == 3 * weight(job) and weight(guided) == 2 * weight(job)


def test_1_no_more_canvases_are_begun_than_two_batches_hold() -> None:
    toy = load_model("toy")
    jobs = [
        FillJob(Canvas.completion([1, 2], 4, f"f{i}"), resolve({"early_exit": False}), 0)
        for i in range(50)
    ]
    for engine, most in (
        (Engine(toy, batch_tokens=30, equal_lengths=False), 10),
        (Engine(toy, batch_rows=3), 6),
    ):
        taken, ended, under_way = [], [], []

        def source(taken: list[int] = taken, ended: list[int] = ended, under_way: list[int] = under_way) -> Iterator[tuple[int, Job]]:  # fmt: skip
            for number, job in enumerate(jobs):
                taken.append(number)
                under_way.append(len(taken) - len(ended))
                yield number, job

        drive_jobs(engine, source(), lambda number, answer, ended=ended: ended.append(number))  # type: ignore[misc]
        assert sorted(ended) == list(range(50)) and max(under_way) == most


def test_1_a_program_that_comes_later_joins_those_under_way() -> None:
    toy = load_model("toy")

    def program(name: int) -> Iterator[list[ForwardRow]]:
        for step in range(3):
            yield [
                ForwardRow(
                    np.array([name, step, toy.mask_id]), np.array([2]), LogProbs(), np.array([1])
                )
            ]
        return name

    def programs() -> Iterator[Any]:
        yield program(0)
        yield None
        yield program(1)
        yield None
        yield program(2)

    outcomes: Sequence[Any] = Engine(toy).drive(programs())
    assert [outcome.answer for outcome in outcomes] == [0, 1, 2] and [
        outcome.rows for outcome in outcomes
    ] == [3, 3, 3]
