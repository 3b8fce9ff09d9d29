"""From loaded tasks to the first and the last job, of MMLU 5-shot (57 tasks) or of one task, with a vocabulary of 126 000.

    python benchmarks/tokenising.py --data_dir DIR --tokenizer NEW_DIR     trains the tokenizer on the data's texts (minutes, once), then measures
    python benchmarks/tokenising.py ... --against CHECKOUT                 and another checkout, in turn
    python benchmarks/tokenising.py ... --limit 20                         documents per task
    python benchmarks/tokenising.py ... --tasks hellaswag                  one large task
    python benchmarks/tokenising.py --memory                               bytes of 100 000 canvases of 1000 tokens

The tokenizer is a byte-level BPE with the regular expression of GPT-2. The model answers nothing: the pool only
takes jobs, and the run ends with the last one. The clock starts when the tasks are loaded. `first job` and `last job` are when the pool gets them,
tokenised, and with their journal keys. Both are wall seconds; processor seconds are those of all threads, up to the last job.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import resource
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")
VOCABULARY = 126_000


def train(data: Path, folder: Path) -> None:
    """Trains the tokenizer on the texts of all JSON lines files below `data`."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=["<eos>", "<mask>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )
    made.train_from_iterator(_texts(data), trainer)
    folder.mkdir(parents=True)
    made.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(
        json.dumps({"eos_token": "<eos>", "mask_token": "<mask>"})
    )
    print(f"a tokenizer of {made.get_vocab_size()} tokens", flush=True)


def _texts(data: Path) -> Iterator[str]:
    for file in sorted(data.rglob("*.jsonl")):
        with file.open(encoding="utf-8", errors="replace") as stream:
            for _, line in zip(range(20_000), stream, strict=False):
                yield line


def measure(data: Path, tokenizer: Path, tasks: list[str], limit: int | None) -> None:
    """Runs tasks up to the last job and prints the times."""
    import torch
    from lm_eval import evaluator
    from transformers import PreTrainedTokenizerFast

    from dlm_eval import evaluate
    from dlm_eval.harness.lm import DiffusionLM
    from dlm_eval.models.wrap import wrap
    from dlm_eval.workers import InProcess

    begin = wall = 0.0

    def start(*args: Any, **kwargs: Any) -> Any:
        nonlocal begin, wall
        begin, wall = time.process_time(), time.perf_counter()
        return plain_evaluate(*args, **kwargs)

    running: list[Any] = []

    def waiting(method: Any) -> Any:
        def asked(self: Any, requests: Any) -> Any:
            if not running:  # a checkout that calls the pool when it has all jobs
                return method(self, requests)
            running[0].close()
            return threading.Event().wait()  # `ran` ends the process

        return asked

    def ran(self: Any, jobs: Any, *_: Any) -> None:
        running.append(jobs)
        first = last = count = tokens = 0
        for job in jobs:
            last = time.perf_counter() - wall
            first, count, tokens = first or last, count + 1, tokens + len(job.canvas)
        processor = time.process_time() - begin
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        print(
            f"first job {first:.1f} s, last job {last:.1f} s ({processor:.1f} s of processor); {count} jobs of {tokens} tokens;"
            f" peak {peak:.2f} GiB; load {os.getloadavg()[0]:.1f}",
            flush=True,
        )
        os._exit(0)

    plain_evaluate, evaluator.evaluate = evaluator.evaluate, start
    for name in ("loglikelihood", "generate_until"):
        setattr(DiffusionLM, name, waiting(getattr(DiffusionLM, name)))
    InProcess.run = ran  # type: ignore[method-assign]
    words = PreTrainedTokenizerFast.from_pretrained(tokenizer)
    table = torch.randn(64, len(words))

    def logits(tokens: torch.Tensor) -> torch.Tensor:
        return table[: tokens.shape[1]] * (1 + 1e-4 * (tokens.sum(1) % 97))[:, None, None]

    model = wrap(
        logits=logits,
        tokenizer=words,
        mask_id=words.mask_token_id,
        max_length=4096,
        fingerprint="bench",
    )
    evaluate(
        model, tasks, num_fewshot=5, limit=limit, data_dir=str(data), estimator="mask_count,max_forwards=1", verbosity="ERROR"
    )  # fmt: skip


def memory() -> None:
    """Prints the memory of 100 000 canvases of 1000 tokens of a vocabulary of 126 000."""
    from dlm_eval import Canvas

    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    kept = [
        Canvas.continuation(list(range(i, i + 990)), list(range(50_000, 50_010)), str(i))
        for i in range(100_000)
    ]
    used = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024
    print(f"{len(kept)} canvases: {used / 1e9:.2f} GB, {used / len(kept) / 1000:.1f} bytes a token")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data_dir", type=Path)
    parser.add_argument("--tokenizer", type=Path, help="a folder; made if it is absent")
    parser.add_argument("--tasks", default="mmlu", help="names, with commas in between")
    parser.add_argument("--limit", type=int)
    parser.add_argument(
        "--against", type=Path, help="another checkout, measured in turn with this one"
    )
    parser.add_argument("--memory", action="store_true")
    args = parser.parse_args()
    logging.disable(logging.WARNING)
    if args.memory:
        memory()
        return
    if not args.tokenizer.is_dir():
        train(args.data_dir, args.tokenizer)
    if args.against is None:
        measure(args.data_dir, args.tokenizer, args.tasks.split(","), args.limit)
        return
    options = [part for part in sys.argv[1:] if part not in ("--against", str(args.against))]
    for checkout in (args.against, Path(__file__).parent.parent):
        print(f"{checkout.name}: ", end="", flush=True)
        paths = {**os.environ, "PYTHONPATH": str(checkout)}
        subprocess.run([sys.executable, __file__, *options], check=True, env=paths)


if __name__ == "__main__":
    main()
