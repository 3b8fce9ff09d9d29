"""How busy the workers of a run are, in simulated time.

    python benchmarks/handout.py --data_dir DIR                  this version
    PYTHONPATH=OLD python benchmarks/handout.py --data_dir DIR   the version in the folder OLD

The driver, the workers and the engine are the real ones. Only the clock, the model and the link between driver and worker are simulated: a
forward pass takes a time that is proportional to its tokens, padding included. Eight workers hold batches of 65 536 tokens; two are ready at once,
the others after 30 to 60 seconds. Each simulated decoding step stands for several real ones, which saves the benchmark's own time.

*Busy* is the time in which a worker has a forward pass running, as a share of the time from when it is ready to the end of the run's last forward
pass, summed over the workers.
"""

from __future__ import annotations

import argparse
import contextlib
import heapq
import itertools
import json
import os
import queue
import threading
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import torch
from torch import Tensor

from dlm_eval import jobs as jobs_module
from dlm_eval.canvas import Canvas
from dlm_eval.decoding import resolve
from dlm_eval.engine import Engine
from dlm_eval.engine import engine as engine_module
from dlm_eval.jobs import Answer, FillJob, Job
from dlm_eval.models import load_model
from dlm_eval.workers import driver as driver_module
from dlm_eval.workers import worker as worker_module
from dlm_eval.workers.driver import Workers
from dlm_eval.workers.messages import Exited, WorkerConfig

RATE = 25_000.0  # tokens a second of an 8B model on one H200, at 40 % of its peak
BATCH = 65_536  # tokens of a batch
READY = (0.0, 0.0, 30.0, 36.0, 42.0, 48.0, 54.0, 60.0)  # when each worker is ready, in seconds
STEPS = 16  # simulated decoding steps of a canvas


class _Task:
    """A thread that runs only when the clock says so."""

    def __init__(self) -> None:
        self.go = threading.Semaphore(0)
        self.turn = 0  # older entries of the clock's heap are void
        self.dead = False


class Clock:
    """Simulated time. One thread runs at a time; time passes when all wait."""

    def __init__(self) -> None:
        self.now = 0.0
        self._heap: list[tuple[float, int, int, _Task]] = []
        self._count = itertools.count()
        self._tasks = {threading.get_ident(): _Task()}

    @property
    def current(self) -> _Task:
        return self._tasks[threading.get_ident()]

    def time(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.park(self.now + seconds)

    def wake(self, task: _Task, when: float) -> None:
        heapq.heappush(self._heap, (when, next(self._count), task.turn, task))

    def park(self, until: float | None) -> None:
        """Waits until a time, or until another thread wakes this one."""
        task = self.current
        if until is not None:
            self.wake(task, until)
        self._switch()
        task.go.acquire()
        if task.dead:
            raise SystemExit

    def _switch(self) -> None:
        while True:
            when, _, turn, task = heapq.heappop(self._heap)
            if turn == task.turn:
                break
        self.now = max(self.now, when)
        task.turn += 1
        task.go.release()

    def start(self, work: Any) -> _Task:
        """Runs `work` in a new thread; returns the thread's task."""
        task = _Task()

        def run() -> None:
            self._tasks[threading.get_ident()] = task
            task.go.acquire()
            with contextlib.suppress(SystemExit):
                if not task.dead:
                    work()
            del self._tasks[threading.get_ident()]
            self._switch()

        self.wake(task, self.now)
        threading.Thread(target=run, daemon=True).start()
        return task


class Queue:
    """A queue whose readers wait in simulated time."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._items: deque[Any] = deque()
        self._reader: _Task | None = None

    def put(self, item: Any) -> None:
        self._items.append(item)
        if self._reader is not None:
            self._clock.wake(self._reader, self._clock.now)

    def get(self, block: bool = True, timeout: float | None = None) -> Any:
        limit = None if timeout is None else self._clock.now + timeout
        while not self._items:
            if not block or (limit is not None and self._clock.now >= limit):
                raise queue.Empty
            self._reader = self._clock.current
            self._clock.park(limit)
            self._reader = None
        return self._items.popleft()

    def get_nowait(self) -> Any:
        return self.get(block=False)


@dataclass(frozen=True)
class Device:
    """A simulated device.

    Attributes:
        ready: when its worker has loaded the model, in seconds.
        rate: tokens a second.
    """

    ready: float
    rate: float = RATE


class Model:
    """A denoiser whose forward passes take simulated time and give even logits."""

    mask_id, pad_id, eos_ids, bos_id, vocab_size, max_length = 5, 6, (7,), None, 8, 8192
    mask_is_regular_token = needs_bos = False
    name, attention, block_length, process, device = "simulated", "full", None, "absorbing", "cpu"

    def __init__(self, clock: Clock, rate: float) -> None:
        self._clock, self._rate = clock, rate
        self.passes: list[tuple[float, float, int]] = []  # begin, end, tokens

    def encode(self, text: str) -> list[int]:
        raise NotImplementedError

    def decode(self, ids: Sequence[int]) -> str:
        return "".join(map(str, ids))

    def logits(
        self, tokens: Tensor, valid: Tensor | None = None, positions: Tensor | None = None
    ) -> Tensor:
        assert positions is not None
        begin = self._clock.now
        self._clock.sleep(tokens.numel() / self._rate)
        self.passes.append((begin, self._clock.now, tokens.numel()))
        return torch.zeros(int(positions.sum()), self.vocab_size)


class Link:
    """A simulated worker, as the driver sees it."""

    def __init__(
        self, clock: Clock, index: int, device: Device, model: Model, events: Queue
    ) -> None:
        self.label = f"simulated:{index}"
        self.messages: list[tuple[float, Any]] = []  # in both directions, with their times
        self._clock, self._inbox = clock, Queue(clock)

        def receive(wait: bool = True) -> Any:
            try:
                return self._inbox.get(wait)
            except queue.Empty:
                return None

        def send(message: Any) -> None:
            self.messages.append((clock.now, message))
            events.put((self, message))

        def work() -> None:
            worker_module.serve(
                WorkerConfig("simulated", {"model": model, "ready": device.ready}), receive, send
            )
            events.put((self, Exited("ended")))

        self._task = clock.start(work)

    def send(self, message: Any) -> None:
        self.messages.append((self._clock.now, message))
        self._inbox.put(message)

    def kill(self) -> None:
        self._task.dead = True
        self._clock.wake(self._task, self._clock.now)


@dataclass(frozen=True)
class Simulation:
    """A simulated run.

    Attributes:
        answers: the answer of each job.
        passes: begin, end and tokens of each forward pass, by worker.
        ready: when each worker was ready.
        messages: time, worker and message, in the order of time.
    """

    answers: list[Answer]
    passes: list[list[tuple[float, float, int]]]
    ready: list[float]
    messages: list[tuple[float, int, Any]]

    @property
    def end(self) -> float:
        """The end of the last forward pass."""
        return max(end for own in self.passes for _, end, _ in own)

    @property
    def shares(self) -> list[float]:
        """How busy each worker is; 1.0 if it was ready after the end."""
        spans = [max(0.0, self.end - ready) for ready in self.ready]
        ran = [sum(end - begin for begin, end, _ in own) for own in self.passes]
        return [one / span if span else 1.0 for one, span in zip(ran, spans, strict=True)]

    @property
    def busy(self) -> float:
        """How busy all workers are together."""
        spans = [max(0.0, self.end - ready) for ready in self.ready]
        return sum(end - begin for own in self.passes for begin, end, _ in own) / sum(spans)

    @property
    def batch(self) -> float:
        """Tokens of a forward pass, averaged over the time in which passes run."""
        every = [one for own in self.passes for one in own]
        return sum((end - begin) * tokens for begin, end, tokens in every) / sum(
            end - begin for begin, end, _ in every
        )


@contextlib.contextmanager
def simulated_time(clock: Clock, batch: int) -> Iterator[None]:
    """Lets driver, workers and engine use the clock and simulated models."""

    def load(name: str, model: Model, ready: float) -> Model:
        clock.sleep(ready - clock.now)
        return model

    def engine(model: Any, *_: Any) -> Engine:
        return Engine(model, batch_tokens=batch, batch_logits=2**60, equal_lengths=False)

    time = SimpleNamespace(monotonic=clock.time, perf_counter=clock.time)
    with contextlib.ExitStack() as stack:
        for module in (driver_module, worker_module, engine_module, jobs_module):
            stack.enter_context(mock.patch.object(module, "time", time))
        shim = SimpleNamespace(SimpleQueue=lambda: Queue(clock), Empty=queue.Empty)
        stack.enter_context(mock.patch.object(driver_module, "queue", shim))
        stack.enter_context(mock.patch.object(worker_module, "load_model", load))
        stack.enter_context(mock.patch.object(worker_module, "make_engine", engine))
        yield


def simulate(
    jobs: Sequence[Job], devices: Sequence[Device], batch: int = BATCH, clock: Clock | None = None
) -> Simulation:
    """Runs jobs on simulated devices with batches of `batch` tokens."""
    clock = clock or Clock()
    models = [Model(clock, device.rate) for device in devices]
    found: dict[int, Answer] = {}
    links: list[Link] = []

    def start(index: int, profile: Any, events: Any) -> Link:
        links.append(Link(clock, index, devices[index], models[index], events))
        return links[-1]

    with simulated_time(clock, batch):
        workers = Workers(start, len(devices))
        workers.run(jobs, found.__setitem__)
        workers.close()
        clock.sleep(1.0)  # their threads end
    messages = [
        (when, index, one) for index, link in enumerate(links) for when, one in link.messages
    ]
    return Simulation(
        [found[index] for index in range(len(jobs))],
        [model.passes for model in models],
        [device.ready for device in devices],
        sorted(messages, key=lambda one: one[0]),
    )


def rows(path: Path) -> list[dict[str, Any]]:
    """Returns the documents of a file."""
    with path.open(encoding="utf-8") as stream:
        return [json.loads(line) for line in stream]


def gsm8k(folder: Path, steps: int = STEPS) -> tuple[list[Job], int]:
    """Writes 256 tokens behind five solved problems and a question: the jobs, and the real steps of each."""
    model = load_model("tiny", device="cpu")
    shots = "\n\n".join(
        f"Question: {row['question']}\nAnswer: {row['answer']}"
        for row in rows(folder / "openai/gsm8k/main/train.jsonl")[:5]
    )
    before = model.encode(shots)
    questions = [row["question"] for row in rows(folder / "openai/gsm8k/main/test.jsonl")]
    return fillings(
        [before + model.encode(f"\n\nQuestion: {text}\nAnswer:") for text in questions], 256, steps
    ), 256


def humaneval(folder: Path, steps: int = STEPS) -> tuple[list[Job], int]:
    """Writes 512 tokens behind a function's head: the jobs, and the real steps of each."""
    model = load_model("tiny", device="cpu")
    texts = [
        row["prompt"]
        for row in rows(folder / "openai/openai_humaneval/openai_humaneval/test.jsonl")
    ]
    return fillings([model.encode(text) for text in texts], 512, steps), 512


def fillings(prompts: Sequence[Sequence[int]], length: int, steps: int = STEPS) -> list[Job]:
    """Returns jobs that write `length` tokens in `steps` steps."""
    settings = resolve({"steps": steps, "early_exit": False})
    return [
        FillJob(Canvas.completion([t % 5 for t in ids], length, f"d{i}"), settings, 0)
        for i, ids in enumerate(prompts)
    ]


def devices(real: int, slow: float = 1.0, steps: int = STEPS) -> list[Device]:
    """Returns eight devices.

    Args:
        real: real steps of a canvas.
        slow: speed of the second device, as a share of the others' speed.
        steps: simulated steps of a canvas.
    """
    rate = RATE * steps / real
    return [
        Device(ready, rate * (slow if index == 1 else 1.0)) for index, ready in enumerate(READY)
    ]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--data_dir", type=Path, default=Path(os.environ.get("DLM_EVAL_DATA", "data"))
    )
    args = parser.parse_args()
    print(
        "task       second device  busy   least busy  idle workers  seconds  best possible  tokens a pass"
    )
    for make in (gsm8k, humaneval):
        jobs, real = make(args.data_dir)
        for slow in (1.0, 0.5):
            kinds = devices(real, slow)
            run = simulate(jobs, kinds)
            work = sum(len(job.canvas) * STEPS for job in jobs)
            best = (work + sum(one.ready * one.rate for one in kinds)) / sum(
                one.rate for one in kinds
            )
            idle = sum(not own for own in run.passes)
            print(
                f"{make.__name__:10} {slow:13.1f}  {run.busy:5.1%}  {min(run.shares):10.1%}  {idle:12}  {run.end:7.0f}  {best:13.0f}  {run.batch:13.0f}",
                flush=True,
            )


if __name__ == "__main__":
    main()
