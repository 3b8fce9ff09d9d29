"""How much of what a device runs is padding, and what a second worker is worth.

    python benchmarks/packing.py --data_dir DIR              padding share on LAMBADA, HellaSwag and GSM8K lengths, by the engine's own packing
    python benchmarks/packing.py --workers                   two workers on two cores against one, on tiny (needs an idle machine)

Padding is counted by the engine itself, on a model that costs nothing: the lengths are real (tiny's tokenizer stands for a larger one; it makes
texts longer), the batches are those of a GPU, where rows of several lengths share a batch. On CPUs nothing is ever padded.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dlm_eval.canvas import Canvas
from dlm_eval.decoding import resolve
from dlm_eval.engine import Engine
from dlm_eval.jobs import FillJob, Job, ScoreJob
from dlm_eval.likelihood.auto import Auto
from dlm_eval.likelihood.masks import MaskCount
from dlm_eval.models import load_model
from dlm_eval.workers import InProcess


class Weightless:
    """A denoiser with tiny's tokenizer that answers at once, evenly for every token."""

    def __init__(self, model: Any) -> None:
        self.__dict__.update(
            {
                name: getattr(model, name)
                for name in (
                    "mask_id",
                    "mask_is_regular_token",
                    "eos_ids",
                    "bos_id",
                    "pad_id",
                    "needs_bos",
                    "encode",
                    "decode",
                )
            }
        )
        self.name, self.max_length, self.vocab_size = "weightless", 4096, 8
        self.attention, self.block_length, self.process, self.device = (
            "full",
            None,
            "absorbing",
            "cpu",
        )
        self.mask_id, self.pad_id, self.eos_ids = 5, 6, (7,)

    def logits(
        self, tokens: Tensor, valid: Tensor | None = None, positions: Tensor | None = None
    ) -> Tensor:
        assert positions is not None
        return torch.zeros(int(positions.sum()), self.vocab_size)


def rows(path: Path, limit: int) -> list[dict[str, Any]]:
    """Returns the first documents of a file."""
    with path.open(encoding="utf-8") as stream:
        return [json.loads(line) for _, line in zip(range(limit), stream, strict=False)]


def lambada(model: Any, folder: Path, limit: int) -> list[Job]:
    """Scores the last word."""
    texts = [
        row["text"].rsplit(" ", 1)
        for row in rows(folder / "EleutherAI/lambada_openai/default/test.jsonl", limit)
    ]
    return [score(model, head, " " + word, f"l{i}") for i, (head, word) in enumerate(texts)]


def hellaswag(model: Any, folder: Path, limit: int) -> list[Job]:
    """Scores four endings."""
    found = rows(folder / "Rowan/hellaswag/default/validation.jsonl", limit)
    return [
        score(model, row["ctx"], " " + ending, f"h{i}")
        for i, row in enumerate(found)
        for ending in row["endings"]
    ]


def gsm8k(model: Any, folder: Path, limit: int) -> list[Job]:
    """Writes 256 tokens behind five solved problems and a question."""
    shots = "\n\n".join(
        f"Question: {row['question']}\nAnswer: {row['answer']}"
        for row in rows(folder / "openai/gsm8k/main/train.jsonl", 5)
    )
    found = rows(folder / "openai/gsm8k/main/test.jsonl", limit)
    prompts = [
        model.encode(f"{shots}\n\nQuestion: {row['question']}\nAnswer:")[-3500:] for row in found
    ]
    settings = resolve({"steps": 16, "early_exit": False})
    return [
        FillJob(Canvas.completion([t % 5 for t in ids], 256, f"g{i}"), settings, 0)
        for i, ids in enumerate(prompts)
    ]


def score(model: Any, context: str, target: str, key: str) -> Job:
    ids, ends = ([t % 5 for t in model.encode(text)] for text in (context, target))
    return ScoreJob(Canvas.continuation(ids, ends, key), Auto(max_forwards=8), 0)


def padding(
    make: Callable[[Any, Path, int], list[Job]], model: Any, folder: Path, limit: int, tokens: int
) -> str:
    """Returns a line about the packing of one task under a budget of `tokens`."""
    engine = Engine(model, batch_tokens=tokens, batch_logits=2**60, equal_lengths=False)
    jobs = make(model, folder, limit)
    lengths = sorted(len(job.canvas) for job in jobs)
    InProcess(engine).run(jobs, lambda index, answer: None)
    cost = engine.cost
    share = 1 - cost.tokens / cost.padded_tokens
    return f"{make.__name__:10} {len(jobs):6} requests of {lengths[0]}-{lengths[-1]} tokens: {share:6.2%} padding, batches {cost.tokens / cost.forwards / tokens:.0%} full on average"


PRODUCTS = """
import time, torch
x, w, n, end = torch.randn(512, 256), torch.randn(704, 256), 0, time.perf_counter() + 5
while time.perf_counter() < end:
    torch.nn.functional.linear(x, w)
    n += 1
print(n)
"""


def ceiling() -> float:
    """Returns how many times the matrix products of one process two processes do, on this machine at this moment."""

    def rate(count: int) -> int:
        running = [
            subprocess.Popen([sys.executable, "-c", PRODUCTS], stdout=subprocess.PIPE, text=True)
            for _ in range(count)
        ]
        return sum(int(process.communicate()[0]) for process in running)

    return rate(2) / rate(1)


def workers(counts: Sequence[int], rounds: int) -> None:
    """Prints how long the same jobs take on several workers of one thread each (they are loaded and warm): the best of some rounds in turn."""
    os.environ["OMP_NUM_THREADS"] = "1"
    print(
        f"two processes that only multiply matrices do {ceiling():.2f} times the work of one here and now",
        flush=True,
    )
    from dlm_eval.workers.devices import parse_devices
    from dlm_eval.workers.driver import start_workers
    from dlm_eval.workers.messages import WorkerConfig

    jobs = mixed_jobs()
    pools = [
        start_workers(WorkerConfig("tiny", {"dtype": "float32"}), parse_devices(f"cpu:{count}"))
        for count in counts
    ]
    for pool in pools:
        while any(slot.ready is None for slot in pool.slots):
            pool.run(jobs[:8], lambda index, answer: None)
    took = [float("inf")] * len(pools)
    for _ in range(rounds):  # in turn, so that a busy moment of the machine hits all
        took = [min(before, seconds(pool, jobs)) for before, pool in zip(took, pools, strict=True)]
    for count, pool, best in zip(counts, pools, took, strict=True):
        pool.close()
        print(
            f"{count} workers: {best:.1f} s, {took[0] / best:.2f} times one; load {os.getloadavg()[0]:.1f}"
        )


def mixed_jobs() -> list[Job]:
    """Returns 60 texts to write and 60 to score."""
    model = load_model("tiny", dtype="float32", device="cpu")
    text = model.encode(
        "The cat sat on the mat and looked at the small red bird that sang in the old tree. " * 6
    )
    write, estimate = resolve({"early_exit": False}), MaskCount(max_forwards=24)
    jobs: list[Job] = [
        FillJob(Canvas.completion(text[: 20 + i % 60], 24, f"f{i}"), write, 0) for i in range(60)
    ]
    return jobs + [
        ScoreJob(Canvas.continuation(text[: 20 + i % 50], text[60:72], f"s{i}"), estimate, 0)
        for i in range(60)
    ]


def seconds(pool: Any, jobs: Sequence[Job]) -> float:
    """Returns how long a pool takes for the jobs."""
    start = time.perf_counter()
    pool.run(jobs, lambda index, answer: None)
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--data_dir", type=Path, default=Path(os.environ.get("DLM_EVAL_DATA", "data"))
    )
    parser.add_argument("--limit", type=int, default=1000, help="documents of each task")
    parser.add_argument(
        "--tokens", type=int, nargs="+", default=[8192, 32768], help="token budgets"
    )
    parser.add_argument("--workers", action="store_true", help="measure workers instead of padding")
    parser.add_argument(
        "--rounds", type=int, default=3, help="of --workers, the best of which counts"
    )
    args = parser.parse_args()
    if args.workers:
        workers((1, 2), args.rounds)
        return
    model = Weightless(load_model("tiny", device="cpu"))
    for tokens in args.tokens:
        print(f"budget {tokens} tokens")
        for make in (lambada, hellaswag, gsm8k):
            print("  " + padding(make, model, args.data_dir, args.limit, tokens), flush=True)


if __name__ == "__main__":
    main()
