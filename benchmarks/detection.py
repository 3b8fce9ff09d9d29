"""How often `dlm-eval check` finds that one run is worse than another, and false alarms.

    python benchmarks/detection.py RUN WORSE [--samples 1000] [--swaps 200] [--alpha 0.01]

Both runs have samples files of the same documents. Prints, for the first metric of each task that
both have: in how many bootstrap samples of the documents the harm is significant; and in how many
of `swaps` pairs without difference, in which each document's two scores change places by a coin.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from dlm_eval.reports.files.runs import TaskRun, read_run
from dlm_eval.reports.regression.compare import values_of
from dlm_eval.reports.regression.statistics import is_binary, p_value


def figures(first: TaskRun, second: TaskRun, args: argparse.Namespace) -> str:
    """Returns the two counts of a task as one line."""
    measure = next(iter(first.measures.values()))
    other = second.measures[measure.name]
    keys = [key for key in measure.values if key in other.values]
    left, right = values_of(measure, keys), values_of(other, keys)
    change, binary = (right - left) * measure.sign, is_binary(left, right)

    def harmed(changes: np.ndarray) -> bool:
        return p_value(changes, binary, "less") <= args.alpha

    rng = np.random.default_rng(0)
    drawn = change[rng.integers(len(change), size=(args.samples, len(change)))]
    found = sum(map(harmed, drawn))
    rng = np.random.default_rng(1)
    coins = (rng.choice([-1.0, 1.0], size=len(change)) for _ in range(args.swaps))
    alarms = sum(harmed(change * sign) for sign in coins)
    return (
        f"{first.name} {measure.name}: {left.mean():.4f} -> {right.mean():.4f} on {len(keys)}"
        f" documents; found in {found} of {args.samples} bootstrap samples; alarms in {alarms} of"
        f" {args.swaps} swapped pairs"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path)
    parser.add_argument("worse", type=Path)
    parser.add_argument("--samples", type=int, default=1000)
    parser.add_argument("--swaps", type=int, default=200)
    parser.add_argument("--alpha", type=float, default=0.01)
    args = parser.parse_args()
    first, second = read_run(args.run).tasks, read_run(args.worse).tasks
    for name in first.keys() & second.keys():
        print(figures(first[name], second[name], args))


if __name__ == "__main__":
    main()
