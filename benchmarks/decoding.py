"""Tokens per second of three ways to decode the same canvases, which must write the same tokens.

    python benchmarks/decoding.py --model tiny --canvases 32 --length 64 --block_length 16

naive    one canvas at a time; at every step a forward pass with the head on every position
batched  the same loop on canvases of equal length together
exact    `dlm_eval.fill`: continuous batches, the head on wanted positions alone, an end once all visible text is final

rows are sequences that the device ran; tokens/s counts the visible tokens (before the end of the text), the same for all three.
"""

from __future__ import annotations

import argparse
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

from dlm_eval.canvas import BLANK, Canvas
from dlm_eval.decoding import fill
from dlm_eval.decoding.draw import Draw
from dlm_eval.engine import Engine
from dlm_eval.models import load_model

Tokens = list[list[int]]


@torch.inference_mode()
def plain(model: Any, canvases: Sequence[Canvas], steps: int, block: int, batch: int) -> tuple[Tokens, int]:
    """Returns LLaDA's low-confidence procedure, written plainly, and the rows it ran: every step reads all positions of all canvases.

    Args:
        model: the denoiser.
        canvases: with one hole of equal length each, at the end.
        steps: steps of the whole hole.
        block: open positions that are filled before the next ones are begun.
        batch: canvases of one length that run together at most.
    """
    written: dict[int, list[int]] = {}
    by_length: dict[int, list[int]] = defaultdict(list)
    for index, canvas in enumerate(canvases):
        by_length[len(canvas)].append(index)
    rows = 0
    for same in by_length.values():
        for first in range(0, len(same), batch):
            group = same[first : first + batch]
            tokens, ran = _plain_group(model, [canvases[i] for i in group], steps, block)
            written.update(zip(group, tokens, strict=True))
            rows += ran
    return [written[index] for index in range(len(canvases))], rows


def _plain_group(model: Any, canvases: Sequence[Canvas], steps: int, block: int) -> tuple[Tokens, int]:
    tokens = np.array([np.where(c.open, model.mask_id, c.tokens) for c in canvases])
    blocks = [
        [np.array(c.open_positions[b : b + block]) for c in canvases]
        for b in range(0, len(canvases[0].open_positions), block)
    ]
    rows = 0
    for holes in blocks:
        open_ = np.zeros(tokens.shape, dtype=bool)
        for row, hole in enumerate(holes):
            open_[row, hole] = True
        n, own_steps = len(holes[0]), steps // len(blocks)
        for step in range(own_steps):
            logits = model.logits(torch.from_numpy(tokens).to(model.device))
            rows += len(tokens)
            for row in range(len(tokens)):
                token, logprob, _ = Draw()(logits[row], torch.zeros(len(logits[row]), device=logits.device))
                score = np.where(open_[row], logprob.cpu().numpy(), -np.inf)
                chosen = np.argsort(-score, kind="stable")[: n // own_steps + (step < n % own_steps)]
                tokens[row, chosen], open_[row, chosen] = token.cpu().numpy()[chosen], False
    return [[int(tokens[row, p]) for p in c.open_positions] for row, c in enumerate(canvases)], rows


def exact(model: Any, canvases: Sequence[Canvas], steps: int, block: int) -> tuple[Tokens, int]:
    """Returns what `fill` writes, blank where it ended early, and the rows it ran."""
    engine = Engine(model)
    fillings = fill(model, canvases, steps=steps, block_length=block, engine=engine)
    return [list(filling.tokens) for filling in fillings], engine.cost.rows


def visible(tokens: Sequence[int], ends: Sequence[int]) -> list[int]:
    """Returns the tokens before the end of the text."""
    end = next((i for i, token in enumerate(tokens) if token in ends or token == BLANK), len(tokens))
    return list(tokens[:end])


def check(model: Any, short: Tokens, whole: Tokens, title: str) -> None:
    """Raises AssertionError unless the same text was written; positions that were left open after its end are free."""
    for ours, theirs in zip(short, whole, strict=True):
        assert visible(ours, model.eos_ids) == visible(theirs, model.eos_ids), f"{title} wrote another text"
        assert all(a in (b, BLANK) for a, b in zip(ours, theirs, strict=True)), f"{title} wrote other tokens"


def main() -> None:
    """Runs the three, prints a line for each, and compares their tokens."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="tiny")
    parser.add_argument("--device")
    parser.add_argument("--canvases", type=int, default=32)
    parser.add_argument("--length", type=int, default=64, help="open positions of each")
    parser.add_argument("--steps", type=int, help="default: one for each open position")
    parser.add_argument("--block_length", type=int, help="default: the whole hole")
    args = parser.parse_args()
    model = load_model(args.model, **({"device": args.device} if args.device else {}))
    steps, block = args.steps or args.length, args.block_length or args.length
    questions = [
        f"Question: Carl has {i} stamps. He gives {i // 2} of them to Hana. How many stamps does Carl have?\nAnswer:"
        for i in range(args.canvases)
    ]
    start = [model.bos_id] if model.bos_id is not None and model.needs_bos else []
    canvases = [Canvas.completion(start + model.encode(question), args.length) for question in questions]
    model.logits(
        torch.tensor([canvases[0].tokens]).clamp(min=0).to(model.device)
    )  # the first call of a process is slow
    ways: dict[str, Callable[[], tuple[Tokens, int]]] = {
        "naive": lambda: plain(model, canvases, steps, block, 1),
        "batched": lambda: plain(model, canvases, steps, block, len(canvases)),
        "exact": lambda: exact(model, canvases, steps, block),
    }
    print(f"{model.name}: {len(canvases)} canvases, {args.length} open positions, {steps} steps, blocks of {block}")
    found: dict[str, Tokens] = {}
    slowest = 0.0
    for title, work in ways.items():
        begin = time.perf_counter()
        found[title], rows = work()
        seconds = time.perf_counter() - begin
        slowest = slowest or seconds
        tokens = sum(len(visible(one, model.eos_ids)) for one in found[title])
        print(
            f"{title:8s} {seconds:8.2f} s {tokens / seconds:10.1f} tokens/s {rows:8d} rows  x {slowest / seconds:.2f}"
        )
    check(model, found["batched"], found["naive"], "batched")
    check(model, found["exact"], found["naive"], "exact")
    print("tokens are equal (open after the end of the text where decoding ended early)")


if __name__ == "__main__":
    main()
