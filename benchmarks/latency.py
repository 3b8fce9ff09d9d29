"""Seconds to write one text of a given length, one text at a time: table 10 and figure 4 of DiffuLLaMA (arXiv 2410.17891).

    python benchmarks/latency.py --model diffullama --model_args dtype=bfloat16,attn_implementation=sdpa
    python benchmarks/latency.py --model llama2-7b --model_args dtype=bfloat16        an autoregressive model, with its KV cache
    python benchmarks/latency.py --model tiny --lengths 64,128 --steps 16             on a CPU, for trying it

A diffusion model writes --lengths tokens behind its BOS in --steps steps (default: a quarter of the length; the paper's table does not state
its steps, its introduction has 256 for 1024 tokens), at random places, drawn at temperature 0.9 with top-p 0.9 (preset diffullama_random_keep).
An autoregressive model of transformers writes as many tokens behind its BOS, sampled, and does not end early. One text is written before the
clock starts; the median of --times is printed, with the paper's seconds beside it where it has any.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from tabulate import tabulate

from dlm_eval import Canvas, fill, load_model
from dlm_eval.harness.baseline import Baseline
from dlm_eval.harness.run_settings import run_settings
from dlm_eval.models import baselines
from dlm_eval.settings import parse_pairs

# Table 10 (the device is not stated): model -> length -> attention -> seconds.
PUBLISHED = {
    "diffullama": {512: "FA2 12.5", 1024: "SDPA 13.2, FA2 13.3, plain 16.2", 2048: "SDPA 28.5, FA2 23.5, plain 38.1"},
    "llama2-7b": {512: "FA2 9.2", 1024: "SDPA 16.3, FA2 17.5, plain 17.2", 2048: "SDPA 29.5, FA2 35.7, plain 32.8"},
}  # fmt: skip


def diffusion(name: str, options: dict[str, object], preset: str) -> Callable[[int, int], int]:
    """Returns a function that writes a text of `length` tokens in `steps` steps and returns the steps that it took."""
    model = load_model(name, **options)
    start = [model.bos_id] if model.bos_id is not None else []

    def write(length: int, steps: int) -> int:
        room = model.max_length - len(start)
        if length > room + len(start):
            raise SystemExit(f"{name} has {model.max_length} positions, and {length} are asked for")
        canvas = Canvas.completion(start, min(length, room))
        (filling,) = fill(model, [canvas], preset=preset, steps=min(steps, room))
        return filling.steps

    return write


def autoregressive(name: str, options: dict[str, object]) -> Callable[[int, int], int]:
    """Returns a function that writes a text of `length` tokens, one in each step, and returns their number."""
    baseline = Baseline.of(
        run_settings({"model": name, "tasks": ["unused"], "model_args": options})
    )
    lm = baseline.load()
    start = torch.tensor([[lm.prefix_token_id]], device=lm.device)

    def write(length: int, steps: int) -> int:
        made = lm.model.generate(
            start, attention_mask=torch.ones_like(start), max_new_tokens=length, min_new_tokens=length, do_sample=True,
            pad_token_id=lm.prefix_token_id,
        )  # fmt: skip
        return made.shape[1] - 1

    return write


def seconds_of(
    write: Callable[[int, int], int], length: int, steps: int, times: int
) -> tuple[list[float], int]:
    """Returns the seconds of each text after the first, and the steps of one."""
    taken = write(length, steps)
    found = []
    for _ in range(times):
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        begin = time.perf_counter()
        write(length, steps)
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        found.append(time.perf_counter() - begin)
    return found, taken


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="diffullama")
    parser.add_argument("--model_args", default="")
    parser.add_argument("--lengths", default="512,1024,2048")
    parser.add_argument("--steps", type=int, default=None)
    parser.add_argument("--times", type=int, default=3)
    parser.add_argument("--preset", default="diffullama_random_keep")
    asked = parser.parse_args()
    options = dict(parse_pairs(asked.model_args, "--model_args"))
    ours = asked.model not in baselines() and asked.model != "hf"
    write = (
        diffusion(asked.model, options, asked.preset)
        if ours
        else autoregressive(asked.model, options)
    )
    rows = []
    for length in map(int, asked.lengths.split(",")):
        seconds, steps = seconds_of(write, length, asked.steps or max(1, length // 4), asked.times)
        printed = PUBLISHED.get(asked.model, {}).get(length, "")
        rows.append(
            [
                length,
                steps,
                f"{statistics.median(seconds):.2f}",
                f"{min(seconds):.2f} to {max(seconds):.2f}",
                printed,
            ]
        )
    print(
        tabulate(rows, ["tokens", "steps", "seconds", "range", "table 10"], disable_numparse=True)
    )


if __name__ == "__main__":
    main()
