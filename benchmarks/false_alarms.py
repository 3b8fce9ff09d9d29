"""False alarms of `dlm-eval check`: pairs of runs of one configuration under different seeds.

    python benchmarks/false_alarms.py FOLDER [--seeds 40] [--pairs 200] [--alpha 0.01]

Runs `tiny` at temperature 1 under each seed on the same documents (results that are in FOLDER
already are not run again), checks random pairs of the runs against each other, and prints in how
many pairs `check` finds a regression. Each seed is in several pairs. 40 seeds take 15 minutes on
one core that does nothing else.
"""

from __future__ import annotations

import argparse
import random
from collections import Counter
from pathlib import Path

from dlm_eval import evaluate
from dlm_eval.reports.files.baseline import Baseline
from dlm_eval.reports.files.runs import Run, read_run
from dlm_eval.reports.regression.check import check
from dlm_eval.reports.regression.findings import REGRESSION, UNPROVEN
from dlm_eval.reports.regression.rules import Rules

TASKS = ("demo_word_problem", "demo_story_infill", "demo_code_infill")


def run_of_seed(folder: Path, seed: int) -> Run:
    """Returns the run of a seed, from FOLDER if it is there."""
    home = folder / f"seed_{seed}"
    if not list(home.rglob("results_*.json")):
        evaluate(
            "tiny",
            list(TASKS),
            decode={"temperature": 1.0, "steps": 8},
            seed=seed,
            output_path=str(home),
            confirm_run_unsafe_code=True,
        )
    return read_run(home)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seeds", type=int, default=40)
    parser.add_argument("--pairs", type=int, default=200)
    parser.add_argument("--alpha", type=float, default=0.01)
    args = parser.parse_args()
    runs = [run_of_seed(args.folder, seed) for seed in range(args.seeds)]
    pairs = [(a, b) for a in range(args.seeds) for b in range(args.seeds) if a != b]
    random.Random(0).shuffle(pairs)
    found: Counter[str] = Counter()
    tests = alarms = 0
    for first, second in pairs[: args.pairs]:
        report = check(runs[second], Baseline(runs[first]), Rules(alpha=args.alpha))
        found.update({finding.kind for finding in report.findings})
        tests += len(report.tasks)
        alarms += sum(task.p <= args.alpha for task in report.tasks)
    print(f"pairs: {min(args.pairs, len(pairs))} of {args.seeds} seeds, alpha {args.alpha}")
    print(f"pairs with a regression: {found[REGRESSION]}, unproven: {found[UNPROVEN]}")
    print(f"tasks called harmed after Holm's correction: {alarms} of {tests}")


if __name__ == "__main__":
    main()
