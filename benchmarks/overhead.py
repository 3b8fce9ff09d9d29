"""What the harness costs beside the model: share of processor time outside the network in a run of 2000 mixed requests, and start to first forward.

    python benchmarks/overhead.py               both, on tiny (a minute or two of one core)
    python benchmarks/overhead.py --profile     with the functions that take the rest

Processor time, not wall time, so that a busy machine gives the same figures. Outside means everything but `model.logits`: lm-eval's requests and
scoring, tokenizing, packing, padding, reading, journal, files.
"""

from __future__ import annotations

import argparse
import cProfile
import json
import logging
import os
import pstats
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")

WORDS = "the a cat dog bird tree house river sun moon red small old new sat ran sang saw found lost with under over near and but".split()  # noqa: SIM905
TASK = """
task: o_{name}
dataset_path: json
dataset_kwargs: {{data_files: {{test: {data}}}}}
output_type: {kind}
test_split: test
doc_to_text: "{{{{text}}}}"
{lines}
"""
TASKS = {
    "choice": (
        "multiple_choice",
        'doc_to_choice: "{{choices}}"\ndoc_to_target: "{{answer}}"\nmetric_list: [{metric: acc}]',
        300,
    ),
    "last": (
        "loglikelihood",
        'doc_to_target: " {{word}}"\ntarget_delimiter: ""\nmetric_list: [{metric: acc}]',
        400,
    ),
    "write": (
        "generate_until",
        'doc_to_target: "{{word}}"\ngeneration_kwargs: {until: ["\\n"], max_gen_toks: 16}\nmetric_list: [{metric: exact_match}]',
        400,
    ),
}


def write_tasks(folder: Path) -> None:
    """Writes three tasks of 2000 requests in all: 300 questions of four choices, 400 last words, 400 texts to write."""
    draw = random.Random(0)

    def text(low: int, high: int) -> str:
        return " ".join(draw.choice(WORDS) for _ in range(draw.randint(low, high)))

    for name, (kind, lines, count) in TASKS.items():
        data = folder / f"{name}.jsonl"
        documents = [
            {
                "text": text(12, 60),
                "choices": [text(2, 6) for _ in range(4)],
                "answer": i % 4,
                "word": draw.choice(WORDS),
            }
            for i in range(count)
        ]
        data.write_text("".join(json.dumps(document) + "\n" for document in documents))
        (folder / f"o_{name}.yaml").write_text(
            TASK.format(name=name, data=data, kind=kind, lines=lines)
        )


def share_outside(samples: int, profile: bool) -> None:
    """Runs the tasks and prints the share of processor time outside the network."""
    from dlm_eval.harness.run import evaluate
    from dlm_eval.models.transformer import TransformersDenoiser

    inside = 0.0
    calls = 0
    original = TransformersDenoiser.logits

    def timed(self: Any, *args: Any, **kwargs: Any) -> Any:
        nonlocal inside, calls
        begin = time.process_time()
        out = original(self, *args, **kwargs)
        inside += time.process_time() - begin
        calls += 1
        return out

    TransformersDenoiser.logits = timed  # type: ignore[method-assign]
    with tempfile.TemporaryDirectory() as folder:
        write_tasks(Path(folder))
        settings = {
            "include_path": folder,
            "estimator": f"auto,max_forwards={samples}",
            "model_args": {"dtype": "float32", "device": "cpu"},
            "verbosity": "ERROR",
        }
        evaluate("tiny", ["o_last"], limit=4, **settings)  # imports are another figure
        inside, calls = 0.0, 0
        profiler = cProfile.Profile() if profile else None
        begin, wall = time.process_time(), time.perf_counter()
        if profiler is not None:
            profiler.enable()
        results = evaluate(
            "tiny",
            ["o_choice", "o_last", "o_write"],
            output_path=str(Path(folder) / "out"),
            **settings,
        )
        if profiler is not None:
            profiler.disable()
        total, wall = time.process_time() - begin, time.perf_counter() - wall
    cost = results["dlm_eval"]["cost"]
    requests, rows = (
        sum(cost[f"o_{name}"]["requests"] for name in TASKS),
        sum(cost[f"o_{name}"]["rows"] for name in TASKS),
    )
    print(
        f"{requests} requests, {rows} rows in {calls} forward passes: {total:.1f} s of processor, {inside:.1f} s in the network"
    )
    print(
        f"outside the network: {1 - inside / total:.2%} ({(total - inside) / requests * 1e3:.2f} ms a request); wall {wall:.1f} s, load of the machine {os.getloadavg()[0]:.1f}"
    )
    if profiler is not None:
        pstats.Stats(profiler).sort_stats("cumulative").print_stats("dlm_eval|lm_eval", 60)


FIRST = """
import os, sys, time
from dlm_eval import cli
import dlm_eval.engine.engine as engine
def first(model, rows, asks):
    now = time.clock_gettime(time.CLOCK_BOOTTIME)
    ticks = int(open("/proc/self/stat").read().rsplit(")", 1)[1].split()[19])
    print(f"start to first forward: {time.process_time():.1f} s of processor, wall {now - ticks / os.sysconf('SC_CLK_TCK'):.1f} s", flush=True)
    os._exit(0)
engine.forward = first
cli.main(["--model", "tiny", "--tasks", "demo_last_word", "--limit", "8", "--verbosity", "ERROR", "--output_path", sys.argv[1]])
"""


def first_forward() -> None:
    """Runs the command up to its first forward pass, in a fresh process."""
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run([sys.executable, "-c", FIRST, folder], check=True)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--samples", type=int, default=16, help="forwards per scored request at most"
    )
    parser.add_argument("--profile", action="store_true")
    args = parser.parse_args()
    logging.disable(logging.WARNING)
    first_forward()
    share_outside(args.samples, args.profile)


if __name__ == "__main__":
    main()
