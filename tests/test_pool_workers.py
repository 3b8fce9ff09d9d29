"""Worker processes: the same bits for any number of them, and through death, hanging and poison."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest
from engine_jobs import comparable, mixed, run

from dlm_eval.canvas import Canvas
from dlm_eval.engine import Engine
from dlm_eval.errors import RunError, UserError
from dlm_eval.jobs import Answer, Job, ScoreJob
from dlm_eval.likelihood.auto import Auto
from dlm_eval.models import load_model, load_without_weights
from dlm_eval.models.denoiser import Denoiser
from dlm_eval.workers import JournalOnly
from dlm_eval.workers.chunks import Chunks, weight
from dlm_eval.workers.devices import parse_devices, single_device, worker_devices
from dlm_eval.workers.driver import Workers, start_workers
from dlm_eval.workers.messages import WorkerConfig
from dlm_eval.workers.ray_actors import Actor

Done = Callable[[int, Answer], None]


@pytest.fixture(scope="module")
def tiny() -> Denoiser:
    return load_model("tiny", dtype="float32", device="cpu")


@pytest.fixture(scope="module")
def jobs(tiny: Denoiser) -> list[Job]:
    return mixed(tiny, 30)


@pytest.fixture(scope="module")
def undisturbed(tiny: Denoiser, jobs: list[Job]) -> list[Answer]:
    return run(Engine(tiny), jobs)


@pytest.fixture(scope="module")
def three() -> Iterator[Workers]:
    """Three workers; the tests below use and abuse them in turn."""
    pool = start_workers(WorkerConfig("tiny", {"dtype": "float32"}), parse_devices("cpu:3"))
    yield pool
    pool.close()


def answers(
    pool: Workers, jobs: Sequence[Job], disturb: Callable[[int], None] = lambda count: None
) -> list[Answer]:
    """Runs jobs; `disturb(count)` is called as each answer comes, with how many there are."""
    found: dict[int, Answer] = {}

    def done(index: int, answer: Answer) -> None:
        assert index not in found  # each once
        found[index] = answer
        disturb(len(found))

    pool.run(jobs, done)
    return [comparable(found[index]) for index in range(len(jobs))]


def pids(pool: Workers) -> list[int]:
    return [slot.ready.pid for slot in pool.slots if slot.ready is not None]


def test_three_workers_give_the_bits_of_one_process(
    three: Workers, jobs: list[Job], undisturbed: list[Answer]
) -> None:
    assert answers(three, jobs) == undisturbed
    assert answers(three, jobs[:1]) == undisturbed[:1]  # fewer jobs than workers
    assert len(set(pids(three))) >= 1 and os.getpid() not in pids(three)
    used = three.devices()
    assert three.cost().rows == sum(device["rows"] for device in used) > 0 and all(
        device["peak_bytes"] > 2**20 for device in used
    )


def test_a_killed_worker_loses_nothing(
    three: Workers, jobs: list[Job], undisturbed: list[Answer]
) -> None:
    draw, kills = random.Random(1), []

    def kill(count: int) -> None:
        if count in (5, 25):
            kills.append(draw.choice(pids(three)))
            os.kill(kills[-1], signal.SIGKILL)

    before = three.restarts
    assert answers(three, jobs, kill) == undisturbed
    # both may hit one place before it is up again
    assert len(kills) == 2 and three.restarts >= before + 1


def test_a_hanging_worker_is_replaced(
    three: Workers, jobs: list[Job], undisturbed: list[Answer]
) -> None:
    stopped: list[int] = []

    def stop(count: int) -> None:
        if count == 3:
            stopped.append(
                next(slot.ready.pid for slot in three.slots if slot.ready is not None and slot.held)
            )
            os.kill(stopped[0], signal.SIGSTOP)

    three._watchdog = 3.0
    assert answers(three, jobs, stop) == undisturbed
    three._watchdog = 900.0
    with pytest.raises(ProcessLookupError):
        os.kill(stopped[0], 0)


POISON = [5, 4, 5, 4, 5, 3, 5, 3]  # a text that the probes at loading do not try
MODEL = f"""
import os
from dlm_eval.models.families import tiny
from dlm_eval.models.family import load_family
from dlm_eval.models.loading import LoadSettings

def load(settings: LoadSettings):
    model = load_family(tiny.FAMILY, settings)
    run = model.logits

    def logits(tokens, valid=None, positions=None):
        if any(row[:8] == {POISON} for row in tokens.tolist()):
            os.abort()
        return run(tokens, valid, positions)

    model.logits = logits
    return model
"""


@pytest.mark.full  # half a minute or more
def test_a_request_that_kills_its_workers_is_an_error_of_its_own(tmp_path: Path) -> None:
    (tmp_path / "deadly.py").write_text(MODEL)
    settings = Auto(max_forwards=4)
    jobs: list[Job] = [
        ScoreJob(
            Canvas.continuation(POISON if i == 2 else [i % 4, 0], [1, 2], f"q{i}"), settings, 0
        )
        for i in range(4)
    ]
    devices = parse_devices("cpu:2")
    pool = start_workers(
        WorkerConfig(str(tmp_path / "deadly.py"), {"pretrained": "asset:tiny"}), devices
    )
    try:
        found = answers(pool, jobs)
    finally:
        pool.close()
    assert [i for i, answer in enumerate(found) if answer.error] == [2]
    assert "crashed three times" in str(found[2].error) and "SIGABRT" in str(found[2].error)


def test_workers_that_never_start_end_the_run(tmp_path: Path) -> None:
    (tmp_path / "broken.py").write_text(
        "import os\nfrom dlm_eval.models.families.toy import ToySettings\ndef load(settings: ToySettings):\n    os._exit(7)\n"
    )
    pool = start_workers(WorkerConfig(str(tmp_path / "broken.py"), {}), parse_devices("cpu")[:1])
    try:
        with pytest.raises(RunError, match="no worker is left.*code 7"):
            answers(pool, [ScoreJob(Canvas.continuation([0], [1], "q"), Auto(), 0)])
    finally:
        pool.close()


def test_a_model_that_is_refused_is_the_users_mistake() -> None:
    pool = start_workers(WorkerConfig("tiny", {"dtype": "float12"}), parse_devices("cpu")[:1])
    try:
        with pytest.raises(UserError, match="float12"):
            answers(pool, [ScoreJob(Canvas.continuation([0], [1], "q"), Auto(), 0)])
    finally:
        pool.close()


def test_workers_end_when_their_driver_is_killed() -> None:
    program = (
        "import sys, time\nfrom dlm_eval.workers.driver import start_workers\nfrom dlm_eval.workers.devices import parse_devices\nfrom dlm_eval.workers.messages import WorkerConfig, Ready\n"
        "pool = start_workers(WorkerConfig('toy', {}), parse_devices('cpu:2')[:1])\nlink, message = pool._events.get()\nprint(message.pid, flush=True)\ntime.sleep(600)\n"
    )
    driver = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
    assert driver.stdout is not None
    worker = int(driver.stdout.readline())
    driver.kill()
    driver.wait()
    limit = time.monotonic() + 20
    while (
        Path(f"/proc/{worker}").exists()
        and "Z" not in Path(f"/proc/{worker}/stat").read_text().split(")")[-1].split()[0]
    ):
        assert time.monotonic() < limit
        time.sleep(0.1)


# -- without processes -----------------------------------------------------------------------------


def test_a_model_without_weights_has_the_same_facts(tiny: Denoiser) -> None:
    light = load_without_weights("tiny", dtype="float32")
    assert light.describe() == tiny.describe() and light.encode("a cat") == tiny.encode("a cat")
    assert (light.vocab_size, light.max_length, light.mask_id) == (
        tiny.vocab_size,
        tiny.max_length,
        tiny.mask_id,
    )
    assert all(weight.is_meta for weight in light.model.parameters())  # type: ignore[attr-defined]


def test_chunks_hold_every_job_once_longest_first_and_shrink(jobs: list[Job]) -> None:
    chunks, taken = Chunks(jobs, 3), []
    while chunks:
        taken.append(chunks.next())
    numbers = [number for chunk in taken for number in chunk]
    assert sorted(numbers) == list(range(len(jobs)))
    lengths = [len(jobs[number].canvas) for number in numbers]
    assert lengths == sorted(lengths, reverse=True)
    loads = [sum(weight(jobs[number]) for number in chunk) for chunk in taken]
    assert len(taken) >= 10 and max(loads[-3:]) < max(loads[:3])


def test_choices_of_one_length_stay_in_one_chunk() -> None:
    settings = Auto(max_forwards=2)
    jobs: list[Job] = [
        ScoreJob(Canvas.continuation([1, 2, 3], [c], f"q{q}"), settings, 0)
        for q in range(40)
        for c in range(4)
    ]
    chunks = Chunks(jobs, 2)
    while chunks:
        assert len(chunks.next()) % 4 == 0


def test_suspects_are_halved_until_the_culprit_stands_alone() -> None:
    settings = Auto(max_forwards=2)
    jobs: list[Job] = [
        ScoreJob(Canvas.continuation([1], [1], f"q{q}"), settings, 0) for q in range(64)
    ]
    chunks, culprit, tries = Chunks(jobs, 1), 41, 0
    lost: list[int] = []
    while chunks:
        lost += chunks.next()
    guilty = chunks.lost(lost, apart=False)
    while chunks.quarantined:
        group, tries = chunks.next_quarantined(), tries + 1
        if culprit in group:
            guilty += chunks.lost(group, apart=True)
    assert guilty == [culprit] and tries <= 24


@pytest.mark.parametrize(
    ("text", "labels"),
    [("cpu", ["cpu"]), ("cpu:2", ["cpu:0", "cpu:1"]), ("auto", ["cuda:0", "cuda:1", "cuda:2", "cuda:3"]), ("0,2", ["cuda:0", "cuda:2"]),
     ("cuda:1", ["cuda:1"]), ("gpu:2", ["cuda:0", "cuda:1"]), ("0+1,2+3", ["cuda:0+1", "cuda:2+3"])],
)  # fmt: skip
def test_devices(text: str, labels: list[str]) -> None:
    assert [device.label for device in parse_devices(text, gpu_count=4)] == labels


def test_gpu_workers_see_their_own_gpus_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,5,6,7")  # as Slurm gives them out
    one, two = parse_devices("0,2+3", gpu_count=4)
    assert one.environment == {"CUDA_VISIBLE_DEVICES": "4"} and one.options == {"device": "cuda"}
    assert two.environment == {"CUDA_VISIBLE_DEVICES": "6,7"} and two.options == {
        "device": "cuda",
        "device_map": "auto",
    }


@pytest.mark.parametrize("text", ["", "cpu:0", "gpu", "0,,1", "0,0", "9", "tpu:1", "0;1", "-1"])
def test_other_devices_are_refused(text: str) -> None:
    with pytest.raises(UserError, match="--devices"):
        parse_devices(text, gpu_count=4)


def test_one_device_needs_no_worker_but_a_model_on_several_gpus_does(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert worker_devices(None, "local") == worker_devices("cpu", "local") == []
    assert len(worker_devices("cpu:2", "local")) == 2
    monkeypatch.setattr("dlm_eval.workers.devices._count", lambda: 4)
    assert worker_devices("2", "local") == [] and single_device("2") == {"device": "cuda:2"}
    (spanning,) = worker_devices("2+3", "local")  # in this process it would take all four
    assert spanning.environment == {"CUDA_VISIBLE_DEVICES": "2,3"}


def test_score_only_answers_nothing() -> None:
    found: dict[int, Answer] = {}
    JournalOnly().run([ScoreJob(Canvas.continuation([0], [1], "q"), Auto(), 0)], found.__setitem__)
    assert "--score_only" in str(found[0].error)


def test_messages_to_an_actor_keep_their_order() -> None:
    actor = Actor()
    for number in (2, 0, 3, 1):  # Ray may run an actor's calls in any order
        actor.put(number, number)
    assert [actor._inbox.get_nowait() for _ in range(4)] == [0, 1, 2, 3]


def test_an_actor_whose_worker_cannot_even_begin_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "dlm_eval.workers.worker", None)
    (failed,) = [message for said in Actor().work(WorkerConfig("tiny", {})) for message in said]
    assert "dlm_eval.workers.worker" in failed.reason


def test_a_ray_cluster_out_of_reach_is_one_line() -> None:
    pytest.importorskip("ray", reason="ray is not installed (pip install 'dlm_eval[ray]')")
    with pytest.raises(UserError, match="--ray_address 'localhost:1' cannot be reached"):
        worker_devices("cpu:2", "ray", "localhost:1")


def test_ray_workers_give_the_bits_of_one_process(
    tiny: Denoiser, jobs: list[Job], undisturbed: list[Answer]
) -> None:
    ray = pytest.importorskip("ray", reason="ray is not installed (pip install 'dlm_eval[ray]')")
    devices = worker_devices("cpu:2", "ray")
    pool = start_workers(WorkerConfig("tiny", {"dtype": "float32"}), devices, "ray")
    killed: list[int] = []

    def kill(count: int) -> None:
        if count == 20:
            killed.append(pids(pool)[0])
            os.kill(killed[0], signal.SIGKILL)

    try:
        assert answers(pool, jobs) == undisturbed
        assert answers(pool, jobs, kill) == undisturbed and killed and killed[0] not in pids(pool)
        with pytest.raises(UserError, match="CPUs"):
            start_workers(WorkerConfig("tiny", {}), parse_devices("cpu:2") * 500, "ray")
    finally:
        pool.close()
        ray.shutdown()
    assert threading.active_count() < 50
