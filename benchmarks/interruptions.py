"""What an interruption loses: rows of the run that are neither in a finished canvas nor in a checkpoint, over all rows, at every forward pass.

    python benchmarks/interruptions.py          # a table of runs over equal and unequal canvases (`toy`, CPU, half a minute)

A finished canvas is in the journal within a second, one under way every 30 s: the runs here take seconds, so that without a shorter pause no checkpoint
is made.
"""

from __future__ import annotations

import os
import random
import time
from collections.abc import Sequence
from typing import Any

from dlm_eval.canvas import Canvas
from dlm_eval.decoding import resolve
from dlm_eval.engine import Engine
from dlm_eval.jobs import Checkpoint, FillJob, Job
from dlm_eval.models import load_model
from dlm_eval.workers import InProcess

HOLE = 32


def fills(count: int, length: int, steps: int, longer: int = 0) -> list[Job]:
    """Returns fill jobs of `length` positions, or up to `longer` more; none ends early."""
    draw = random.Random(0)
    lengths = [length - HOLE + (draw.randrange(longer) if longer else 0) for _ in range(count)]
    settings = resolve({"steps": steps, "logits_eos_inf": True})
    prompts = [[draw.randrange(6) for _ in range(n)] for n in lengths]
    return [
        FillJob(Canvas.infill(ids, HOLE, [], f"{i}"), settings, 0) for i, ids in enumerate(prompts)
    ]


def measure(jobs: Sequence[Job], pause: str, **options: Any) -> str:
    """Runs the jobs with a checkpoint of each canvas every `pause` seconds; returns what they cost and what would have been lost, on average and at worst."""
    os.environ["DLM_EVAL_CHECKPOINT_SECONDS"] = pause
    engine, finished, lost = Engine(load_model("toy"), **options), [0], []
    kept: dict[int, int] = {}
    engine.on_forward = lambda: lost.append(engine.cost.rows - finished[0] - sum(kept.values()))

    def done(index: int, answer: Any) -> None:
        finished[0] += answer.rows
        kept.pop(index, None)

    def keep(index: int, checkpoint: Checkpoint) -> None:
        kept[index] = checkpoint.state.forwards

    start = time.process_time()
    InProcess(engine).run(jobs, done, keep)
    cost, seconds = engine.cost, time.process_time() - start
    mean, worst = sum(lost) / len(lost) / cost.rows, max(lost) / cost.rows
    return (
        f"{cost.forwards:5} forwards {cost.rows:6} rows {cost.padded_tokens:8} padded tokens {seconds:5.1f} s"
        f"   lost: mean {mean:6.1%}, worst {worst:6.1%}"
    )


def main() -> None:
    for name, jobs, options in (
        ("64 equal canvases, 16 in a batch", fills(64, 64, 16), {"batch_tokens": 1024}),
        ("256 equal canvases, 16 in a batch", fills(256, 64, 16), {"batch_tokens": 1024}),
        (
            "64 unequal ones, padded",
            fills(64, 64, 16, 40),
            {"batch_tokens": 1024, "equal_lengths": False},
        ),
        ("32 equal canvases, one by one", fills(32, 64, 16), {"batch_rows": 1}),
        ("16 equal canvases in one batch", fills(16, 64, 16), {"batch_tokens": 1024}),
    ):
        for pause, said in (
            ("inf", ""),
            ("0.05", "a checkpoint every 50 ms"),
            ("0", "a checkpoint every step"),
        ):
            print(f"{said or name:36}{measure(jobs, pause, **options)}", flush=True)


if __name__ == "__main__":
    main()
