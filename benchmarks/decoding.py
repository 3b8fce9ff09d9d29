"""Tokens per second of three ways to decode the same canvases, which must write the same tokens.

    python benchmarks/decoding.py --model tiny --canvases 32 --length 64

naive    one canvas at a time, a full forward (head on every position) at every step
batched  all canvases in shared batches, early exit off
exact    batched, with the exact early exit
"""

from __future__ import annotations

import argparse
import time
from typing import Any

import numpy as np
import torch

from dlm_eval.canvas import BLANK, Canvas
from dlm_eval.decoding import fill
from dlm_eval.decoding.draw import Draw
from dlm_eval.engine import Engine
from dlm_eval.models import load_model


@torch.inference_mode()
def naive(model: Any, canvas: Canvas, steps: int) -> list[int]:
    """Returns LLaDA's low-confidence procedure, written plainly: every step reads all positions of one canvas."""
    tokens = np.where(canvas.open, model.mask_id, canvas.tokens)
    open_ = np.array(canvas.open)
    n = int(open_.sum())
    for step in range(steps):
        logits = model.logits(torch.from_numpy(tokens)[None].to(model.device))[0]
        token, logprob, _ = Draw()(logits, torch.zeros(len(logits), device=logits.device))
        score = np.where(open_, logprob.cpu().numpy(), -np.inf)
        chosen = np.argsort(-score, kind="stable")[: n // steps + (step < n % steps)]
        tokens[chosen], open_[chosen] = token.cpu().numpy()[chosen], False
    return [int(tokens[p]) for p in canvas.open_positions]


def measure(title: str, work: Any, length: int) -> list[list[int]]:
    """Runs `work` -> (tokens, rows run), prints one line, returns the tokens."""
    start = time.perf_counter()
    tokens, rows = work()
    seconds = time.perf_counter() - start
    print(f"{title:8s} {seconds:8.2f} s {len(tokens) * length / seconds:10.1f} tokens/s {rows:8d} rows")
    return tokens


def batched(model: Any, canvases: list[Canvas], steps: int, early_exit: bool) -> tuple[list[list[int]], int]:
    engine = Engine(model)
    fillings = fill(model, canvases, steps=steps, engine=engine, early_exit=early_exit)
    return [list(filling.tokens) for filling in fillings], engine.cost.rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="tiny")
    parser.add_argument("--canvases", type=int, default=32)
    parser.add_argument("--length", type=int, default=64)
    parser.add_argument("--steps", type=int, default=None)
    args = parser.parse_args()
    model = load_model(args.model)
    steps = args.steps or args.length
    prompts = [model.encode(f"Tom has {i} apples and buys {2 * i} more. How many apples") for i in range(args.canvases)]
    start = [model.bos_id] if model.bos_id is not None else []
    canvases = [Canvas.completion(start + prompt, args.length) for prompt in prompts]
    print(f"{model.name}: {len(canvases)} canvases, {args.length} open positions, {steps} steps")
    plain = measure(
        "naive", lambda: ([naive(model, canvas, steps) for canvas in canvases], steps * len(canvases)), args.length
    )
    whole = measure("batched", lambda: batched(model, canvases, steps, False), args.length)
    exact = measure("exact", lambda: batched(model, canvases, steps, True), args.length)
    assert whole == plain, "batched decoding wrote other tokens"
    for short, full in zip(exact, whole, strict=True):
        assert all(a in (b, BLANK) for a, b in zip(short, full, strict=True)), "the early exit changed a token"
    print("tokens are equal (blank after the end of the text where decoding ended early)")


if __name__ == "__main__":
    main()
