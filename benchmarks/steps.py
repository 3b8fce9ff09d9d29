"""Processor time of a row-step of decoding beside the model, and of decoding a text.

    python benchmarks/steps.py                       this checkout
    python benchmarks/steps.py --against CHECKOUT    and another one, in turn, three times each
    python benchmarks/steps.py --profile             with the functions that take the time

The network is a table of logits, so that nearly all processor time is the package's: strategy, early exit, batching, engine, reading of logits.
A text is decoded as often as a step finishes a longer one. The tokenizer is a byte-level BPE, made here.
"""

from __future__ import annotations

import argparse
import cProfile
import logging
import os
import pstats
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
import numpy as np
import torch

CANVASES, PROMPT, HOLE = 64, 32, 128
TEXT = "It was the best of times, it was the worst of times, it was the age of wisdom. Überall 你好 and so on.\n"


def tokenizer() -> Any:
    """Returns a small byte-level tokenizer with a mask and an end of text."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=["<eos>", "<mask>"],
        initial_alphabet=alphabet,
        show_progress=False,
    )
    made.train_from_iterator([TEXT], trainer)
    return PreTrainedTokenizerFast(tokenizer_object=made, eos_token="<eos>", mask_token="<mask>")


def measure(profile: bool) -> None:
    """Prints microseconds a row-step outside the network, and a decoded text as a multiple of the library's own."""
    from dlm_eval import Canvas
    from dlm_eval.decoding import fill
    from dlm_eval.engine import Engine
    from dlm_eval.models.wrap import WrappedDenoiser, wrap

    words = tokenizer()
    size = len(words)
    table = torch.randn(PROMPT + HOLE, size, generator=torch.Generator().manual_seed(0))
    table[:, :2] = -20.0  # neither eos nor mask: all steps run
    inside = 0.0

    def logits(tokens: torch.Tensor) -> torch.Tensor:
        return table[: tokens.shape[1]] * (1 + 1e-4 * (tokens.sum(1) % 97))[:, None, None]

    original = WrappedDenoiser.logits

    def timed(self: Any, *args: Any, **kwargs: Any) -> Any:
        nonlocal inside
        begin = time.process_time()
        out = original(self, *args, **kwargs)
        inside += time.process_time() - begin
        return out

    WrappedDenoiser.logits = timed  # type: ignore[method-assign]
    model = wrap(
        logits=logits,
        tokenizer=words,
        mask_id=words.mask_token_id,
        eos_ids=words.eos_token_id,
        fingerprint="bench",
    )
    prompts = [[2 + (i * 7 + j * 3) % (size - 2) for j in range(PROMPT)] for i in range(CANVASES)]
    canvases = [Canvas.completion(prompt, HOLE, str(i)) for i, prompt in enumerate(prompts)]
    settings = {"steps": HOLE, "block_length": 8, "until": ("never written", "\n\n\n\n")}
    fill(model, canvases[:2], "confidence", **settings)
    profiler = cProfile.Profile() if profile else None
    inside = 0.0
    begin = time.process_time()
    if profiler is not None:
        profiler.enable()
    found = fill(model, canvases, "confidence", engine=Engine(model), **settings)
    if profiler is not None:
        profiler.disable()
    total = time.process_time() - begin - inside
    steps = sum(filling.forwards for filling in found)
    ids = words.encode(TEXT * 4, add_special_tokens=False)
    bare = words.backend_tokenizer
    ratio = _best(lambda: model.decode(ids)) / _best(
        lambda: bare.decode(ids, skip_special_tokens=False)
    )
    print(
        f"{total / steps * 1e6:.0f} us a row-step ({steps} row-steps); decode {ratio:.2f} times the bare tokenizer's"
    )
    if profiler is not None:
        pstats.Stats(profiler).sort_stats("tottime").print_stats(35)


def _best(call: Any) -> float:
    times = []
    for _ in range(20):
        begin = time.process_time()
        for _ in range(50):
            call()
        times.append(time.process_time() - begin)
    return float(np.min(times))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--against", type=Path, help="another checkout, measured in turn with this one"
    )
    parser.add_argument("--profile", action="store_true")
    args = parser.parse_args()
    logging.disable(logging.WARNING)
    if args.against is None:
        measure(args.profile)
        return
    for _ in range(3):
        for checkout in (args.against, Path(__file__).parent.parent):
            print(f"{checkout.name}: ", end="", flush=True)
            paths = {**os.environ, "PYTHONPATH": str(checkout)}
            subprocess.run([sys.executable, __file__], check=True, env=paths)


if __name__ == "__main__":
    main()
