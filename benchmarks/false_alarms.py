"""False alarms of `dlm-eval check`: pairs of runs of one configuration under different seeds.

    python benchmarks/false_alarms.py FOLDER [--seeds 40] [--pairs 200] [--alpha 0.01]

Runs `tiny` at temperature 1 under each seed on the same documents (results that are in FOLDER
already are not run again), checks random pairs of the runs against each other, and prints in how
many pairs `check` finds a regression. Each seed is in several pairs.
"""

from __future__ import annotations

import argparse
from pathlib import Path

TASKS = ("demo_word_problem", "demo_story_infill", "demo_code_infill")


def run_seeds(folder: Path, seeds: int) -> None:
    from dlm_eval import evaluate

    for seed in range(seeds):
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seeds", type=int, default=40)
    parser.add_argument("--pairs", type=int, default=200)
    parser.add_argument("--alpha", type=float, default=0.01)
    args = parser.parse_args()
    run_seeds(args.folder, args.seeds)


if __name__ == "__main__":
    main()
