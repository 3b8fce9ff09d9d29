"""Quality against steps under the halting criteria of DDLM (Vaina et al. 2024): what stopping early saves, and what it costs.

    python scripts/train_ddlm.py --out ddlm
    python benchmarks/halting.py --pretrained ddlm --steps 100 --canvases 64 --out halting

Fills the last sentence of generated stories that training never saw. Writes OUT.csv and OUT.png: for every criterion and threshold the mean
exit step, the share of tokens that equal those of the full run, the share of canvases that equal it, and the negative log-likelihood per token
of prompt and filling under an autoregressive judge (`tiny-ar`, nats; the story's own last sentence is the dashed line).
"""

from __future__ import annotations

import argparse
import csv
import itertools
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import LlamaForCausalLM

from dlm_eval.canvas import Canvas, Filling
from dlm_eval.decoding import fill
from dlm_eval.models import load_model, packaged_asset

GRID: dict[str, tuple[float, ...]] = {
    "entropy": (2.0, 1.0, 0.5, 0.2, 0.1, 0.05, 0.02),
    "kl": (0.1, 0.03, 0.01, 0.003, 0.001, 0.0003),
    "patience": (2, 4, 8, 16, 32),
    "fixed": (0.1, 0.2, 0.3, 0.4, 0.6, 0.8),  # shares of the steps
}


@dataclass(frozen=True)
class Point:
    """One criterion at one threshold."""

    rule: str
    threshold: float
    steps: float
    same_tokens: float
    same_canvases: float
    judge_nll: float


def stories(model: Any, count: int) -> tuple[list[Canvas], list[list[int]]]:
    """Returns canvases whose hole is the last sentence of a held-out story, and the sentences themselves."""
    sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "scripts"))
    from tiny_text import held_out_documents

    canvases, truths = [], []
    for number, story in enumerate(itertools.islice(held_out_documents("story", 0), count)):
        *told, last = story.parts["sentences"]
        truth = model.encode(" " + last)
        prompt = [model.bos_id, *model.encode(" ".join(told))]
        canvases.append(
            Canvas.infill(prompt, len(truth), [model.eos_ids[0]], key=f"story-{number}")
        )
        truths.append(truth)
    return canvases, truths


@torch.inference_mode()
def judge_nll(judge: Any, canvases: list[Canvas], tokens: list[list[int]]) -> float:
    """Returns the judge's mean negative log-likelihood per token of the fillings, given what stands before them (nats)."""
    nats = []
    for canvas, written in zip(canvases, tokens, strict=True):
        row, at = torch.tensor(canvas.tokens), torch.tensor(canvas.open_positions)
        row[at] = torch.tensor(written)
        logs = judge(row[None]).logits[0].float().log_softmax(-1)
        nats.append(-logs[at - 1, row[at]])
    return float(torch.cat(nats).mean())


def measure(
    rule: str, threshold: float, fillings: list[Filling], full: list[Filling], nll: float
) -> Point:
    """Returns the point of one run, compared with the run of all steps."""
    same = [np.equal(one.tokens, other.tokens) for one, other in zip(fillings, full, strict=True)]
    steps = float(np.mean([filling.steps for filling in fillings]))
    return Point(
        rule,
        threshold,
        steps,
        float(np.concatenate(same).mean()),
        float(np.mean([s.all() for s in same])),
        nll,
    )


def draw(points: list[Point], truth_nll: float, file: Path) -> None:
    """Draws agreement and the judge's opinion against the mean exit step."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 4))
    for rule in GRID:
        own = sorted((p for p in points if p.rule == rule), key=lambda p: p.steps)
        left.plot([p.steps for p in own], [p.same_tokens for p in own], marker="o", label=rule)
        right.plot([p.steps for p in own], [p.judge_nll for p in own], marker="o", label=rule)
    full = next(p for p in points if p.rule == "none")
    for axis, value, label in (
        (left, full.same_tokens, "tokens equal to the full run"),
        (right, full.judge_nll, "judge: nats per token"),
    ):
        axis.plot(
            [full.steps],
            [value],
            marker="*",
            markersize=12,
            linestyle="none",
            color="black",
            label="all steps",
        )
        axis.set(xlabel="mean steps", ylabel=label)
    right.axhline(truth_nll, linestyle="dashed", color="grey")
    left.legend()
    figure.tight_layout()
    figure.savefig(file, dpi=120)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--pretrained", required=True)
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--canvases", type=int, default=64)
    parser.add_argument("--out", type=Path, default=Path("halting"))
    args = parser.parse_args()
    model: Any = load_model("ddlm", pretrained=args.pretrained, dtype="float32")
    judge = LlamaForCausalLM.from_pretrained(packaged_asset("tiny-ar"), dtype=torch.float32).eval()
    canvases, truths = stories(model, args.canvases)
    full = fill(model, canvases, steps=args.steps)

    def point(rule: str, threshold: float, fillings: list[Filling]) -> Point:
        nll = judge_nll(judge, canvases, [list(filling.tokens) for filling in fillings])
        found = measure(rule, threshold, fillings, full, nll)
        print(
            f"{rule:9} {threshold:8g}  steps {found.steps:6.1f}  same tokens {found.same_tokens:.3f}  judge {nll:.3f}",
            flush=True,
        )
        return found

    points = [point("none", 0.0, full)]
    for rule, thresholds in GRID.items():
        for value in thresholds:
            threshold = max(1, round(value * args.steps)) if rule == "fixed" else value
            points.append(
                point(
                    rule,
                    threshold,
                    fill(model, canvases, steps=args.steps, halt=rule, halt_threshold=threshold),
                )
            )
    truth_nll = judge_nll(judge, canvases, truths)
    print(
        f"the stories' own endings: judge {truth_nll:.3f}; right endings in the full run: "
        f"{np.mean([list(f.tokens) == t for f, t in zip(full, truths, strict=True)]):.3f}"
    )
    with args.out.with_suffix(".csv").open("w", newline="") as stream:
        writer = csv.DictWriter(stream, list(asdict(points[0])))
        writer.writeheader()
        writer.writerows(asdict(p) for p in points)
    draw(points, truth_nll, args.out.with_suffix(".png"))


if __name__ == "__main__":
    main()
