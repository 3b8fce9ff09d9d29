"""How wide is the bracket of a block's likelihood, and what does it cost?

    python benchmarks/brackets.py --blocks 4 --estimators "chain,permutations=1;mask_count,max_forwards=64"

Blocks of a model's positions, from held-out documents of the kind that `tiny` was trained on, are
scored without context, as the zero-shot suites score theirs. Nats per token, means over the blocks:
the estimate, its standard error within a block (reported), the multi-sample lower and the tangent
upper bound, and the ends of `bracket`.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

from dlm_eval import Canvas, load_model, score
from dlm_eval.canvas import Score

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "scripts"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", default="tiny")
    parser.add_argument("--length", type=int, help="tokens of a block; default: the model's")
    parser.add_argument("--blocks", type=int, default=4)
    parser.add_argument(
        "--estimators",
        default="chain,permutations=1;chain,permutations=2;chain,permutations=4;mask_count,max_forwards=64",
    )
    args = parser.parse_args()
    model = load_model(args.model, dtype="float32", device="cpu")
    length = args.length or model.max_length
    from tiny_text import held_out_documents

    ids: list[int] = []
    sources = [held_out_documents(family, seed=1) for family in ("story", "problem", "function")]
    while len(ids) < args.blocks * length:
        for source in sources:
            ids += [*model.encode(next(source).text), *model.eos_ids[:1]]
    begin = [model.bos_id] if model.needs_bos else []
    size = length - len(begin)
    canvases = [
        Canvas.continuation(begin, ids[i * size : (i + 1) * size], str(i))
        for i in range(args.blocks)
    ]
    print("| estimator | forwards | seconds | nats | MC stderr | lower | upper | bracket |")
    print("|---|---|---|---|---|---|---|---|")
    for estimator in args.estimators.split(";"):
        begun = time.perf_counter()
        found = score(model, canvases, estimator)
        seconds = (time.perf_counter() - begun) / args.blocks
        rows = sum(one.rows for one in found) / args.blocks
        cells = [
            mean(found, lambda s: s.logprob, size),
            mean(found, lambda s: s.stderr, size),
            mean(found, lambda s: s.lower, size),
            mean(found, lambda s: s.upper, size),
            f"{mean(found, lambda s: s.bracket[0], size)} to {mean(found, lambda s: s.bracket[1], size)}",
        ]
        print(f"| `{estimator}` | {rows:.0f} | {seconds:.0f} | {' | '.join(cells)} |", flush=True)


def mean(found: list[Score], of: object, size: int) -> str:
    values = [of(one) for one in found]  # type: ignore[operator]
    if any(value is None for value in values):
        return "-"
    return f"{sum(values) / len(values) / size:.4f}"


if __name__ == "__main__":
    main()
