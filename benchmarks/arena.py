"""The arena: decoders, budgets and caches on one model, under one loop and the same random numbers.

    python benchmarks/arena.py -o results/arena [--model tiny] [--tasks demo_word_problem] [--limit 60]
        [--templates YAML ...] [--prior FILE] [--only NAME ...]

It runs `dlm-eval sweep` (docs/guides/sweep.md) over the grids below and prints the table as Markdown:
accuracy with its paired difference to the one-token decoder, forwards and computed positions a
document, and who is on which Pareto front. Further options of `sweep` follow a `--`.
"""

from __future__ import annotations

import argparse
import csv
import json
import sys
from itertools import islice
from pathlib import Path

from dlm_eval import load_model
from dlm_eval.cli import main as dlm_eval
from dlm_eval.decoding.token_prior import count_tokens

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "scripts"))
from tiny_text import training_documents  # noqa: E402

TEXTS = 5000  # of the prior
# name -> words of one --decode; each varies what its authors trade for speed
GRIDS: dict[str, list[str]] = {
    "confidence": ["strategy=confidence", "steps=4,8,16"],
    "random": ["strategy=random", "steps=8,16"],
    "threshold": ["strategy=threshold", "threshold=0.5,0.7,0.9"],
    "factor": ["strategy=factor", "factor=0.5,1.0"],
    "frechet": ["strategy=frechet", "frechet_margin=0.02,0.25"],
    "entropy_bound": ["strategy=entropy_bound", "entropy_bound=0.1,0.5"],
    "klass": ["strategy=klass", "conf_threshold=0.6,0.9"],
    "pc_sampler": ["strategy=pc_sampler", "lambd=0.25", "alpha=10", "steps=8,16", "prior=PRIOR"],
    "credit": ["strategy=credit", "threshold=0.7,0.9"],
    "hierarchy": ["strategy=hierarchy", "low_threshold=0.3,0.6"],
    "prophet": ["strategy=prophet", "answer_start=0,8"],
    "slowfast": ["strategy=slowfast", "k_exploration_steps=2,6"],
    "adablock": ["strategy=adablock", "init_block_length=8", "threshold=0.7,0.9"],
    "multi_block": ["strategy=multi_block", "block_size=8", "threshold=0.1,0.5"],
    "wino": ["strategy=wino", "threshold=0.6,0.8"],
    "localleap": ["strategy=localleap", "threshold=0.7,0.9"],
    "less": ["strategy=less", "conf_threshold=0.5,0.75"],
    "saber": ["strategy=saber", "n=1,2"],
    "d2f": ["strategy=d2f", "block_size=8", "skip_threshold=0.7,0.9"],
    "freedave": ["strategy=freedave", "draft_steps=4"],
    "blocks": ["strategy=confidence", "block_length=8", "cache=none,prefix,dual"],
    "dllm_cache": [
        "strategy=confidence", "cache=dllm", "prompt_interval_steps=8", "gen_interval_steps=4",
        "transfer_ratio=0.1,0.25",
    ],
    "dkv_cache": ["strategy=confidence", "cache=dkv", "cache_steps=2,8"],
    "d2_cache": ["strategy=confidence", "cache=d2", "current_k=4,16"],
    "certainty_prior": ["strategy=certainty_prior", "cache=none,d2"],
}  # fmt: skip


def prior_of(model: str, output: Path) -> Path:
    """Returns a file with the counts of the model's tokens in texts as `tiny` was trained on."""
    texts = (document.text for document in islice(training_documents(0), TEXTS))
    counts = count_tokens(load_model(model).encode, texts)
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text(json.dumps(counts), encoding="utf-8")
    return output


def markdown(path: Path) -> str:
    """Returns sweep.csv as one table for each task, without points that no document has a score of."""
    with path.open(encoding="utf-8", newline="") as file:
        rows = [row for row in csv.DictReader(file) if not row["template"] and row["value"]]
    lines, task = [], ""
    for row in rows:
        if row["task"] != task:
            task = row["task"]
            lines += [
                f"\n`{task}` ({row['metric']}, {row['samples']} documents):\n",
                "| decoder | score | minus one token per step (95 %) | forwards | computed | fronts |",
                "|---|---|---|---|---|---|",
            ]
        settings = ", ".join(
            f"{key.partition('.')[2]}={value}"
            for key, value in row.items()
            if key.startswith("decode.") and value and key != "decode.prior"
        )
        change = ""
        if row["minus_baseline"]:
            change, low, high = (
                f"{float(row[f'minus_baseline{end}']):+.3f}" for end in ("", "_low", "_high")
            )
            change += f" ({low} to {high})"
        fronts = [
            word
            for word, key in (("forwards", "pareto"), ("computed", "pareto_computed"))
            if row[key] == "true"
        ]
        numbers = [
            f"{float(row[key]):.1f}" if row[key] else ""
            for key in ("forwards_per_sample", "computed_per_sample")
        ]
        score = f"{float(row['value']):.3f}"
        cells = [settings or "one token per step", score, change, *numbers, ", ".join(fronts)]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> int:
    """Runs the sweep and prints its table."""
    own, further = sys.argv[1:], list[str]()
    if "--" in own:
        own, further = own[: own.index("--")], own[own.index("--") + 1 :]
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("-o", "--output_path", type=Path, required=True)
    parser.add_argument("--model", default="tiny")
    parser.add_argument("--tasks", nargs="+", default=["demo_word_problem"])
    parser.add_argument("--templates", nargs="+", default=[])
    parser.add_argument("--limit", default="60")
    parser.add_argument(
        "--prior", type=Path, help="token counts for pc_sampler; default: of texts as tiny learned"
    )
    parser.add_argument("--only", nargs="+", choices=list(GRIDS), default=list(GRIDS))
    given = parser.parse_args(own)
    prior = given.prior or prior_of(given.model, given.output_path / "prior.json")
    words = ["sweep", "--model", given.model, "--tasks", *given.tasks, "--limit", given.limit]
    if given.templates:
        words += ["--templates", *given.templates]
    for name in given.only:
        words += ["--decode", *(word.replace("PRIOR", str(prior)) for word in GRIDS[name])]
    code = dlm_eval([*words, "-o", str(given.output_path), *further])
    print(markdown(given.output_path / "sweep.csv"))
    return code


if __name__ == "__main__":
    raise SystemExit(main())
