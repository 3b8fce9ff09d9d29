"""Tokens per second of three ways to decode the same canvases, which must write the same tokens.

    python benchmarks/decoding.py --model tiny --canvases 32 --length 64

naive    one canvas at a time; at every step a forward pass with the head on every position
batched  the same loop on canvases of equal length together
exact    `dlm_eval.fill`: continuous batches, the head on wanted positions alone, an end once all visible text is final

rows are sequences that the device ran; tokens/s counts the visible tokens (before the end of the text), the same for all three.

    python benchmarks/decoding.py --caches --canvases 8 --length 128 --block_length 32

compares rows that remember with rows that run whole, in the same run: the exact block cache of a block-causal network, whose tokens must be equal
(tiny's weights under block-causal attention, unless --model is block-causal itself), and Fast-dLLM's prefix and dual caches of a network with full
attention, which write other tokens: how many are the same is printed.
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
from dlm_eval.models import load_model, packaged_asset

Tokens = list[list[int]]


@torch.inference_mode()
def plain(
    model: Any, canvases: Sequence[Canvas], steps: int, block: int, batch: int
) -> tuple[Tokens, int]:
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


def _plain_group(
    model: Any, canvases: Sequence[Canvas], steps: int, block: int
) -> tuple[Tokens, int]:
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
                token, logprob, _ = Draw()(
                    logits[row], torch.zeros(len(logits[row]), device=logits.device)
                )
                score = np.where(open_[row], logprob.cpu().numpy(), -np.inf)
                chosen = np.argsort(-score, kind="stable")[
                    : n // own_steps + (step < n % own_steps)
                ]
                tokens[row, chosen], open_[row, chosen] = token.cpu().numpy()[chosen], False
    return [[int(tokens[row, p]) for p in c.open_positions] for row, c in enumerate(canvases)], rows


def exact(model: Any, canvases: Sequence[Canvas], steps: int, block: int) -> tuple[Tokens, int]:
    """Returns what `fill` writes, blank where it ended early, and the rows it ran."""
    engine = Engine(model)
    fillings = fill(model, canvases, steps=steps, block_length=block, engine=engine)
    return [list(filling.tokens) for filling in fillings], engine.cost.rows


def caches(model: Any, blockwise: Any, canvases: Sequence[Canvas], block: int) -> None:
    """Prints what remembering saves: seconds, positions that the device ran, and the share of tokens that stay as they are.

    Args:
        model: a denoiser with full attention, or a block-causal one (then `blockwise` is the same).
        blockwise: a block-causal denoiser.
        canvases: what to fill.
        block: open positions that are filled before the next ones are begun, under full attention.
    """
    exact_one: dict[str, Any] = {"block cache": {"cache": "exact"}}
    approximate = {kind: {"cache": kind, "block_length": block} for kind in ("prefix", "dual")}
    for one, ways in (
        (blockwise, exact_one),
        (model, approximate if model.block_length is None else {}),
    ):
        plain_way = {"cache": "none"} | (
            {"block_length": block} if one.block_length is None else {}
        )
        first: tuple[Tokens, float] | None = None
        for title, options in {"whole rows": plain_way, **ways}.items() if ways else ():
            engine, begin = Engine(one), time.perf_counter()
            fillings = fill(one, canvases, early_exit=False, engine=engine, **options)
            seconds, tokens = (
                time.perf_counter() - begin,
                [list(filling.tokens) for filling in fillings],
            )
            first = first or (tokens, seconds)
            same = float(np.mean(np.array(tokens) == np.array(first[0])))
            print(
                f"{title:11s} {seconds:8.2f} s {engine.cost.tokens:10d} positions run {engine.cost.rows:6d} rows"
                f"  x {first[1] / seconds:.2f}  {same:.1%} of the tokens the same"
            )
            assert options.get("cache") != "exact" or same == 1, (
                "the block cache wrote other tokens"
            )


def visible(tokens: Sequence[int], ends: Sequence[int]) -> list[int]:
    """Returns the tokens before the end of the text."""
    end = next(
        (i for i, token in enumerate(tokens) if token in ends or token == BLANK), len(tokens)
    )
    return list(tokens[:end])


def check(model: Any, short: Tokens, whole: Tokens, title: str) -> None:
    """Raises AssertionError unless the same text was written; positions that were left open after its end are free."""
    for ours, theirs in zip(short, whole, strict=True):
        assert visible(ours, model.eos_ids) == visible(theirs, model.eos_ids), (
            f"{title} wrote another text"
        )
        assert all(a in (b, BLANK) for a, b in zip(ours, theirs, strict=True)), (
            f"{title} wrote other tokens"
        )


def main() -> None:
    """Runs the three, prints a line for each, and compares their tokens."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="tiny")
    parser.add_argument("--device")
    parser.add_argument("--canvases", type=int, default=32)
    parser.add_argument("--length", type=int, default=64, help="open positions of each")
    parser.add_argument("--steps", type=int, help="default: one for each open position")
    parser.add_argument(
        "--block_length",
        type=int,
        help="default: a quarter of the hole (LLaDA's settings have blocks)",
    )
    parser.add_argument(
        "--caches", action="store_true", help="compare remembering with running whole rows"
    )
    args = parser.parse_args()
    model = load_model(args.model, **({"device": args.device} if args.device else {}))
    steps, block = args.steps or args.length, args.block_length or max(1, args.length // 4)
    questions = [
        f"Question: Carl has {i} stamps. He gives {i // 2} of them to Hana. How many stamps does Carl have?\nAnswer:"
        for i in range(args.canvases)
    ]
    start = [model.bos_id] if model.bos_id is not None and model.needs_bos else []
    canvases = [
        Canvas.completion(start + model.encode(question), args.length) for question in questions
    ]
    if args.caches:
        full = {
            "pretrained": str(packaged_asset("tiny")),
            "dtype": "float32",
            "attention": "block",
            "block_length": 32,
            "probe": False,
        }
        blockwise = model if model.block_length else load_model("generic", **full)
        caches(model, blockwise, canvases, args.block_length or 32)
        return
    # the first call of a process is slow
    model.logits(torch.tensor([canvases[0].tokens]).clamp(min=0).to(model.device))
    ways: dict[str, Callable[[], tuple[Tokens, int]]] = {
        "naive": lambda: plain(model, canvases, steps, block, 1),
        "batched": lambda: plain(model, canvases, steps, block, len(canvases)),
        "exact": lambda: exact(model, canvases, steps, block),
    }
    print(
        f"{model.name}: {len(canvases)} canvases, {args.length} open positions, {steps} steps, blocks of {block}"
    )
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
